"""ClapModel of transformers, with its feature extractor and tokenizer."""

from pathlib import Path

import inputs
import librosa
import numpy as np
import patches
import torch
import transformers
import weights

WINDOW, HOP = 480000, 480


def text_config(*, reduced: bool) -> dict[str, object]:
    """Return roberta-base as ClapModel's published configurations have it."""
    small = {"num_hidden_layers": 2, "vocab_size": 4000} if reduced else {}
    return {"vocab_size": 50265, "layer_norm_eps": 1e-12, "pad_token_id": 1} | small


class Oracle:
    """A model that `write` made, as transformers reads its folder.

    Parameters
    ----------
    folder : Path
        Where the model is written.
    size : {"tiny", "base"}
        Of HTSAT.
    fused : bool
        Feature fusion.
    reduced : bool
        Fewer layers.
    """

    rate, window, suffix, captions, compat = 48000, WINDOW, "", 1000, None
    longest = 512  # of 514 positions; the folder says no other length

    def __init__(self, folder: Path, size: str, *, fused: bool, reduced: bool) -> None:
        self.path, self.fused = folder / "model", fused
        _write(self.path, size, fused=fused, reduced=reduced)
        self.model = transformers.ClapModel.from_pretrained(self.path).eval()
        self.extractor = transformers.ClapFeatureExtractor.from_pretrained(self.path)
        self.tokenizer = transformers.RobertaTokenizer.from_pretrained(self.path)
        self.first_norm = self.model.audio_model.audio_encoder.batch_norm
        self.scale = float(self.model.logit_scale_a.detach().exp())

    def audio(self, clip: np.ndarray, start: int = 0) -> np.ndarray:
        """Return the row of a clip, cropped at `start` where it is cropped.

        The extractor flags a clip at random where none is longer. That is undone: LAION-CLAP,
        whose weights these models hold, does not in evaluation.
        """
        with patches.crop_at(start):
            made = self.extractor([clip], sampling_rate=self.rate, return_tensors="pt")
        longer = self.fused and len(clip) >= WINDOW + HOP
        with torch.no_grad():
            row = self.model.get_audio_features(
                input_features=made["input_features"].float(), is_longer=torch.tensor([[longer]])
            )
        return row.pooler_output[0].numpy()

    def files(self, paths: list[Path]) -> list[np.ndarray]:
        """Return the rows of files, read by librosa as in the examples of transformers."""
        return [self.audio(librosa.load(path, sr=self.rate)[0]) for path in paths]

    def text(self, texts: list[str]) -> np.ndarray:
        """Return the rows of texts."""
        ids = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        )
        with torch.no_grad():
            rows = self.model.get_text_features(
                input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
            )
        return rows.pooler_output.numpy()


def _write(folder: Path, size: str, *, fused: bool, reduced: bool) -> None:
    embed, depth = {"tiny": (96, 6), "base": (128, 12)}[size]
    audio = {
        "patch_embeds_hidden_size": embed,
        "hidden_size": 8 * embed,
        "depths": [2, 2, 2 if reduced else depth, 2],
        "num_attention_heads": [4, 8, 16, 32],
        "enable_fusion": fused,
        "fusion_type": "aff_2d" if fused else None,
    }
    config = transformers.ClapConfig(
        audio_config=audio, text_config=text_config(reduced=reduced), projection_dim=512
    )
    weights.redraw(transformers.ClapModel(config)).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        frequency_min=50,
        frequency_max=14000,
        truncation="fusion" if fused else "rand_trunc",
        padding="repeatpad",
    ).save_pretrained(folder)
    inputs.roberta_tokenizer().save_pretrained(folder)
