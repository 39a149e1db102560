"""One request to one model behind an OpenAI-compatible endpoint: limited, retried, counted.

Knows no judge and no method. `scheduler.RequestScheduler` is the way in.
"""
