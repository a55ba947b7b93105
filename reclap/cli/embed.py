"""``reclap embed``: write embeddings of sounds or texts."""

import argparse
import contextlib
import dataclasses
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reclap.cli import options
from reclap.cli.files import SUFFIXES
from reclap.cli.options import Commands
from reclap.errors import ReclapError

if TYPE_CHECKING:
    from reclap.model.clap import Model
    from reclap.store import Header, Writer

__all__ = ["add_embed"]

_TEXTS = 256  # texts after which their embeddings are kept


def add_embed(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("embed", help="write one embedding for each sound or text")
    options.add_files(p, nargs="*")
    p.add_argument("--text", nargs="+", default=[], help="texts instead of files")
    p.add_argument("--text-file", type=Path, metavar="TXT", help="one text a line")
    options.add_model(p)
    options.add_window_hop(p)
    p.add_argument(
        "-o",
        "--out",
        type=options.named_path,
        required=True,
        metavar="OUT",
        help="FILE.npz with arrays embeddings (n, dim), items, kind, model, digest, "
        "preparation; or FOLDER.store, to which later calls add; the same command continues after "
        "a kill",
    )
    p.add_argument("--force", action="store_true", help="replace an existing output")
    p.set_defaults(run=_run_embed)


def _run_embed(args: argparse.Namespace) -> int:
    from reclap.retrieval.embeddings import require_short
    from reclap.store import SUFFIX

    _check_out(args)
    texts = _texts_of(args)
    if bool(texts) == bool(args.files):
        raise ReclapError("embed: give either sound files or texts")
    if texts and args.window_hop is not None:
        raise ReclapError("--window-hop: texts have no windows")
    items, faults = (texts, 0) if texts else options.files_of(args)
    if args.out.suffix != SUFFIX:
        require_short(items)
    model = options.load_model(args)
    again = "-" in args.files  # standard input is another sound each time
    kind = "text" if texts else "audio"
    with _writer(args, model, kind, again=again) as writer, _tidy(args.out, writer):
        todo = _missing(items, writer.items)
        if len(todo) < len(items):
            there = len(items) - len(todo)
            print(f"reclap: {there} of {len(items)} were there already", file=sys.stderr)
        if texts:
            _embed_texts(model, todo, writer)
        else:
            faults += _embed_files(model, todo, writer, args)
    if args.out.suffix != SUFFIX:
        _write_archive(args.out, items)
    return int(bool(faults))


def _check_out(args: argparse.Namespace) -> None:
    from reclap.retrieval.embeddings import require_suffix
    from reclap.store import SUFFIX, is_store

    if str(args.out) == "-":
        raise ReclapError("-o -: embeddings do not go to standard output; name an .npz or a .store")
    if not args.out.is_dir():
        require_suffix(args.out)
    there = is_store(args.out) or (args.out.suffix == SUFFIX and args.out.is_dir())
    options.check_out(args.out, args.force or there, folder=there)  # the writer looks into it


def _texts_of(args: argparse.Namespace) -> list[str]:
    from reclap.text.tokenizer import check_texts

    texts = check_texts(args.text, "--text") if args.text else []
    for text in texts:
        if Path(text).suffix.lower() in SUFFIXES and Path(text).is_file():
            raise ReclapError(f"--text: {text} is a sound file; give either sound files or texts")
    if args.text_file is None:
        return texts
    texts += filter(str.strip, options.read_lines(args.text_file))
    if not texts:
        raise ReclapError(f"{args.text_file}: no text")
    return texts


def _partial(out: Path) -> Path:
    """Return the store that holds an archive's rows until it is complete."""
    return out.with_name(out.name + ".partial")


def _writer(args: argparse.Namespace, model: "Model", kind: str, *, again: bool) -> "Writer":
    """Open the store that is the output, or that of an unfinished archive."""
    from reclap.store import SUFFIX, Header, Writer

    header = Header(
        model.digest,
        model.config.dim,
        kind,
        model.config.name,
        preparation=model.preparation(kind, args.window_hop),
    )
    if args.out.suffix == SUFFIX:
        return Writer(args.out, header, force=args.force)
    partial = _partial(args.out)
    return Writer(partial, header, force=again or (args.force and _is_other(partial, header)))


def _is_other(partial: Path, header: "Header") -> bool:
    """Tell whether a store has another header, so that it cannot be continued."""
    from reclap.store import Store, is_store

    return is_store(partial) and Store(partial).header != header


@contextlib.contextmanager
def _tidy(out: Path, writer: "Writer") -> Iterator[None]:
    """Remove the output when nothing was embedded."""
    try:
        yield
    except BaseException:
        if not len(writer) and writer.path == _partial(out):
            shutil.rmtree(writer.path)
        raise


def _missing(items: Sequence[str], there: Iterable[str]) -> list[str]:
    """Return the items that the store lacks, with multiplicity; standard input always."""
    count = Counter(there)
    missing = []
    for item in items:
        if count[item] and item != "-":
            count[item] -= 1
        else:
            missing.append(item)
    return missing


def _embed_texts(model: "Model", texts: list[str], writer: "Writer") -> None:
    from reclap.runtime.progress import bar

    with bar(len(texts), "text", shown=options.is_watched(len(texts))) as shown:
        for start in range(0, len(texts), _TEXTS):
            part = texts[start : start + _TEXTS]
            writer.append(model.embed_text(part), part)
            shown.update(len(part))


def _embed_files(
    model: "Model", files: list[str], writer: "Writer", args: argparse.Namespace
) -> int:
    """Embed files, and return how many were skipped."""
    faults = 0
    watched = options.is_watched(len(files))
    embedded = model.iter_embed(
        files, window_hop=args.window_hop, errors=args.errors, progress=watched
    )
    for found in embedded:
        if found.error is None:
            writer.append(found.row[None], [found.file])
        else:
            print(f"reclap: skipped: {found.error}", file=sys.stderr)
            faults += 1
    return faults


def _write_archive(out: Path, items: Sequence[str]) -> None:
    """Write the archive from its store: the rows of all items that could be embedded."""
    from reclap.retrieval.embeddings import Embeddings

    found = Embeddings.load(_partial(out))
    order = list(_row_indices(items, found.items))
    kept = tuple(found.items[i] for i in order)
    dataclasses.replace(found, rows=found.rows[order], items=kept).save(out)
    shutil.rmtree(_partial(out))


def _row_indices(items: Iterable[str], there: Sequence[str]) -> Iterator[int]:
    """Yield the row index of each item that has one."""
    rows: dict[str, list[int]] = {}
    for i, item in enumerate(there):
        rows.setdefault(item, []).append(i)
    for item in items:
        if rows.get(item):
            yield rows[item].pop()
