"""What each type of products costs in quality, against float32.

    python benchmarks/eval_dtypes.py [--model NAME] [--captions N] [--json]

Zero-shot accuracy on the 320 clips of ESC-10 with its ten labels, the share of clips that keep
their label, and the least and mean cosine with float32 of embeddings of the clips and of real
captions. The bundled model was trained on these clips: the figures say what a type changes and not
how well the model hears. Needs the recordings and captions beside the checkout.
"""

import argparse
import json
import sys

import common
import numpy as np
from eval_prompts import LABELS

import reclap
from reclap.config.towers import DTYPES

TEMPLATE = "The sound of {label}."


def read(captions: int) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the clips, the number of each one's label, and so many different captions."""
    rows = common.esc10()
    truth = np.array([list(LABELS).index(row["label"]) for row in rows])
    return [row["path"] for row in rows], truth, list(dict.fromkeys(common.captions()))[:captions]


def embed(model: reclap.Model, clips: list[str], captions: list[str]) -> list[np.ndarray]:
    """Return embeddings of clips, labels and captions."""
    labels = [TEMPLATE.replace("{label}", name.replace("_", " ")) for name in LABELS]
    return [model.embed_audio(clips), model.embed_text(labels), model.embed_text(captions)]


def row_of(dtype: str, got: list[np.ndarray], exact: list[np.ndarray], truth: np.ndarray) -> dict:
    """Return the figures of one type."""
    named, before = (np.argmax(x[0] @ x[1].T, axis=1) for x in (got, exact))
    clips, captions = ((got[i] * exact[i]).sum(axis=1) for i in (0, 2))
    return {
        "dtype": dtype,
        "accuracy": float((named == truth).mean()),
        "same_label": float((named == before).mean()),
        "clips_least": float(clips.min()),
        "clips_mean": float(clips.mean()),
        "captions_least": float(captions.min()),
        "captions_mean": float(captions.mean()),
    }


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="mini", help="a name, a folder or a file")
    p.add_argument("--captions", type=int, default=1000)
    p.add_argument("--threads", type=int, default=common.processors())
    p.add_argument("--json", action="store_true", help="one JSON object a row")
    args = p.parse_args(argv)
    clips, truth, captions = read(args.captions)
    if not clips:
        sys.exit("eval_dtypes: no recordings beside the checkout (or where RECLAP_SHARED says)")
    exact: list[np.ndarray] = []
    common.header(args)
    if not args.json:
        print("| type | accuracy | same label | clips, least (mean) | captions, least (mean) |")
        print("|---|---|---|---|---|")
    for dtype in DTYPES:
        try:
            model = reclap.load(args.model, dtype=dtype, threads=args.threads)
        except reclap.BackendError as error:
            print(f"{dtype}: {error}", file=sys.stderr)
            continue
        got = embed(model, clips, captions)
        exact = exact or got
        row = row_of(dtype, got, exact, truth)
        print(json.dumps(row) if args.json else show(row), flush=True)
    return 0


def show(row: dict) -> str:
    return (
        "| {dtype} | {accuracy:.3f} | {same_label:.3f} | {clips_least:.6f} ({clips_mean:.6f}) "
        "| {captions_least:.5f} ({captions_mean:.5f}) |".format(**row)
    )


if __name__ == "__main__":
    sys.exit(main())
