"""From journals and results to figures that compare: pure functions on what was recorded."""
