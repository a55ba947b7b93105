"""Data sets of recordings: what would stop or bias a run, what splits share, what there is.

``docs/data.md`` tells how to use it.
"""

from reclap.datasets.audit_report import LEAKS, AuditReport, Leak
from reclap.datasets.leaks import audit
from reclap.datasets.recordings import FAULTS, Fault, RecordingsReport, check_recordings
from reclap.datasets.splits import Split, find_splits
from reclap.datasets.statistics import stats
from reclap.datasets.stats_report import Count, StatsReport, TextCount

__all__ = [
    "FAULTS",
    "LEAKS",
    "AuditReport",
    "Count",
    "Fault",
    "Leak",
    "RecordingsReport",
    "Split",
    "StatsReport",
    "TextCount",
    "audit",
    "check_recordings",
    "find_splits",
    "stats",
]
