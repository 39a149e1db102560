"""What a run left behind, read without the trainer."""
