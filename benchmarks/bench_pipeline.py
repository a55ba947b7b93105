"""What do long files, batches and threads cost, from files to answers?

    python benchmarks/bench_pipeline.py [--rounds N] [--threads N] [--minutes M] [--only TEXT]

Processor time, so that a busy machine tells the same; beside it the clock, which is not. Each row
is the median of N rounds. No peer runs here.

- long file: stereo at 44.1 kHz of M minutes, streamed and, in another process, decoded whole; what
  each adds to the peak memory of a process that has embedded a short clip. Equal embeddings.
- batch: clips in one call of each audio tower, for one of them; what the context adds to memory.
- modes: HTSAT-tiny on 8 clips as one batch on N threads, and as N batches of one thread each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import bench_audio_tower
import common
import hub_peer
import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "examples" / "sounds" / "rain.ogg"
LONG = """
import json, resource, sys, time
import reclap
from reclap.audio import streams

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

if sys.argv[1] == "whole":
    streams.WHOLE = 1 << 40
model = reclap.load("mini", threads=int(sys.argv[2]))
model.embed_audio(sys.argv[3])
before, start = peak(), time.process_time()
row = model.embed_audio(sys.argv[4])
print(json.dumps([time.process_time() - start, peak() - before, row.tolist()]))
"""


def child(*arguments: str) -> list[object]:
    """Run `LONG` and return what it measured."""
    command = [sys.executable, "-c", LONG, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)  # noqa: S603
    return json.loads(done.stdout)


def show(name: str, args: argparse.Namespace, cpu: list[float], **more: float) -> None:
    """Print a row."""
    row = {"cpu_seconds": float(np.median(cpu)), "threads": args.threads, **more}
    if args.json:
        print(json.dumps({"name": name, **row, "machine": common.machine()}), flush=True)
    else:
        text = "   ".join(f"{key} {value:.4g}" for key, value in row.items())
        print(f"{name:34s} {text}", flush=True)


def long_files(args: argparse.Namespace, folder: Path) -> None:
    """Measure memory and time of long files."""
    mono, rate = soundfile.read(SAMPLE, dtype="float32")
    second = np.stack([mono, mono[::-1]], axis=1)[:rate]
    for kind, subtype in (("WAV", "PCM_16"), ("OGG", "VORBIS")):
        path = folder / kind
        with soundfile.SoundFile(path, "w", rate, 2, subtype, format=kind) as out:
            for i in range(60 * args.minutes):
                out.write(np.roll(second, 997 * i, axis=0))
        rows = {}
        for way in ("streamed", "whole"):
            cpu, megabytes, rows[way] = child(way, str(args.threads), str(SAMPLE), str(path))
            show(f"{args.minutes} min {kind}, {way}", args, [cpu], megabytes=megabytes)
        common.same(kind, rows["streamed"], rows["whole"], 1e-6)
        path.unlink()


def modes(args: argparse.Namespace) -> None:
    """Compare chunks of a batch on all threads with a batch for each thread."""
    from reclap.config import ClapConfig, HtsatConfig
    from reclap.runtime.libraries import core

    config = ClapConfig(audio=HtsatConfig.preset("tiny"))
    model = core.Model(**config.core_arguments(with_text=False))
    model.bind(list(hub_peer.random_weights(config).values()), pack=True)
    mel, shared = hub_peer.log_mels(8), core.Context(args.threads)
    alone = [core.Context(1) for _ in range(args.threads)]

    def each() -> None:
        parts = zip(alone, np.array_split(mel, args.threads), strict=True)
        threads = [threading.Thread(target=model.audio, args=part) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ways: dict[str, Callable[[], object]] = {
        "8 clips, one batch": lambda: model.audio(shared, mel),
        "8 clips, a batch for each thread": each,
        "1 clip, all threads": lambda: model.audio(shared, mel[:1]),
        "1 clip, one thread": lambda: model.audio(alone[0], mel[:1]),
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(args.rounds + 1):
        for name, way in ways.items():
            start = time.process_time(), time.perf_counter()
            way()
            spent[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    for name, pairs in spent.items():
        cpu, clock = map(list, zip(*pairs[1:], strict=True))  # without the first: it compiles
        show(name, args, cpu, clock_seconds=float(np.median(clock)))


def resident() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def batches(args: argparse.Namespace) -> None:
    """Measure what larger batches bring and take."""
    from reclap.runtime.libraries import core

    for tower in ("HTSAT tiny", "HTSAT base", "Cnn14")[: 1 if args.quick else None]:
        config = bench_audio_tower.config_of(tower)
        model = core.Model(**config.core_arguments(with_text=False))
        model.bind(list(hub_peer.random_weights(config).values()), pack=True)
        for clips in (1, 4, 8, 16):
            context, mel = core.Context(args.threads), hub_peer.log_mels(clips)
            before, spent = resident(), []
            for _ in range(args.rounds + 1):
                start = time.process_time()
                model.audio(context, mel)
                spent.append((time.process_time() - start) / clips)
            grown = resident() - before
            show(f"{tower}, batch of {clips}, a clip", args, spent[1:], megabytes=grown)
            del context


def main() -> None:
    """Run all rows."""
    p = common.parser(__doc__, rounds=7, threads=2)
    p.add_argument("--minutes", type=int, default=3, help="of the long files")
    args = p.parse_args()
    common.header(args)
    if args.only in "long file":
        with tempfile.TemporaryDirectory() as folder:
            long_files(args, Path(folder))
    if args.only in "batch":
        batches(args)
    if args.only in "modes":
        modes(args)


if __name__ == "__main__":
    main()
