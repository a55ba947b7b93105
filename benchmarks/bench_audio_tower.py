"""How fast is the audio tower against transformers' ClapAudioModelWithProjection?

    python benchmarks/bench_audio_tower.py [--threads N] [--rounds N] [--only base] [--json]

Log-mel in, unit embedding out: HTSAT tiny and base, 1 and 8 clips of 10 s, float32, the same random
weights on both sides. The answers must agree to 2e-5 before anything is timed.
"""

import common
import hub_peer
import numpy as np

TOLERANCE = 2e-5
CASES = [("tiny", 1), ("tiny", 8), ("base", 1), ("base", 8)]


def make_ours(preset: str, clips: int, threads: int) -> common.Call:
    """Return our tower as a function."""
    from reclap._libraries import core
    from reclap.config import ClapConfig, HtsatConfig

    config = ClapConfig(audio=HtsatConfig.preset(preset))
    model = core.Model(**config.core_arguments(with_text=False))
    model.bind(list(hub_peer.random_weights(config).values()))
    model.pack()
    context, mel = core.Context(threads), hub_peer.pictures(clips)
    return lambda: model.audio(context, mel)


def make_peer(preset: str, clips: int, threads: int) -> common.Call:
    """Return transformers' tower as a function."""
    import torch

    from reclap.config import ClapConfig, HtsatConfig

    torch.set_num_threads(threads)
    model = hub_peer.load(ClapConfig(audio=HtsatConfig.preset(preset))).eval()
    mel = torch.from_numpy(hub_peer.pictures(clips))[:, None]

    def run() -> np.ndarray:
        with torch.inference_mode():
            x = model(input_features=mel).audio_embeds
            return torch.nn.functional.normalize(x, dim=-1).numpy()

    return run


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=15, threads=common.processors(), about=__doc__)
    common.header(args)
    for preset, clips in CASES:
        name = f"HTSAT {preset} forward, batch {clips}"
        if args.only not in name:
            continue
        ours = make_ours(preset, clips, args.threads)
        with common.Peer(make_peer, preset, clips, args.threads, threads=args.threads) as peer:
            gap = common.same(name, ours(), peer(), TOLERANCE)
            a, b = common.alternate(ours, peer, args.rounds)
            memory = {"memory_mb": common.memory(), "peer_memory_mb": peer.memory()}
        common.report(name, a, b, "transformers", args, per=clips, difference=gap, **memory)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
