"""How good a model is on a set of problems: asked, graded, and with an interval."""
