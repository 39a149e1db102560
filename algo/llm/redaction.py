r"""Takes an API key out of an error text, in whatever writing a server quotes it.

As it is, JSON- or \u-escaped, percent-encoded, any mixture of these, and in base64, wherever in the
encoded text the key began. Keys of under 12 characters are placeholders (`none`, `test`) and words
of the language: they are left, as no secret is that short. Pure functions; what counts as an error
text is the caller's part.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from typing import Final

SHORTEST_KEY: Final = 12
"""Shorter keys are not looked for."""
# An error message shows a few hundred characters; the rest is room for what is taken out.
_LONGEST: Final = 16_384
# Bytes of one character in its longest writing, escaped twice (`\\\\u0041`).
_WIDEST: Final = 8


def redacted(error: bytes, key: str) -> bytes:
    """The first 16 KB of `error` with `(key)` in place of the key."""
    kept = error[:_LONGEST]
    if len(key) < SHORTEST_KEY:
        return kept
    kept = _writings(key).sub(b"(key)", kept)
    if len(error) > _LONGEST:  # the cut may have left a part of a key
        kept = kept[: -_WIDEST * (len(key) + len("Bearer "))]
    return kept


@lru_cache
def _writings(key: str) -> re.Pattern[bytes]:
    spelled = b"".join(map(_spellings, key.encode()))
    encoded = [_in_base64(key.encode(), offset) for offset in range(3)]
    return re.compile(b"|".join([spelled, *encoded]))


def _spellings(byte: int) -> bytes:
    """One byte of a key, which is ASCII: by its number, as it is, or behind backslashes.

    The number goes first: of `\\u0075`, an escaped `u` is only the beginning.
    """
    digits = b"".join(b"[%c%c]" % (d, ord(chr(d).upper())) for d in b"%02x" % byte)
    return rb"(?:\\+u00%b|%%(?:25)*%b|\\*%b)" % (digits, digits, re.escape(b"%c" % byte))


def _in_base64(key: bytes, offset: int) -> bytes:
    """The key in base64 when it begins `offset` bytes into a group of three.

    The characters that it shares with its neighbours go with it.
    """
    encoded = b64encode(b"\0" * offset + key).rstrip(b"=")
    begins = -(-offset * 8 // 6)
    ends = (offset + len(key)) * 8 // 6
    core = re.escape(encoded[begins:ends])
    either = core.replace(rb"\+", b"[+-]").replace(rb"/", b"[/_]")
    either = either.replace(b"[+-]", rb"(?:[+-]|\\*u002[bB]|%2[bB])")
    either = either.replace(b"[/_]", rb"(?:\\*[/_]|\\*u002[fF]|%2[fF])")
    return rb"[A-Za-z0-9+/_-]?%b[A-Za-z0-9+/_-]?(?:=|%%3[dD]){0,2}" % either
