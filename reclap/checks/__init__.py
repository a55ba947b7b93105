"""Checks of texts that a language model wrote; ``docs/checks.md`` lists them."""

from reclap.checks.bank import check_bank
from reclap.checks.finding import CHECKS, Finding
from reclap.checks.manifest import check_manifest
from reclap.checks.prompts import check_description, check_prompt
from reclap.checks.report import Flagged, Report
from reclap.checks.rewrites import check_rewrite, check_rewrites
from reclap.checks.similarity import Sense, load_sense

__all__ = [
    "CHECKS",
    "Finding",
    "Flagged",
    "Report",
    "Sense",
    "check_bank",
    "check_description",
    "check_manifest",
    "check_prompt",
    "check_rewrite",
    "check_rewrites",
    "load_sense",
]
