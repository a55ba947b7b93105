"""Rewriting of captions by a language model: from a manifest to one with rewrites, row by row.

ReCLAP, arXiv 2409.09213, section 3.1: a rewrite keeps the scene and describes how it sounds.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reclap.checks import Sense
from reclap.checks.form import check_injection
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.io.files import StrPath
from reclap.io.manifest import FLAGS, Caption
from reclap.io.settings import Positive, Settings
from reclap.llm import instructions
from reclap.llm.acceptance import rewrite_criterion
from reclap.llm.collect import Collected, Rejected, Sampling, collect
from reclap.llm.parallel import results_of
from reclap.llm.report import Estimate, Item, Report
from reclap.llm.rows import Finished, Rows
from reclap.llm.session import Session
from reclap.llm.step import prompt_tokens
from reclap.runtime import progress as bars

__all__ = ["RewritePlan", "rewrite", "survey"]

_PATHS = ("path", "audio")
_REPLY_TOKENS = 45  # of a rewrite and its key, for the estimate


@dataclasses.dataclass(frozen=True)
class RewritePlan(Settings):
    """Number of rewrites that `rewrite` asks for, and how it asks.

    Parameters
    ----------
    rewrites : int
        Rewrites of each caption, including those that it has already.
    sampling : Sampling
        Temperature, seed and attempts.
    workers : int
        Rows asked for concurrently; the result does not depend on it.

    Examples
    --------
    >>> RewritePlan(rewrites=2).sampling.attempts
    4
    """

    rewrites: Positive = 4
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    workers: Positive = 8


@dataclasses.dataclass(frozen=True)
class _Row:
    """One row of the manifest."""

    at: str
    others: dict[str, Any]  # columns other than captions
    captions: tuple[Caption, ...]
    listed: bool  # captions stand in a list

    def digest(self) -> str:
        """Return the SHA-256 of its content, whatever its line."""
        captions = [_content(c) for c in self.captions]
        text = json.dumps([self.others, captions, self.listed], default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _content(caption: Caption) -> list[Any]:
    """Return what a caption adds to the digest of its row: as before, where it has no more."""
    further = [[*caption.negatives], [*caption.modules]]
    return [caption.text, [*caption.rewrites], *(further if any(further) else [])]


def survey(path: StrPath, plan: RewritePlan, *, small: bool) -> Estimate:
    """Read a manifest once, to estimate the requests and find bad rows.

    Raises
    ------
    FormatError
        Naming file and line.
    """
    rows = texts = requests = tokens = 0
    for row in _rows(Path(path), Path(path).parent):
        rows += 1
        for caption in row.captions:
            wanted = max(0, plan.rewrites - len(caption.rewrites))
            if wanted:
                steps = instructions.rewrite_steps(caption.text, wanted, small=small)
                texts += wanted
                requests += len(steps)
                tokens += prompt_tokens(steps)
    if not rows:
        raise FormatError(f"{os.fspath(path)}: no row")
    return Estimate(rows, texts, requests, tokens, texts * _REPLY_TOKENS)


def rewrite(
    path: StrPath,
    out: StrPath,
    llm: Session,
    plan: RewritePlan | None = None,
    *,
    sense: Sense | None = None,
    force: bool = False,
    progress: bool = False,
) -> Report:
    """Add rewrites to the captions of a manifest.

    Rows are read, asked for and kept a few at a time. A run that was stopped or killed is
    resumed by calling this again; each row is generated once. Finished rows are kept in
    ``OUT.partial``; `out` is written when all are there.

    Parameters
    ----------
    path : path
        A manifest that `reclap.io.manifest.items` reads; rows need no sound.
    out : path
        JSON lines with the columns of the manifest and ``rewrites``, for training. Relative paths
        of sounds are written relative to its folder. A rewrite that passed with a doubt stands in
        the column ``rewrite_flags``, which maps it to the checks' reasons.
    llm : Session
        Session with the language model; from `open_llm`.
    plan : RewritePlan, optional
        How many rewrites, and how to ask.
    sense : Sense, optional
        Lets the checks compare meanings too; see `reclap.checks.load_sense`.
    force : bool
        Replace an existing result or one that was begun.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    Report
        Report on all rows; usage and faults are the session's. Rows for which attempts ran out
        have fewer rewrites and are listed; so are those whose caption speaks to the model.

    Raises
    ------
    FormatError
        Naming file and line of a bad row, before the first request.
    FileExistsError, ReclapError
        If `out` exists, or was begun with other settings or from another manifest.
    StoppedError
        If the budget is spent, the key refused, or the server gone.
    """
    path, out = Path(path), Path(out)
    plan = RewritePlan() if plan is None else plan
    if out.suffix != ".jsonl":
        raise FormatError(f"{out}: expected a name that ends in .jsonl")
    total = survey(path, plan, small=llm.small).items
    provenance = _provenance(path, llm, plan)
    report = Report(provenance)
    rows = _rows(path, out.parent)
    with Rows(out, provenance, force=force) as kept:
        _skip(kept, rows, report)
        results = results_of(
            lambda row: _rewrite_row(llm, plan, row, sense),
            rows,
            llm,
            plan.workers,
            lambda result: result.item.failure,
        )
        shown = bars.bar(total, "row", shown=progress, initial=report.items)
        with shown as bar, contextlib.closing(results):
            for result in results:
                kept.append(result)
                report.add(result.item, result.flagged)
                bar.update()
        kept.finish()
    report.close(llm)
    return report


def _provenance(path: Path, llm: Session, plan: RewritePlan) -> dict[str, Any]:
    return {
        "by": "reclap rewrite",
        "manifest": path.name,
        "model": llm.name,
        "instructions": instructions.VERSION,
        "rewrites": plan.rewrites,
        "temperature": plan.sampling.temperature,
        "attempts": plan.sampling.attempts,
        "small": llm.small,
        "seed": plan.sampling.seed,
    }


def _rows(path: Path, folder: Path) -> Iterator[_Row]:
    """Yield rows whose paths start from `folder`."""
    shared = manifest.SharedCaptions(path.parent)
    for line, item in manifest.items(path):
        at = f"{path}:{line}"
        listed = "captions" in item
        captions = manifest.take_captions(at, item, shared)
        for name in _PATHS:
            if isinstance(item.get(name), str):
                item[name] = _moved(item[name], path.parent, folder)
        yield _Row(at, item, captions, listed)


def _moved(sound: str, old: Path, new: Path) -> str:
    """Return the path of a sound relative to another folder."""
    if Path(sound).is_absolute() or old.resolve() == new.resolve():
        return sound
    return os.path.relpath(old.resolve() / sound, new.resolve())


def _skip(kept: Rows, rows: Iterator[_Row], report: Report) -> None:
    """Skip the finished rows, after comparing their sources."""
    for number, done in enumerate(kept.finished(), 1):
        row = next(rows, None)
        if row is None or row.digest() != done.source:
            raise FormatError(
                f"row {number} of the unfinished rewrites is not that of the manifest"
                f"{'' if row is None else f' ({row.at})'}; --force starts anew"
            )
        report.add(dataclasses.replace(done.item, name=row.at), done.flagged)


def _output(
    row: _Row, rewrites: Sequence[Sequence[str]], flags: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the output of a row."""
    pairs = [
        dataclasses.replace(caption, rewrites=tuple(texts)).columns()
        for caption, texts in zip(row.captions, rewrites, strict=True)
    ]
    before = row.others.get(FLAGS) or {}
    flagged = {FLAGS: {**before, **flags}} if flags else {}
    return {**row.others, **({"captions": pairs} if row.listed else pairs[0]), **flagged}


