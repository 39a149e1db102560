"""Rubric-based on-policy distillation, without a trainer."""
