"""One HTTP attempt: a request's bytes out, a reply read strictly, on a connection that is its own.

`transport.Transport.send` is the way in; what is tried again, and when, is the scheduler's part.
"""
