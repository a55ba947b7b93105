"""Checks of texts that a language model wrote, and of data sets.

``docs/checks.md`` and ``docs/data.md`` list them.
"""

from reclap.checks.audit_report import LEAKS, AuditReport, Leak
from reclap.checks.bank import check_bank
from reclap.checks.finding import CHECKS, Finding
from reclap.checks.leaks import audit
from reclap.checks.manifest import check_manifest
from reclap.checks.prompts import check_description, check_prompt
from reclap.checks.recordings import FAULTS, Fault, RecordingsReport, check_recordings
from reclap.checks.report import Flagged, Report
from reclap.checks.rewrites import check_rewrite, check_rewrites
from reclap.checks.similarity import Sense, load_sense
from reclap.checks.splits import Split, find_splits
from reclap.checks.statistics import stats
from reclap.checks.stats_report import Count, StatsReport, TextCount

__all__ = [
    "CHECKS",
    "FAULTS",
    "LEAKS",
    "AuditReport",
    "Count",
    "Fault",
    "Finding",
    "Flagged",
    "Leak",
    "RecordingsReport",
    "Report",
    "Sense",
    "Split",
    "StatsReport",
    "TextCount",
    "audit",
    "check_bank",
    "check_description",
    "check_manifest",
    "check_prompt",
    "check_recordings",
    "check_rewrite",
    "check_rewrites",
    "find_splits",
    "load_sense",
    "stats",
]
