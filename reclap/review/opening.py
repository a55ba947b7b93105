"""Opening of a review: document, session, checks, neighbours, example sounds, language model."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from reclap.checks import Sense, load_sense
from reclap.io.files import StrPath
from reclap.llm.collect import Sampling
from reclap.llm.session import Session as LlmSession
from reclap.review.api import Review
from reclap.review.checking import Checker
from reclap.review.documents import Document, open_document
from reclap.review.example_sounds import clips_of
from reclap.review.neighbours import Neighbours
from reclap.review.regenerate import regenerator
from reclap.review.session import Session

__all__ = ["open_review"]


@contextlib.contextmanager
def open_review(
    source: StrPath | Document,
    *,
    sense: Sense | None = None,
    clips: StrPath | None = None,
    llm: LlmSession | None = None,
    sampling: Sampling | None = None,
) -> Iterator[Review]:
    """Open a file for review; a context that saves all decisions at its end.

    Parameters
    ----------
    source : path or Document
        A prompt bank (``.json``), or a manifest with rewrites (``.jsonl``); or one that was opened.
    sense : Sense, optional
        Text tower that compares meanings; that of the bundled model by default.
    clips : path, optional
        Example sounds: a folder with a folder for each label, or a manifest.
    llm : reclap.llm.Session, optional
        Language model that `Session.ask_again` asks for another text.
    sampling : reclap.llm.Sampling, optional
        Temperature, seed and attempts of its requests.

    Yields
    ------
    Review
        For `Server` or `Terminal`; ``review.session`` takes decisions.

    Raises
    ------
    FileNotFoundError, FormatError
        If a file is absent, damaged, or holds nothing to review.
    OSError, ReclapError
        If another process reviews the file, or the decisions cannot be saved.

    Examples
    --------
    >>> from reclap import PromptBank
    >>> PromptBank.from_prompts({"dog": ["a dog barks", "a cat meows"]}).save("bank.json")
    >>> with open_review("bank.json") as review:
    ...     review.session.decide([1], "rejected", review.session.revision)
    Decision(changed=[1], revision=1)
    >>> PromptBank.load("bank.json").prompts()
    {'dog': ['a dog barks']}
    """
    document = open_document(source) if isinstance(source, str | os.PathLike) else source
    found = clips_of(document.items, None if clips is None else Path(clips))
    sense = load_sense() if sense is None else sense
    labels = list(dict.fromkeys(item.label for item in document.items))
    ask = None if llm is None else regenerator(llm, sampling or Sampling(), labels, sense)
    session = Session(document, ask=ask, check=Checker(labels, sense).flags)
    with contextlib.closing(session):
        yield Review(session, Neighbours(session, sense.rows), found)
