"""How fast are sounds named end to end, files in and labels out, and in how much memory?

    python benchmarks/bench_zero_shot.py [--threads N] [--rounds N] [--clips N] [--json]

The 320 clips of ESC-10 (5 s, OGG) and the 50 labels of ESC-50, an HTSAT-base model with RoBERTa of
random weights in a folder of transformers, read by both sides: decoding, resampling, log-mel, both
towers, scores. The peers are transformers' zero-shot-audio-classification pipeline, which embeds
the labels anew for each clip, and a loop of its model that embeds labels once and clips in batches
of 8; both decode with soundfile and resample with soxr. Logits of all clips must agree, less their
mean over the labels. Without recordings beside the checkout: the example sounds.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import common
import hub_folder
import numpy as np

# Of logits; cosines are a fourteenth of these.
TOLERANCE = {"float32": 5e-3, "bfloat16": 5e-2, "int8": 0.1}
TEMPLATE = "This is a sound of {}."
RATE = 48000
ROWS = (
    ("pipeline", "float32"),
    ("labels once", "float32"),
    ("pipeline", "bfloat16"),
    ("pipeline", "int8"),
)


def files(count: int) -> list[str]:
    """Return so many clips, of all classes."""
    folder = common.shared()
    found = sorted((folder / "audio" / "esc10").glob("*/*.ogg")) if folder else []
    found = found or sorted((common.ROOT / "examples" / "sounds").glob("*.ogg"))
    return [str(path) for path in found[:: -(-len(found) // count)]]


def make_ours(
    folder: str, clips: list[str], labels: list[str], dtype: str, threads: int
) -> common.Call:
    """Return our zero-shot classification of all clips as a function that returns logits."""
    import reclap

    model = reclap.load(folder, threads=threads, dtype=dtype)
    template = TEMPLATE.replace("{}", "{label}")

    def run() -> np.ndarray:
        found = model.classify(clips, labels, template=template, cache=False)
        return _centred(np.stack([r.scores for r in found]) * model.logit_scale)

    return run


def make_pipeline(folder: str, clips: list[str], labels: list[str], threads: int) -> common.Call:
    """Return transformers' pipeline over all clips as a function that returns logits."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(threads)
    pipe = pipeline("zero-shot-audio-classification", model=folder, device="cpu")

    def one(clip: np.ndarray) -> list[float]:
        found = pipe(clip, candidate_labels=labels, hypothesis_template=TEMPLATE)
        score = {x["label"]: x["score"] for x in found}
        return [score[label] for label in labels]

    return lambda: _centred(np.log([one(clip) for clip in _sounds(clips)]))


def make_loop(folder: str, clips: list[str], labels: list[str], threads: int) -> common.Call:
    """Return a loop over batches, labels embedded once, as a function that returns logits."""
    import torch
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    torch.set_num_threads(threads)
    model = ClapModel.from_pretrained(folder).eval()
    extract = ClapFeatureExtractor.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def unit(out: Any) -> torch.Tensor:
        return torch.nn.functional.normalize(getattr(out, "pooler_output", out), dim=-1)

    def run() -> np.ndarray:
        rows, sounds = [], _sounds(clips)
        with torch.inference_mode():
            prompts = [TEMPLATE.format(label) for label in labels]
            text = unit(
                model.get_text_features(**tokenizer(prompts, padding=True, return_tensors="pt"))
            )
            while batch := [x for _, x in zip(range(8), sounds, strict=False)]:
                given = extract(batch, sampling_rate=RATE, return_tensors="pt")
                rows.append(unit(model.get_audio_features(**given)) @ text.T)
            return _centred((model.logit_scale_a.exp() * torch.cat(rows)).numpy())

    return run


def _sounds(clips: list[str]) -> Iterator[np.ndarray]:
    import soundfile
    import soxr

    for clip in clips:
        samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)
        yield soxr.resample(samples.mean(axis=1), rate, RATE, quality="HQ")


def _centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(axis=1, keepdims=True)


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    p = common.parser(__doc__, rounds=2, threads=common.processors())
    p.add_argument("--clips", type=int, default=320)
    args = p.parse_args(argv)
    common.header(args)
    if common.lacks("zero-shot", ("torch", "transformers", "soundfile"), args):
        return 0
    clips, labels, n = files(4 if args.quick else args.clips), hub_folder.labels(), args.threads
    with tempfile.TemporaryDirectory() as folder:
        size = "mini" if args.quick else "base"
        command = [sys.executable, hub_folder.__file__, folder, size]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        for kind, dtype in ROWS[1:2] if args.quick else ROWS:
            name = f"zero-shot, {len(clips)} clips, {dtype}"
            if args.only not in f"{name} {kind}":
                continue
            ours = common.Peer(make_ours, folder, clips, labels, dtype, n, threads=n)
            make = make_pipeline if kind == "pipeline" else make_loop
            with ours, common.Peer(make, folder, clips, labels, n, threads=n) as peer:
                how = {"tolerance": TOLERANCE[dtype], "per": len(clips)}
                common.compare(name, ours, peer, f"transformers, {kind}", args, **how)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
