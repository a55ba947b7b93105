"""How fast are the audio towers against PyTorch's layers?

    python benchmarks/bench_audio_tower.py [--threads N] [--rounds N] [--only base] [--json]

Log-mel in, unit embedding out, 1 and 8 clips of 10 s, float32, the same random weights on both
sides: HTSAT tiny and base against transformers' ClapAudioModelWithProjection, Cnn14 against its
layers in PyTorch. The answers must agree to 2e-5 before anything is timed.
"""

from typing import TYPE_CHECKING

import cnn14_peer
import common
import hub_peer
import numpy as np

if TYPE_CHECKING:
    from reclap.config import ClapConfig

TOLERANCE = 2e-5
TOWERS = ("HTSAT tiny", "HTSAT base", "Cnn14")
CLIPS = (1, 8)


def config_of(tower: str) -> "ClapConfig":
    """Return a model with one of the towers."""
    from reclap.config import ClapConfig, Cnn14Config, HtsatConfig

    if tower == "Cnn14":
        return ClapConfig(audio=Cnn14Config())
    return ClapConfig(audio=HtsatConfig.preset(tower.split()[1]))


def make_ours(tower: str, clips: int, threads: int) -> common.Call:
    """Return our tower as a function."""
    from reclap._libraries import core

    config = config_of(tower)
    model = core.Model(**config.core_arguments(with_text=False))
    model.bind(list(hub_peer.random_weights(config).values()))
    model.pack()
    context, mel = core.Context(threads), hub_peer.pictures(clips)
    return lambda: model.audio(context, mel)


def make_peer(tower: str, clips: int, threads: int) -> common.Call:
    """Return the peer's tower as a function."""
    import torch

    torch.set_num_threads(threads)
    config, mel = config_of(tower), torch.from_numpy(hub_peer.pictures(clips))
    if tower == "Cnn14":
        model = cnn14_peer.load(config)
    else:
        hub = hub_peer.load(config).eval()

        def model(x: torch.Tensor) -> torch.Tensor:
            return hub(input_features=x[:, None]).audio_embeds

    def run() -> np.ndarray:
        with torch.inference_mode():
            return torch.nn.functional.normalize(model(mel), dim=-1).numpy()

    return run


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=15, threads=common.processors(), about=__doc__)
    common.header(args)
    for tower, clips in [(tower, clips) for tower in TOWERS for clips in CLIPS]:
        name = f"{tower} forward, batch {clips}"
        if args.only not in name:
            continue
        ours = make_ours(tower, clips, args.threads)
        with common.Peer(make_peer, tower, clips, args.threads, threads=args.threads) as peer:
            gap = common.same(name, ours(), peer(), TOLERANCE)
            a, b = common.alternate(ours, peer, args.rounds)
            memory = {"memory_mb": common.memory(), "peer_memory_mb": peer.memory()}
        theirs = "PyTorch" if tower == "Cnn14" else "transformers"
        common.report(name, a, b, theirs, args, per=clips, difference=gap, **memory)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