def _rewrite_row(llm: Session, plan: RewritePlan, row: _Row, sense: Sense | None) -> Finished:
    parts = [_rewrite_caption(llm, plan, caption, sense) for caption in row.captions]
    flags = {a.text: a.flags for part in parts for a in part.accepted if a.flags}
    rewrites = [
        [*caption.rewrites, *(a.text for a in part.accepted)]
        for caption, part in zip(row.captions, parts, strict=True)
    ]
    item = Item(
        row.at,
        wanted=sum(
            part.wanted + len(c.rewrites) for part, c in zip(parts, row.captions, strict=True)
        ),
        accepted=sum(map(len, rewrites)),
        rejected=tuple(rejected for part in parts for rejected in part.rejected),
        failure=next((part.failure for part in parts if part.failure), ""),
    )
    return Finished(row.digest(), _output(row, rewrites, flags), item, len(flags))


def _rewrite_caption(
    llm: Session, plan: RewritePlan, caption: Caption, sense: Sense | None
) -> Collected:
    wanted = max(0, plan.rewrites - len(caption.rewrites))
    if wanted == 0:
        return Collected()
    if doubts := check_injection(caption.text):  # material is never to instruct the model
        llm.faults.add("injection in a caption")
        return Collected(wanted, rejected=[Rejected.of(caption.text, doubts)])
    steps = instructions.rewrite_steps(caption.text, wanted, small=llm.small)
    return collect(
        llm, steps, rewrite_criterion(caption.text, sense), plan.sampling, caption.rewrites
    )
