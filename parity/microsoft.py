"""MS-CLAP's own package."""

import argparse
from pathlib import Path

import inputs
import numpy as np
import patches
import torch
import transformers
import weights
import yaml

TENSORS = {"2023": 357, "2022": 292}


class Oracle:
    """A model as msclap builds it, read from a file in its layout by its own wrapper.

    Parameters
    ----------
    folder : Path
        Where the file is written.
    version : {"2023", "2022"}
        HTSAT and GPT-2, or Cnn14 and BERT.
    compat : str, optional
        "upstream": as ours is loaded.
    reduced : bool
        Fewer layers.
    """

    rate, fused, captions = 44100, False, 1000

    def __init__(
        self, folder: Path, version: str, *, compat: str | None = None, reduced: bool
    ) -> None:
        self.compat = compat
        self.path = folder / f"CLAP_weights_{version}.pth"
        gpt = version == "2023"
        self.tokenizer = inputs.gpt2_tokenizer() if gpt else inputs.bert_tokenizer()
        self.tokenizer.save_pretrained(folder)
        self.window = self.rate * (7 if gpt else 5)
        self.suffix, self.longest = (" <|endoftext|>", 77) if gpt else ("", 100)
        self.tokenizer.encode_plus = self._encode
        tower = _gpt2(reduced=reduced) if gpt else _bert(reduced=reduced)
        wrapper = patches.import_msclap(tower, self.tokenizer)
        if reduced and gpt:
            from msclap.models import config

            config.htsat_depth = [2, 2, 2, 2]
        self._write(wrapper, version, reduced=reduced)
        self.wrapper = wrapper.CLAPWrapper(self.path, version=version)
        self.model = self.wrapper.clap
        base = self.model.audio_encoder.base
        self.first_norm = base.htsat.bn0 if gpt else base.bn0
        self.scale = float(self.model.logit_scale.detach().exp())

    def _encode(self, text: str, **options: object) -> object:
        """Stand for what transformers 5 removed; cut texts that are too long.

        msclap does not cut them: GPT-2 then sees more positions than in training, and a batch of
        texts fails.
        """
        return self.tokenizer(text, truncation=True, **options)

    def _write(self, wrapper: object, version: str, *, reduced: bool) -> None:
        file = Path(wrapper.__file__).parent / "configs" / f"config_{version}.yml"
        args = argparse.Namespace(**yaml.safe_load(file.read_text()))
        model = wrapper.CLAP(
            audioenc_name=args.audioenc_name,
            sample_rate=args.sampling_rate,
            window_size=args.window_size,
            hop_size=args.hop_size,
            mel_bins=args.mel_bins,
            fmin=args.fmin,
            fmax=args.fmax,
            classes_num=args.num_classes,
            out_emb=args.out_emb,
            text_model=args.text_model,
            transformer_embed_dim=args.transformer_embed_dim,
            d_proj=args.d_proj,
        )
        weights.redraw(model)
        if not reduced and len(model.state_dict()) != TENSORS[version]:
            raise ValueError(f"{len(model.state_dict())} tensors, expected {TENSORS[version]}")
        torch.save({"model": model.state_dict()}, self.path)

    def audio(self, clip: np.ndarray, start: int = 0) -> np.ndarray:
        """Return the row of a clip, cropped at `start` where it is cropped."""
        with self._reading(clip), patches.crop_at(start):
            return self.wrapper.get_audio_embeddings(["clip"])[0].numpy()

    def _reading(self, clip: np.ndarray) -> object:
        """Let msclap's reader find a clip at its own rate."""
        found = torch.from_numpy(clip)[None], self.rate
        return patches.mock.patch("torchaudio.load", return_value=found)

    def files(self, paths: list[Path]) -> list[np.ndarray]:
        """Return the rows of files, read and embedded in one call."""
        return list(self.wrapper.get_audio_embeddings([str(p) for p in paths]).numpy())

    def text(self, texts: list[str]) -> np.ndarray:
        """Return the rows of texts."""
        return self.wrapper.get_text_embeddings(texts).numpy()


def _gpt2(*, reduced: bool) -> transformers.GPT2Model:
    small = {"n_layer": 2, "vocab_size": 4000} if reduced else {}
    return transformers.GPT2Model(transformers.GPT2Config(**small))


def _bert(*, reduced: bool) -> transformers.BertModel:
    small = {"num_hidden_layers": 2, "vocab_size": 4000} if reduced else {}
    return transformers.BertModel(transformers.BertConfig(**small))
