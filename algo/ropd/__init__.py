"""The ROPD method: rubrics, blind verification, weighted pass rate, and the journal of judgements.

Nothing here imports verl, Ray or torch; `reward_manager.py` alone is the door to the trainer.
"""
