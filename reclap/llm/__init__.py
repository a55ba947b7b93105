"""Language models: asking them for descriptions and rewrites, and judging what they answer."""

from reclap.llm.connect import open_llm
from reclap.llm.request import LanguageModel, Message, Reply, Request, RequestError, StoppedError

__all__ = [
    "LanguageModel",
    "Message",
    "Reply",
    "Request",
    "RequestError",
    "StoppedError",
    "open_llm",
]
