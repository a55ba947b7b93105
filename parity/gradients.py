"""Gradients of ReCLAP at full size beside PyTorch's in float64.

    parity/run gradients [--small]

HTSAT-base with fusion and flan-T5-large. One batch of four clips, two of them longer than the
window, with captions of 5 to 77 tokens, nothing dropped. Of each tensor whose gradient in float64
is longer than 1e-6 of its tower's: the cosine with ours and the relative distance; of the others
(key biases have none) the largest number. Takes about 16 GB of memory, first PyTorch's, then ours.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "benchmarks")]

CLIPS, LENGTHS = 4, (77, 5, 30, 12)
COSINE, BELOW = 0.99999, 1e-6


def configuration(small: bool) -> Any:
    """Return ReCLAP's configuration, nothing dropped; fewer and narrower layers if `small`."""
    from reclap.audio.front import AudioConfig
    from reclap.config import ClapConfig
    from reclap.config.towers import HtsatConfig, TextConfig

    still = {"drop_path": 0.0, "time_stripes": 0, "freq_stripes": 0}
    audio = HtsatConfig(embed=128, depths=(2, 2, 12, 2), fusion=True, **still)
    text = TextConfig.preset("flan-t5-large")
    if small:
        audio = dataclasses.replace(audio, embed=32, depths=(1, 1, 2, 1))
        text = dataclasses.replace(text, layers=2, vocab=1000, width=128, heads=4, mlp=256)
    return ClapConfig(front=AudioConfig(truncation="fusion"), audio=audio, text=text)


def batch(config: Any) -> dict[str, Any]:
    """Return log-mels of all clips, flags of the longer ones, token ids."""
    rng = np.random.default_rng(5)
    shape = (CLIPS, 4, config.front.frames, config.front.mels)
    mel = rng.standard_normal(shape, dtype=np.float32) * 10 - 40
    ids = rng.integers(3, config.text.vocab, sum(LENGTHS)).astype(np.int32)
    first = np.cumsum([0, *LENGTHS]).astype(np.int32)
    return {"mel": mel, "longer": np.array([True, False, False, True]), "ids": ids, "first": first}


def weights(config: Any) -> dict[str, np.ndarray]:
    """Return weights of which every one matters, by our names; the same in every process."""
    import hub_peer

    from reclap.runtime.libraries import core

    found = hub_peer.random_weights(config)
    rng = np.random.default_rng(7)
    for name, shape, kind in core.Model(**config.core_arguments(with_text=True)).parameters():
        if not name.startswith("text_branch."):
            continue
        x = rng.standard_normal(shape, dtype=np.float32)
        if kind == 1 and name.endswith("weight"):
            x = 1 + 0.1 * x
        elif name.endswith("qkv.weight"):  # scores of T5 are not scaled
            x *= shape[1] ** -0.5
            x[: len(x) // 3] *= config.text.width**-0.25
        else:
            x *= shape[-1] ** -0.5 if len(shape) == 2 else 0.1
        found[name] = x
    return found


def of_torch(small: bool, out: Path) -> None:
    """Write PyTorch's loss and gradients in float64 by our names."""
    import test_text_towers
    import torch
    import torch_htsat

    from reclap.checkpoints.families import text_names

    config, values = configuration(small), weights(configuration(small))
    given = batch(config)
    kind = test_text_towers.Kind(test_text_towers.t5, text_names.from_t5, config.text)
    text = {n: x for n, x in values.items() if n.startswith("text_branch.")}
    tower = test_text_towers.with_values(kind, text).double().requires_grad_(True)
    p = {n: torch.tensor(np.float64(x)) for n, x in values.items() if n not in text}
    for name, x in p.items():
        x.requires_grad_("running" not in name)
    ids = np.zeros((CLIPS, 77), np.int64)
    mask = np.zeros((CLIPS, 77), np.int64)
    for i, n in enumerate(LENGTHS):
        at = given["first"][i]
        ids[i, :n], mask[i, :n] = given["ids"][at : at + n], 1
    states = tower(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    features = states.last_hidden_state.mean(1)
    longer = torch.from_numpy(given["longer"])
    loss = torch_htsat.loss(
        p,
        torch.from_numpy(np.float64(given["mel"])),
        features,
        config.audio.to_core(),
        longer=longer,
    )
    loss.backward()
    grads = {n.removeprefix("text_model."): x.grad for n, x in tower.named_parameters()}
    found = {n: x.grad.numpy() for n, x in p.items() if x.grad is not None}
    found |= kind.rename({n: g.numpy() for n, g in grads.items() if g is not None})
    np.savez(out, loss=loss.item(), **{n: np.asarray(x) for n, x in found.items()})


def of_ours(small: bool, threads: int) -> tuple[float, dict[str, np.ndarray]]:
    """Return our loss and gradients by name."""
    from reclap.runtime.libraries import core

    config, values = configuration(small), weights(configuration(small))
    model = core.Model(**config.core_arguments(with_text=True))
    parameters = model.parameters()
    model.bind([np.asarray(values[n], np.float32).reshape(s) for n, s, _ in parameters])
    trainer = core.Trainer(model, threads)
    given = batch(config)
    texts = given["ids"], given["first"]
    loss = trainer.gradients(given["mel"], texts, 0, 0, longer=given["longer"])["loss"]
    named = zip(parameters, trainer.buffers(1), strict=True)
    return loss, {n: np.array(g) for (n, _, kind), g in named if kind != 2 and g is not None}


def compare(want: Any, got: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the worst cosine and distance of each tower, and what is too short to have one."""
    report: dict[str, Any] = {}
    for part in ("audio_branch.", "text_branch.", ""):
        names = [n for n in got if n.startswith(part) and (part or "_branch." not in n)]
        length = {n: float(np.linalg.norm(want[n])) for n in names}
        whole = float(np.sqrt(sum(x * x for x in length.values())))
        rows = []
        for n in names:
            a, b = np.float64(got[n]).ravel(), want[n].ravel()
            if length[n] > BELOW * whole:
                cosine = float(a @ b / np.linalg.norm(a) / length[n])
                rows.append((cosine, float(np.linalg.norm(a - b)) / length[n], n))
        short = [n for n in names if length[n] <= BELOW * whole]
        report[part.strip(".") or "heads"] = {
            "tensors": len(rows),
            "cosine": min(rows)[0],
            "worst": min(rows)[2],
            "distance": max(r[1] for r in rows),
            "short": len(short),
            "short_largest": max((float(np.abs(got[n]).max()) for n in short), default=0.0) / whole,
        }
    return report


def main() -> int:
    """Run the script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--small", action="store_true", help="small towers")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--torch", type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.torch:
        of_torch(args.small, args.torch)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "torch.npz"
        small = ["--small"] if args.small else []
        asked = [sys.executable, __file__, "--torch", str(path), *small]
        subprocess.run(asked, check=True)  # noqa: S603
        loss, got = of_ours(args.small, args.threads)
        with np.load(path) as want:
            report = compare(want, got)
            report["loss"] = [loss, float(want["loss"])]
    print(json.dumps(report, indent=1))
    good = all(x["cosine"] >= COSINE for name, x in report.items() if name != "loss")
    return 0 if good and abs(report["loss"][0] / report["loss"][1] - 1) < 1e-5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
