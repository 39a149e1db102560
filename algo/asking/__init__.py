"""One question to a model and its answer as a value: fitted, fenced, asked, read.

`query.Judge` asks a `Query` until the reply can be used; `form.Form` makes the usual kind. Knows no
group, no method and no score.
"""
