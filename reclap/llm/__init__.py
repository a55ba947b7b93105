"""Language models: generation of descriptions and rewrites, with acceptance checks."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.llm.cache import Cache
    from reclap.llm.collect import Sampling
    from reclap.llm.connect import open_llm
    from reclap.llm.describe import Plan
    from reclap.llm.report import Report
    from reclap.llm.request import (
        LanguageModel,
        Message,
        Reply,
        Request,
        RequestError,
        StoppedError,
    )
    from reclap.llm.rewrite import RewritePlan
    from reclap.llm.session import Budget, Session

__all__ = [
    "Budget",
    "Cache",
    "LanguageModel",
    "Message",
    "Plan",
    "Reply",
    "Report",
    "Request",
    "RequestError",
    "RewritePlan",
    "Sampling",
    "Session",
    "StoppedError",
    "open_llm",
]

_HOMES = {
    "Budget": "reclap.llm.session",
    "Cache": "reclap.llm.cache",
    "LanguageModel": "reclap.llm.request",
    "Message": "reclap.llm.request",
    "Plan": "reclap.llm.describe",
    "Reply": "reclap.llm.request",
    "Report": "reclap.llm.report",
    "Request": "reclap.llm.request",
    "RequestError": "reclap.llm.request",
    "RewritePlan": "reclap.llm.rewrite",
    "Sampling": "reclap.llm.collect",
    "Session": "reclap.llm.session",
    "StoppedError": "reclap.llm.request",
    "open_llm": "reclap.llm.connect",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
