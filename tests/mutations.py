"""Damaged copies of model files, and a watch over what reading them sets off."""

import contextlib
import io
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from reclap import pickles
from reclap.checkpoints import model_folder
from reclap.config import TextConfig
from reclap.errors import FormatError
from reclap.text import Tokenizer

# Names of audit events that only running something, or leaving the file, gives.
FORBIDDEN = (
    "import", "exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "code.",
    "marshal.", "pickle.", "builtins.input", "pty.", "webbrowser.", "urllib.", "tempfile.",
)  # fmt: skip
LISTING = ("os.listdir", "os.scandir")  # what else there is, for a message
SLACK = 48 << 20  # bytes: 32 MiB of the reader's budget, and a third for how it rounds

_events: list[str] = []
_watching = False


def _only_reads(mode: str | None, flags: int) -> bool:
    """Return whether an open cannot change a file; os.open has flags instead of a mode."""
    changes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    return mode in ("r", "rb") or (mode is None and not flags & changes)


def _audit(event: str, args: tuple) -> None:
    if not _watching or event in LISTING or (event == "compile" and args[1] == "<unknown>"):
        return  # the last is ast.literal_eval, as NumPy reads headers
    if event.startswith(FORBIDDEN) or (event == "open" and not _only_reads(*args[1:])):
        _events.append(f"{event} {args!r:.200}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Give the list of forbidden events that happen inside."""
    global _watching
    _events.clear()
    _watching = True
    try:
        yield _events
    finally:
        _watching = False


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return a copy with one to four faults, more often near the ends, where formats keep sizes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        near = rng.random()
        at = rng.randrange(len(out)) if out else 0
        if near < 0.3:
            at = rng.randrange(min(len(out), 1500)) if out else 0
        elif near < 0.5:
            at = max(0, len(out) - 1 - rng.randrange(1500))
        _damage(rng, out, at)
    return bytes(out)


def _damage(rng: random.Random, out: bytearray, at: int) -> None:
    n = rng.choice((1, 1, 2, 4, 8, 60))
    match rng.randrange(8):
        case 0 | 1 | 2:
            out[at : at + 1] = bytes([rng.randrange(256)])
        case 3:
            out[at : at + n] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * n
        case 4:
            del out[at : at + n]
        case 5:
            out[at:at] = rng.randbytes(n)
        case 6:
            begin = rng.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + 8 * n]
        case 7 if rng.random() < 0.3:
            del out[at:]
        case _:
            out[at : at + 1] = rng.choice((b"R", b"b", b"c", b"\x93", b"o", b"2", b"0", b"(", b"h"))


def load_pickle(path: Path) -> None:
    """Read everything in a checkpoint, and every byte of its weights."""
    pickles.read(path)
    for array in pickles.state_dict(path).values():
        array.sum()


def load_tensors(path: Path) -> None:
    """Read every byte of a safetensors file."""
    for array in model_folder.read_tensors(path).values():
        array.sum()


def load_config(path: Path) -> None:
    """Read config.json."""
    model_folder.read_config(path.parent)


def load_tokenizer(path: Path) -> None:
    """Read tokenizer.json and use it."""
    Tokenizer(path, TextConfig(max_tokens=32)).encode(["rain on a tin roof", "ein Hund bellt"])


def check(
    path: Path,
    load: Callable[[Path], None],
    data: bytes,
    allowed: tuple[type, ...] = (FormatError,),
    longest: float = float("inf"),
) -> bool:
    """Load `data` from `path`; tell whether that went well, and raise unless it failed cleanly.

    `longest` is in seconds of the processor; a test has no clock but the limit of every test.
    """
    path.write_bytes(data)
    tracemalloc.start()
    began = time.process_time()
    with watched() as events, np.errstate(all="ignore"):
        try:
            load(path)
            error = None
        except allowed as caught:
            error = caught
    spent = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert not events, events
    assert spent < longest, spent
    assert peak < 2 * len(data) + SLACK, peak
    named = error is None or "expected" in str(error) or str(path.parent) in str(error)
    assert named, error
    return error is None


def run(
    path: Path, load: Callable[[Path], None], seeds: list[bytes], count: int, seed: int, **options
) -> int:
    """Check `count` mutations of the seeds; return how many loaded."""
    for data in seeds:
        path.write_bytes(data)
        load(path)  # so that what an honest file imports is imported
        path.unlink()
    fine = 0
    for i in range(count):
        rng = random.Random(f"{seed} {i}")  # noqa: S311
        data = mutate(rng, seeds[i % len(seeds)])
        try:
            fine += check(path, load, data, **options)
        except BaseException as error:
            kept = Path(path.parent, f"failure-{seed}-{i}{path.suffix}")
            kept.write_bytes(data)
            error.add_note(f"mutation {i} of seed {seed}, kept as {kept}")
            raise
    return fine


def torch_files(*, legacy: bool) -> list[bytes]:
    """Return two small checkpoints: with optimizer state and oddities, and a bare state dict."""
    import torch

    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    adam = torch.optim.Adam(net.parameters())
    net(torch.randn(5, 3)).sum().backward()
    adam.step()
    adam.param_groups[0]["lr"] = np.float64(1e-3)
    weights = {f"module.{name}": x for name, x in net.state_dict().items()}
    weights["module.half"] = torch.randn(6).bfloat16()
    weights["module.mask"] = torch.ones(2, 3, dtype=torch.bool).t()
    whole = {"epoch": 3, "state_dict": weights, "optimizer": adam.state_dict(), "x": np.arange(4)}
    return [_saved(x, legacy=legacy) for x in (whole, net.state_dict())]


def _saved(value: object, *, legacy: bool) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()
