"""Loading of models: bundled, by path, or from the Hugging Face hub."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reclap.checkpoints import adapter as adapters
from reclap.checkpoints import hub, model_folder
from reclap.config.ranges import Dtype
from reclap.errors import FormatError
from reclap.io.files import StrPath
from reclap.model.clap import Model
from reclap.model.weights import choose_dtype
from reclap.text.tokenizer import TOKENIZERS, find_tokenizer

if TYPE_CHECKING:
    from reclap.checkpoints.families.detect import Found

__all__ = ["Opening", "load", "locate", "reopen"]


def locate(source: StrPath, revision: str | None = None, *, offline: bool = False) -> Path:
    """Return the path of a model; see `load`."""
    if isinstance(source, str) and hub.is_hub_id(source):
        return hub.locate(source, revision, offline=offline)
    if revision is not None:
        raise ValueError(f"revision: {os.fspath(source)!r} is no hub id")
    return model_folder.resolve(source)


def load(
    source: StrPath = "mini",
    *,
    dtype: Dtype | Literal["auto"] = "float32",
    threads: int | None = None,
    tokenizer: StrPath | None = None,
    compat: Literal["upstream"] | None = None,
    text_activation: Literal["gelu", "quick_gelu"] | None = None,
    adapter: StrPath | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: bool = False,
) -> Model:
    """Load a model.

    Parameters
    ----------
    source : str or path
        ``"mini"``, the bundled model; a model folder; a folder of transformers' ClapModel; a
        file (``.pt``, ``.pth``, ``.ckpt``, ``.bin``, ``.safetensors``) of LAION-CLAP, ReCLAP,
        CompA-CLAP or MS-CLAP; or an id of the Hugging Face hub: ``"hf:org/name"``, or
        ``"hf:org/name:FILE"`` for a file of tensors in it (extra ``hub``). Without ``hf:`` an id is
        announced by a warning, and must not look like a path: see
        `reclap.checkpoints.hub.is_hub_id`. Nothing in a pickled file is run.
    dtype : {"float32", "bfloat16", "int8", "float32x3", "float32x6", "auto"}
        Type of the products inside the towers, see `reclap.model.weights.Weights`; ``"auto"`` takes
        bfloat16 where the processor has instructions for it. Embeddings of different types have
        different digests.
    threads : int, optional
        Most threads of one call; the processors of this process by default.
    tokenizer : path, optional
        For a file that has none beside it: the tokenizer of its text model, as a tokenizer.json, or
        a folder with one or with ``vocab.json`` and ``merges.txt``, ``vocab.txt`` or
        ``spiece.model``. Without any the model embeds sounds, but no text.
    compat : {"upstream"}, optional
        For another project's checkpoint: prepare sounds exactly as its own code does on an
        installation of today, wherever that is deterministic. LAION-CLAP then resamples to the
        lengths that librosa makes, and with fusion shrinks long clips by torchvision's antialiased
        resize; MS-CLAP puts channels one after the other and resamples as torchaudio. Clips that
        upstream crops at random are treated as without.
    text_activation : {"gelu", "quick_gelu"}, optional
        For a file of LAION-CLAP with CLIP's text transformer, which does not tell: "gelu", the
        default, or "quick_gelu" where the tower began as OpenAI's.
    adapter : path, optional
        Low-rank adapter (`reclap.checkpoints.adapter`) that was trained on this model. It is merged
        into the weights, so that the digest is another one.
    revision : str, optional
        Branch, tag or commit of a hub id.
    offline : bool
        Open no network connection; a hub id is looked for in the local cache only. The environment
        variable ``RECLAP_OFFLINE=1`` does the same.
    progress : bool
        Show a progress bar on standard error where reading the weights, or later their digest,
        takes longer than a second. Copies and pickles of the model show none.

    Returns
    -------
    Model
        Embeds sounds and texts, and classifies sounds zero-shot.

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    MissingDependencyError
        For a hub id where the extra is not installed.
    FormatError
        If a file of it is damaged; every missing, unexpected and misshapen tensor is named. If an
        adapter was made for another model.
    ReclapError
        If the hub refuses.
    ValueError
        If an option is out of range, or does not go with this model.

    Notes
    -----
    A model can be pickled and copied, as pools of processes, joblib, Ray and torch's ``DataLoader``
    do. The pickle holds these arguments and the digests; unpickling loads the model again, where
    the source must be found under the same name, and refuses one that has changed.

    Examples
    --------
    >>> import reclap
    >>> reclap.load("mini").embed_text(["rain on a tin roof", "a dog barks"]).shape
    (2, 384)
    """
    given = dict(locals())  # every option, also those of later versions
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected a name or a path, got {type(source).__name__}")
    dtype = choose_dtype(dtype)
    if compat not in (None, "upstream"):
        raise ValueError(f"compat is {compat!r}, expected upstream or None")
    path = locate(source, revision, offline=offline)
    update = None if adapter is None else adapters.load(Path(adapter))
    if model_folder.is_foreign(path):
        from reclap.checkpoints.families import detect  # here, because it takes 40 ms

        found = detect.read(path, compat, text_activation)
        if isinstance(source, str) and hub.is_hub_id(source):
            found = _named(found, source.removeprefix(hub.PREFIX))
        of_text = _tokenizer(tokenizer)
        model = Model._from_foreign(
            path,
            found,
            dtype=dtype,
            threads=threads,
            tokenizer=of_text,
            adapter=update,
            progress=progress,
        )
    elif path.is_dir():
        _refuse_options(path, tokenizer=tokenizer, compat=compat, text_activation=text_activation)
        model = Model._from_folder(
            path, dtype=dtype, threads=threads, adapter=update, progress=progress
        )
    else:
        raise FormatError(f"{path}: expected a model folder or a file of tensors, got another file")
    model._reduced = Opening(given | {"dtype": dtype, "progress": False}, path).reduced
    return model


class Opening:
    """Arguments by which a model was loaded, to load it again in another process or as a copy.

    Parameters
    ----------
    options : dict
        The arguments of `load`.
    path : Path
        Path that was found.
    """

    def __init__(self, options: dict[str, Any], path: Path) -> None:
        source = options["source"]
        if hub.is_hub_id(source):
            options = options | {"source": hub.PREFIX + source.removeprefix(hub.PREFIX)}
        elif path == Path(source):  # no bundled name
            options = options | {"source": str(path.absolute())}
        for name in ("tokenizer", "adapter"):
            if options.get(name) is not None:
                options = options | {name: str(Path(options[name]).absolute())}
        self.options = options

    def load(self) -> Model:
        """Load the model again; a hub id from the local cache, if that holds it."""
        source = self.options["source"]
        if hub.is_hub_id(source) and not self.options["offline"]:
            with contextlib.suppress(FileNotFoundError):
                return load(**self.options | {"offline": True})
        return load(**self.options)

    def reduced(self, digest: str, text_digest: str) -> tuple[Any, ...]:
        """Return the pickled state of a model with these digests."""
        return reopen, (self, digest, text_digest)


def reopen(opening: Opening, digest: str, text_digest: str) -> Model:
    """Load a pickled model again.

    Raises
    ------
    OSError, FormatError, ValueError
        As `load`; FormatError also if the source has changed.
    """
    model = opening.load()
    for what, now, before in (
        ("model", model.digest, digest),
        ("tokenizer", model.text_digest, text_digest),
    ):
        if now != before:
            raise FormatError(
                f"{model.info()['source']}: the {what} has changed since this model was pickled "
                f"or copied: digest {before[:16]} then, {now[:16]} now"
            )
    return model


def _named(found: "Found", name: str) -> "Found":
    """Return a checkpoint under its hub id instead of the name of its file in the cache."""
    return dataclasses.replace(found, config=dataclasses.replace(found.config, name=name))


def _tokenizer(given: StrPath | None) -> Path | None:
    """Return the file of a tokenizer."""
    if given is None or not Path(given).is_dir():
        return None if given is None else Path(given)
    found = find_tokenizer(Path(given))
    if found is None:
        raise FileNotFoundError(f"{os.fspath(given)}: expected one of {', '.join(TOKENIZERS)}")
    return found


def _refuse_options(path: Path, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name}: {path} is a model folder, which determines it")
