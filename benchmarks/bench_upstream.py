"""How fast are the packages of LAION-CLAP and MS-CLAP, and ours with the same checkpoint?

    .ci/oracle/bin/python benchmarks/bench_upstream.py [--threads N] [--rounds N] [--clips N]

Files in, embeddings out, through upstream's own call (`get_audio_embedding_from_filelist`,
`get_audio_embeddings`); captions in, embeddings out. Models of random weights, built and saved by
upstream's code as `parity/` does, whose environment (`parity/run` makes it) this needs. Clips of
ESC-10, 5 s each, and as many captions of AudioCaps. Ours reads files as upstream does.
"""

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

import common
import numpy as np
from bench_zero_shot import files

sys.path.append(str(common.ROOT / "parity"))

TOLERANCE = 1e-4  # of unit-length embeddings
ROWS = {
    "LAION-CLAP, HTSAT-base": ("laion", {"audio": "HTSAT-base", "fused": False}),
    "MS-CLAP 2023": ("microsoft", {"version": "2023", "compat": "upstream"}),
}


def captions(count: int) -> list[str]:
    """Return so many different captions."""
    found = common.captions() or [f"a sound of thing number {i}" for i in range(count)]
    return list(dict.fromkeys(found))[:count]


def make_peer(
    folder: str, module: str, arguments: dict, items: list[str], kind: str, threads: int
) -> common.Call:
    """Build and save a model by upstream's code; return its embedding as a function."""
    import torch

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(threads)
    oracle = importlib.import_module(module).Oracle(Path(folder), reduced=False, **arguments)
    oracle.model.eval()

    def run() -> np.ndarray:
        with torch.inference_mode():
            rows = oracle.files([Path(x) for x in items]) if kind == "files" else oracle.text(items)
        return _unit(np.stack(list(rows)))

    return run


def make_ours(
    folder: str, compat: str | None, items: list[str], kind: str, threads: int
) -> common.Call:
    """Return our embedding by the model that was saved there."""
    import reclap

    [path] = [p for p in Path(folder).iterdir() if p.suffix in (".pt", ".pth")]
    model = reclap.load(path, compat=compat, threads=threads)
    embed = model.embed_audio if kind == "files" else model.embed_text
    return lambda: embed(items)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def run(name: str, kind: str, items: list[str], args: argparse.Namespace) -> None:
    """Time one row."""
    module, arguments = ROWS[name]
    n = args.threads
    with tempfile.TemporaryDirectory() as folder:
        peer = common.Peer(make_peer, folder, module, arguments, items, kind, n, threads=n)
        with peer:
            peer()  # now the file is there
            compat = arguments.get("compat")
            with common.Peer(make_ours, folder, compat, items, kind, n, threads=n) as ours:
                how = {"tolerance": TOLERANCE, "per": len(items)}
                common.compare(f"{name}, {kind}", ours, peer, "upstream", args, **how)


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    p = common.parser(__doc__, rounds=3, threads=common.processors())
    p.add_argument("--clips", type=int, default=64)
    args = p.parse_args(argv)
    common.header(args)
    if common.lacks("upstream", ("laion_clap", "msclap", "torch"), args):
        return 0
    for name in ROWS:
        for kind, make in (("files", files), ("captions", captions)):
            if args.only in f"{name}, {kind}":
                run(name, kind, make(args.clips), args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
