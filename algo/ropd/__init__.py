"""The ROPD method: rubrics, blind verification, weighted pass rate. `pipeline` is Algorithm 1."""
