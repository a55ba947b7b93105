"""Prompts of labels: banks, strategies that make them, aggregation rules."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.prompts.bank import PromptBank
    from reclap.prompts.combine import RULES
    from reclap.prompts.entries import Description, Entry, Prompt
    from reclap.prompts.strategies import STRATEGIES, make

__all__ = [
    "RULES",
    "STRATEGIES",
    "Description",
    "Entry",
    "Prompt",
    "PromptBank",
    "make",
]

_HOMES = {
    "RULES": "reclap.prompts.combine",
    "STRATEGIES": "reclap.prompts.strategies",
    "Description": "reclap.prompts.entries",
    "Entry": "reclap.prompts.entries",
    "Prompt": "reclap.prompts.entries",
    "PromptBank": "reclap.prompts.bank",
    "make": "reclap.prompts.strategies",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
