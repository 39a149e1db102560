"""What a run left, read without the trainer: metrics, step times, the summary, the model card."""
