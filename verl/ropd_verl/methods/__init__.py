"""Signals that the trainer makes itself: one file a method, no judge, no journal."""
