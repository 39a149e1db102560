"""The ROPD method: rubrics, blind verification, weighted pass rate, probes.

`pipeline` is Algorithm 1. How a model is asked and what the journal keeps is `algo.judge`'s part.
"""
