"""What lets verl train and generate on a CPU."""
