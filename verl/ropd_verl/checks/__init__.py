"""What can be known of a run before Ray starts; `ropd_verl.checks.doctor` lists the checks."""
