"""A tokenizer whose every token is a byte, but for the special ones."""

from __future__ import annotations

from typing import Any

import pytest

tokenizers = pytest.importorskip("tokenizers")

SPECIAL = ("<|im_start|>", "<|im_end|>", "</s>", "<turn|>", "[IMG]", "<extra_token>", "\u2581end")


def byte_tokenizer(
    special: tuple[str, ...] = SPECIAL, plain: tuple[str, ...] = (), **options: Any
) -> Any:
    """A byte-level tokenizer without merges: every text is encoded, byte by byte."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate(alphabet)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.normalizer = options.pop("normalizer", None)
    made.add_special_tokens([tokenizers.AddedToken(text, **options) for text in special])
    made.add_tokens([tokenizers.AddedToken(text, special=False) for text in plain])
    return made
