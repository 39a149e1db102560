"""What ties a reply to its request on the wire, where the server takes part.

Every request carries a code of its own in `X-Request-Id`. vLLM makes the reply's `id` of it, and
many gateways send the header back. A reply that carries the code of another of the client's
requests is the reply to that one. A reply that carries none says nothing: most servers name their
replies themselves.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping
from typing import Final

CODE_HEADER: Final = "X-Request-Id"
# The reply's own `id` is among its first keys; further on is what the model wrote.
_HEAD: Final = 200


class RequestCodes:
    """The codes of one client's requests."""

    def __init__(self) -> None:
        # Drawn anew, so that a reply out of a cache that an earlier run has filled says nothing.
        self._prefix = f"ropd-{secrets.token_hex(8)}-"
        self._numbers = itertools.count()
        code = rf"{self._prefix}\d{{12}}"
        self._in_header = re.compile(code)
        self._in_id = re.compile(rf'"id"\s{{0,9}}:\s{{0,9}}"[\w-]{{0,40}}?({code})'.encode())

    def new(self) -> str:
        return f"{self._prefix}{next(self._numbers):012d}"

    def belongs(self, code: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether a reply may be the one to the request of `code`."""
        found = set(self._in_header.findall(headers.get(CODE_HEADER, "")))
        found.update(each.decode() for each in self._in_id.findall(body[:_HEAD]))
        return found <= {code}
