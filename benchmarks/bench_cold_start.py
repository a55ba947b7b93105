"""How long is it from nothing to the first answer?

    python benchmarks/bench_cold_start.py [--rounds N] [--json]

A whole process, its start and end included, files in the page cache: `reclap classify` of one
example sound with two labels and the bundled model, against a script with transformers'
zero-shot-audio-classification pipeline and a ClapModel of the same sizes. The models differ, so
that answers cannot be compared; both must name both labels.
"""

import subprocess
import sys
import tempfile
from typing import Any

import common
import hub_folder

LABELS = "dog bark,rain"
SOUND = common.ROOT / "examples" / "sounds" / "rain.ogg"


def answer(folder: str, sound: str) -> None:
    """Do what the peer does, and print what it finds."""
    import soundfile
    import soxr
    from transformers import pipeline

    pipe = pipeline("zero-shot-audio-classification", model=folder, device="cpu")
    samples, rate = soundfile.read(sound, dtype="float32", always_2d=True)
    clip = soxr.resample(samples.mean(axis=1), rate, 48000, quality="HQ")
    print(pipe(clip, candidate_labels=LABELS.split(",")))


def unanswered(*outputs: Any) -> int:
    """Return how many labels are absent from the outputs."""
    return sum(label not in out for out in outputs for label in LABELS.split(","))


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    p = common.parser(__doc__, rounds=7, threads=common.processors())
    p.add_argument("--peer", nargs=2, help="be the peer: folder of the model, sound")
    args = p.parse_args(argv)
    if args.peer:
        answer(*args.peer)
        return 0
    common.header(args)
    if common.lacks("cold start", ("torch", "transformers", "soundfile"), args):
        return 0
    sound, python = str(SOUND), sys.executable
    ours = [python, "-m", "reclap", "classify", sound, "--labels", LABELS, "--no-cache"]
    with tempfile.TemporaryDirectory() as folder:
        make = [python, hub_folder.__file__, folder, "mini"]
        subprocess.run(make, check=True, capture_output=True)  # noqa: S603
        peer = [python, __file__, "--peer", folder, sound]
        sides = (common.Command(ours, PYTHONPATH=str(common.ROOT)), common.Command(peer))
        common.compare("cold start", *sides, "transformers", args, tolerance=0, gap=unanswered)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
