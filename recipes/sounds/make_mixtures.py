"""Write mixtures with known onsets, from the held-out recordings of a split, by seed.

    python recipes/sounds/make_mixtures.py sounds.jsonl ../shared/audio mixtures \
        --split heard/fold1 --seed 1

Each mixture is NAME.wav (16 bit) and NAME.jams: an annotation of namespace tag_open with onset,
duration and kind of each event; the recordings, their sources and levels, the background, split and
seed stand in the sandboxes. Recordings are taken from the list of the split alone, so what was
trained without that list has heard none of their sources. Prints counts, and the SHA-256 of all
annotations in order. A folder appears with all of its files or not at all; --force replaces the set
in one.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import re
import wave
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from reclap._types import Samples
from reclap.audio import load
from reclap.audio.mixture import Mixture, Taken
from reclap.audio.mixture_draws import Draws, check_settings, draw_mixture
from reclap.cli.options import check_out
from reclap.errors import ReclapError, one_line
from reclap.io import files, manifest
from reclap.io.manifest import Row

HERE = Path(__file__).parent
KINDS = json.loads((HERE / "kinds.json").read_text("utf-8"))["mixtures"]
COLUMNS = ("id", "kind", "group", "source")
SET = re.compile(r"\d{4,}[ab]?\.(wav|jams)|pairs\.jsonl")  # files of a set
OPTIONS = {"count": "--events", "snr_db": "--snr", "seconds": "--seconds", "rate": "--rate"}


class HeldOut:
    """The recordings of a split that is held out, as a mixture takes them.

    Parameters
    ----------
    rows : sequence of Row
        Of the manifest.
    ids : collection of str
        What is held out.
    rate : int
        Sample rate of the mixtures in Hz.
    """

    def __init__(self, rows: Sequence[Row], ids: Sequence[str], rate: int) -> None:
        listed = set(ids)
        for row in rows:
            if lacking := [name for name in COLUMNS if name not in row.extra]:
                raise ValueError(f"{row.at}: no {', '.join(lacking)}; make_manifest.py writes them")
        self.rows = {row.extra["id"]: row for row in rows if row.extra["id"] in listed}
        if lost := sorted(listed - self.rows.keys()):
            raise ValueError(f"{len(lost)} ids of the split are not in the manifest: {lost[0]}")
        self.rate = rate
        self.load = functools.lru_cache(maxsize=64)(self._load)

    def taken(self, role: Callable[[Row], bool]) -> list[Taken]:
        """Return the recordings of a role, by id."""
        found = sorted(name for name, row in self.rows.items() if role(row))
        return [Taken(i, *(self.rows[i].extra[name] for name in ("kind", "source"))) for i in found]

    def _load(self, taken: Taken) -> Samples:
        return load(self.rows[taken.id].sound, self.rate)


def is_event(row: Row) -> bool:
    """Tell whether a recording begins with what sounds: no loop, no window of one."""
    kind, group = row.extra["kind"], row.extra["group"]
    if row.excerpt is not None or kind in KINDS["no events"]:
        return False
    return group in KINDS["event groups"] or kind in KINDS["event kinds"]


def is_background(row: Row) -> bool:
    """Tell whether a recording sounds evenly, without events of its own."""
    return row.extra["kind"] in KINDS["backgrounds"]


def mixtures(
    held: HeldOut, split: str, seed: int, size: int, *, silent: bool = False, **settings: Any
) -> Iterator[tuple[str, Mixture, dict[str, Any]]]:
    """Yield name, mixture and annotations of each mixture of a set."""
    events, backgrounds = held.taken(is_event), [] if silent else held.taken(is_background)
    for index in range(size):
        draws = Draws("mixture", split, seed, index)
        mixed = draw_mixture(draws, events, backgrounds, held.load, rate=held.rate, **settings)
        name = f"{index:04d}"
        yield name, mixed, mixed.to_jams(name, split=split, seed=seed, index=index)


def write_wav(path: Path, samples: Samples, rate: int) -> None:
    """Write samples as 16 bits."""
    with files.atomic(path) as f, wave.open(f, "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes(np.rint(samples * 32767.0).astype("<i2").tobytes())


def to_text(annotations: dict[str, Any]) -> str:
    """Return annotations as they stand in a file."""
    return json.dumps(annotations, indent=1) + "\n"


def write(folder: Path, name: str, mixed: Mixture, annotations: dict[str, Any]) -> None:
    """Write a mixture and its annotations."""
    write_wav(folder / f"{name}.wav", mixed.samples, mixed.rate)
    files.write_text(folder / f"{name}.jams", to_text(annotations))


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line, as those of the commands."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help)\n")


def options(description: str) -> Parser:
    """Return a parser of what sets of mixtures and of pairs have in common."""
    parser = Parser(description=description)
    parser.add_argument("manifest", type=Path, help="what make_manifest.py wrote")
    parser.add_argument("audio", type=Path, help="folder of the recordings")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--split", required=True, help="list of held-out ids, such as heard/fold1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200, help="how many, by default 200")
    parser.add_argument("--rate", type=int, default=32000, help="Hz, by default 32000")
    parser.add_argument("--seconds", type=float, default=10.0, help="by default 10")
    parser.add_argument("--force", action="store_true", help="replace the set in the folder")
    return parser


def check_options(arguments: argparse.Namespace, **settings: Any) -> None:
    """Refuse options by which there is no set, before anything is read or written."""
    if arguments.count < 1:
        raise ValueError(f"--count: expected at least 1, got {arguments.count}")
    try:
        check_settings(rate=arguments.rate, seconds=arguments.seconds, **settings)
    except ValueError as error:
        name, _, expected = str(error).partition(":")
        raise ValueError(f"{OPTIONS[name]}:{expected}") from None
    splits = sorted((HERE / "splits").glob("*/*.txt"))
    known = [path.relative_to(HERE / "splits").with_suffix("").as_posix() for path in splits]
    if arguments.split not in known:
        raise ValueError(f"--split: expected one of {', '.join(known)}, got {arguments.split!r}")
    check_out(arguments.out, arguments.force, folder=True)
    if arguments.out.exists():
        for path in arguments.out.iterdir():
            if not SET.fullmatch(path.name):
                raise FileExistsError(f"{path}: of no set, whose folder would be replaced")


def held_out(arguments: argparse.Namespace) -> HeldOut:
    """Return the recordings that the arguments name."""
    path = HERE / "splits" / f"{arguments.split}.txt"
    rows = manifest.read(arguments.manifest, arguments.audio)
    return HeldOut(rows, path.read_text("utf-8").splitlines(), arguments.rate)


@contextlib.contextmanager
def new_set(out: Path) -> Iterator[Path]:
    """Yield a temporary folder, whose files become those of `out` when the block succeeds."""
    with files.private_folder(out.resolve().parent) as folder:
        yield folder
        out.mkdir(exist_ok=True)
        for old in out.iterdir():
            if SET.fullmatch(old.name):
                old.unlink()
        for new in sorted(folder.iterdir()):
            new.rename(out / new.name)


@contextlib.contextmanager
def one_line_errors(parser: Parser) -> Iterator[None]:
    """Tell what is wrong with a request in one line on standard error, with status 2."""
    try:
        yield
    except (OSError, ReclapError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {one_line(error)}\n")


def main() -> None:
    """Run the script."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, nargs=2, default=(1, 4), metavar=("FROM", "TO"))
    parser.add_argument("--snr", type=float, nargs=2, default=(0.0, 20.0), metavar=("FROM", "TO"))
    parser.add_argument("--overlap", action="store_true", help="events may overlap")
    parser.add_argument("--no-background", action="store_true", help="silence behind the events")
    with one_line_errors(parser):
        print(json.dumps(make(parser.parse_args()), indent=1))


def make(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the set that the arguments describe, and return its counts."""
    settings = {
        "count": tuple(arguments.events),
        "snr_db": tuple(arguments.snr),
        "overlap": arguments.overlap,
    }
    check_options(arguments, **settings)
    settings |= {"seconds": arguments.seconds, "silent": arguments.no_background}
    digest, kinds, behind = hashlib.sha256(), Counter(), Counter()
    about = (arguments.split, arguments.seed, arguments.count)
    made = mixtures(held_out(arguments), *about, **settings)
    with new_set(arguments.out) as folder:
        for name, mixed, annotations in made:
            write(folder, name, mixed, annotations)
            digest.update(to_text(annotations).encode())
            kinds.update(event.kind for event in mixed.events)
            behind.update([mixed.background.kind] if mixed.background else [])
    counts = {"mixtures": arguments.count, "events": kinds.total(), "sha256": digest.hexdigest()}
    return counts | {
        "kinds": dict(sorted(kinds.items())),
        "backgrounds": dict(sorted(behind.items())),
    }


if __name__ == "__main__":
    main()
