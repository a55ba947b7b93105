"""How fast are the audio towers against other engines, and in other types?

    python benchmarks/bench_audio_tower.py [--threads N] [--rounds N] [--only "HTSAT base"] [--json]

Log-mel in, unit embedding out, clips of 10 s, the same random weights on both sides: HTSAT of
transformers' ClapAudioModelWithProjection and Cnn14 of PyTorch's layers, run by PyTorch, eager and
compiled, by ONNX Runtime and by OpenVINO; bfloat16 and int8 beside float32 of our own; and whole
waveforms, front end included, beside the tower alone on OpenVINO. Every side has a process of its
own. Answers must agree to `TOLERANCE` before anything is timed.
"""

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import cnn14_peer
import common
import engines
import hub_peer
import numpy as np

if TYPE_CHECKING:
    from reclap.config import ClapConfig
    from reclap.model import Model

TOLERANCE = {"float32": 2e-5, "bfloat16": 5e-3, "int8": 2e-2}  # of entries of unit vectors


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: a tower with so many clips, our type, and an engine or a type of ours."""

    tower: str
    clips: int
    peer: str
    dtype: str = "float32"
    waveforms: bool = False

    @property
    def name(self) -> str:
        """What the report calls it."""
        kind = "waveforms" if self.waveforms else "forward"
        return f"{self.tower} {kind}, batch {self.clips}, {self.dtype}"


ROWS = (
    *(Row(t, n, "PyTorch") for t in ("HTSAT tiny", "HTSAT base", "Cnn14") for n in (1, 8)),
    Row("HTSAT base", 8, "torch.compile"),
    Row("HTSAT base", 8, "ONNX Runtime"),
    Row("HTSAT base", 8, "OpenVINO"),
    Row("HTSAT base", 8, "OpenVINO bf16", "bfloat16"),
    Row("HTSAT base", 8, "float32", "bfloat16"),
    Row("HTSAT base", 8, "float32", "int8"),
    Row("HTSAT base", 8, "bfloat16", "int8"),
    Row("HTSAT base", 8, "OpenVINO", waveforms=True),
    Row("HTSAT base", 8, "OpenVINO bf16", "bfloat16", waveforms=True),
)
QUICK = (
    Row("HTSAT tiny", 1, "PyTorch"),
    Row("HTSAT tiny", 1, "OpenVINO"),
    Row("HTSAT tiny", 1, "float32", "int8"),
    Row("HTSAT tiny", 1, "PyTorch", waveforms=True),
    Row("Cnn14", 1, "PyTorch"),
)


def config_of(tower: str) -> "ClapConfig":
    """Return a model with one of the towers."""
    from reclap.config import ClapConfig, Cnn14Config, HtsatConfig

    if tower == "Cnn14":
        return ClapConfig(audio=Cnn14Config())
    return ClapConfig(audio=HtsatConfig.preset(tower.split()[1]))


def make_ours(tower: str, clips: int, dtype: str, threads: int) -> common.Call:
    """Return our tower as a function."""
    from reclap.runtime.libraries import core

    config = config_of(tower)
    model = core.Model(**config.core_arguments(with_text=False))
    model.bind(list(hub_peer.random_weights(config).values()), pack=True, dtype=dtype)
    context, mel = core.Context(threads), hub_peer.log_mels(clips)
    return lambda: model.audio(context, mel)


def waveforms(clips: int, samples: int) -> list[np.ndarray]:
    """Return noise of changing loudness, float32 in about [-1, 1]."""
    swell = 0.1 * (1 + np.sin(np.linspace(0, 6, samples, dtype=np.float32)))
    x = np.random.default_rng(3).standard_normal((clips, samples), dtype=np.float32)
    return list(x * swell)


def make_model(tower: str, dtype: str, threads: int) -> "Model":
    """Return a model with the tower, and no text tower."""
    from reclap.model import Model
    from reclap.model.weights import Weights

    config, where = config_of(tower), Path("random weights")
    values = hub_peer.random_weights(config)
    weights = Weights(
        config, where, lambda wanted: (values[n] for n, _ in wanted), dtype, text=None
    )
    return Model(config, weights, None, where, threads)


def make_whole(tower: str, clips: int, dtype: str, threads: int) -> common.Call:
    """Return everything from waveforms to embeddings as a function."""
    model = make_model(tower, dtype, threads)
    sounds = waveforms(clips, model.config.front.samples)
    return lambda: model.embed_audio(sounds, rate=model.config.front.rate)


def make_peer(tower: str, mel: np.ndarray, engine: str, threads: int) -> common.Call:
    """Return the peer's tower on log-mels as a function."""
    import torch

    config = config_of(tower)
    inner = cnn14_peer.load(config) if tower == "Cnn14" else hub_peer.load(config)

    class Unit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.inner(x) if tower == "Cnn14" else self.inner(x[:, None]).audio_embeds
            return torch.nn.functional.normalize(y, dim=-1)

    return engines.start(engine, Unit(), (torch.from_numpy(mel),), threads)


def run(row: Row, args: argparse.Namespace) -> None:
    """Time one row."""
    if common.lacks(row.name, engines.NEEDS.get(row.peer, ()), args):
        return
    n = args.threads
    begin = functools.partial(common.Peer, threads=n)
    if row.peer in TOLERANCE:
        peer = begin(make_ours, row.tower, row.clips, row.peer, n)
    else:
        mel = hub_peer.log_mels(row.clips)
        if row.waveforms:
            from reclap.audio import log_mel

            front = config_of(row.tower).front
            mel = np.stack([log_mel(x, front) for x in waveforms(row.clips, front.samples)])
        peer = begin(make_peer, row.tower, mel, row.peer, n)
    make = make_whole if row.waveforms else make_ours
    with begin(make, row.tower, row.clips, row.dtype, n) as ours, peer:
        tolerance = TOLERANCE["int8" if "int8" in (row.dtype, row.peer) else row.dtype]
        common.compare(row.name, ours, peer, row.peer, args, tolerance=tolerance, per=row.clips)


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=15, threads=common.processors(), about=__doc__)
    common.header(args)
    for row in QUICK if args.quick else ROWS:
        if args.only in f"{row.name} {row.peer}":
            try:
                run(row, args)
            except RuntimeError as error:  # an engine that cannot run the tower
                common.skip(f"{row.name} ({row.peer})", str(error).splitlines()[0], args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
