"""Whether an answer is right by ground truth: pure rules, no model and no network."""
