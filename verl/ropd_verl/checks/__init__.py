"""What can be known of a run before Ray starts; `ropd_verl.doctor` lists the checks."""
