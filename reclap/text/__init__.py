"""Texts: prompts, tokenizers, vocabularies."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.text.tokenizer import (
        TOKENIZERS,
        Tokenizer,
        check_texts,
        find_tokenizer,
        prompt_of,
    )

__all__ = ["TOKENIZERS", "Tokenizer", "check_texts", "find_tokenizer", "prompt_of"]

_HOMES = dict.fromkeys(__all__, "reclap.text.tokenizer")

__getattr__, __dir__ = exports(__name__, _HOMES)
