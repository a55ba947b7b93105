"""Checks on everything that a language model writes."""

from reclap.checks.finding import CHECKS, Finding
from reclap.checks.prompts import check_description, check_prompt
from reclap.checks.rewrites import check_rewrite, check_rewrites
from reclap.checks.sense import Sense, load_sense

__all__ = [
    "CHECKS",
    "Finding",
    "Sense",
    "check_description",
    "check_prompt",
    "check_rewrite",
    "check_rewrites",
    "load_sense",
]
