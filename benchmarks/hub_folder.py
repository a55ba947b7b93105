"""A ClapModel of random weights in a folder, as transformers' users keep one.

    python benchmarks/hub_folder.py FOLDER {base,mini}

Beside the weights: a feature extractor, and a tokenizer in RoBERTa's manner that was trained on the
labels and captions at hand. `mini` has the sizes of the bundled model, `base` those of LAION-CLAP
with HTSAT-base and RoBERTa.
"""

import sys
from pathlib import Path

import common

LABELS = "labels/ESC50.txt"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BLOCKS = {"base": ((2, 2, 12, 2), (4, 8, 16, 32)), "mini": ((1, 2, 2), (1, 2, 4))}
TEXT = {"base": (768, 12, 12, 3072), "mini": (384, 6, 12, 1536)}


def labels() -> list[str]:
    """Return the 50 labels of ESC-50, or as many numbers where they are not at hand."""
    folder = common.shared()
    if folder is None:
        return [f"sound {i}" for i in range(50)]
    return (folder / LABELS).read_text("utf-8").replace("_", " ").split("\n")[:50]


def _texts() -> list[str]:
    return [*labels(), *common.captions()]


def write(folder: Path, size: str) -> None:
    """Write the folder."""
    import torch
    import transformers as hub
    from tokenizers import ByteLevelBPETokenizer

    (depths, heads), (width, layers, text_heads, mlp) = BLOCKS[size], TEXT[size]
    embed = 128 if size == "base" else 32
    audio = {
        "depths": list(depths),
        "num_attention_heads": list(heads),
        "patch_embeds_hidden_size": embed,
        "hidden_size": embed << (len(depths) - 1),
    }
    text = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": text_heads,
        "intermediate_size": mlp,
        "max_position_embeddings": 514,
    }
    torch.manual_seed(0)
    config = hub.ClapConfig(audio_config=audio, text_config=text, projection_dim=512)
    model = hub.ClapModel(config).eval()
    with torch.no_grad():  # plausible decibels, so that the tower is not flooded
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.fill_(-40), norm.running_var.fill_(400)
    model.save_pretrained(folder)
    hub.ClapFeatureExtractor(
        frequency_min=50, frequency_max=14000, truncation="rand_trunc", padding="repeatpad"
    ).save_pretrained(folder)
    pieces = ByteLevelBPETokenizer(add_prefix_space=False)
    pieces.train_from_iterator(_texts(), vocab_size=8000, special_tokens=SPECIAL)
    pieces.save_model(str(folder))
    tokenizer = hub.RobertaTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
