"""The embedded default: column addition, a tiny flawed student, and a judge that is a program.

An example, kept apart from the product: `ropd_verl.train` reaches it through the two functions
below, named by `example.hook` in the configuration, and nothing else of it.
"""

from __future__ import annotations

from examples.arithmetic.hook import prepare, serve

__all__ = ["prepare", "serve"]
