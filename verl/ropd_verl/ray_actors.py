"""The one thing Ray has no public way to say: which class an actor class wraps."""

from __future__ import annotations

from typing import Any


def class_behind(actor_class: Any) -> Any:
    """The plain class behind a ``@ray.remote`` class, to inherit from."""
    return actor_class.__ray_metadata__.modified_class
