"""LAION-CLAP's own package; ReCLAP's model of its pieces and transformers' T5."""

from pathlib import Path

import inputs
import numpy as np
import patches
import torch
import transformers
import weights

import reclap
from reclap.checkpoints.families import laion_export

# Tensors of a state dict, from the specification of the released files.
TENSORS = {
    ("HTSAT-tiny", False, "roberta"): 417,
    ("HTSAT-tiny", True, "roberta"): 447,
    ("HTSAT-base", False, "roberta"): 504,
    ("HTSAT-base", True, "roberta"): 534,
    ("HTSAT-tiny", True, "t5"): 468,
    ("HTSAT-base", True, "t5"): 555,
    ("PANN-14", False, "roberta"): 301,
}


class Oracle:
    """A model as laion_clap builds it, read from the file that its training would have saved.

    Parameters
    ----------
    folder : Path
        Where the file is written.
    audio : {"HTSAT-tiny", "HTSAT-base", "PANN-14"}
        The audio tower.
    fused : bool
        Feature fusion.
    text : {"roberta", "t5"}
        The text tower; "t5" is ReCLAP's flan-t5-large.
    compat : str, optional
        "upstream": let torchvision shrink long clips as it does by default since 0.17.
    reduced : bool
        Fewer layers.
    """

    rate, window, suffix, longest = 48000, 480000, "", 77

    def __init__(
        self,
        folder: Path,
        audio: str,
        *,
        fused: bool,
        text: str = "roberta",
        compat: str | None = None,
        reduced: bool,
    ) -> None:
        self.path, self.fused = folder / "epoch_45.pt", fused
        self.compat = compat
        self.captions = 200 if text == "t5" else 1000  # T5 pads each to 77 tokens: 24 layers of it
        self.tokenizer = inputs.t5_tokenizer() if text == "t5" else inputs.roberta_tokenizer()
        self.tokenizer.save_pretrained(folder)
        laion = patches.import_laion(_roberta(reduced=reduced or text == "t5"), self.tokenizer)
        if compat is None:
            _shrink_without_antialias()
        if reduced:
            _halve_stages()
        self.module = laion.CLAP_Module(enable_fusion=fused, amodel=audio, device="cpu")
        self.model = self.module.model
        if text == "t5":
            _give_t5(self.model, reduced=reduced)
        weights.redraw(self.model)
        expected = TENSORS[audio, fused, text]
        if not reduced and len(self.model.state_dict()) != expected:
            raise ValueError(f"{len(self.model.state_dict())} tensors, expected {expected}")
        self._save(text)
        self._take_ours(folder / "exported", text)
        self.first_norm = self.model.audio_branch.bn0
        self.scale = float(self.model.logit_scale_a.detach().exp())

    def _save(self, text: str) -> None:
        """Save the model, and let laion_clap read it again: it can, but for T5.

        Its reader insists on a tensor that files of today no longer hold.
        """
        positions = {"text_branch.embeddings.position_ids": torch.arange(514)[None]}
        weights.save_laion(self.model, self.path, positions if text == "roberta" else {})
        if text == "roberta":
            self.module.load_ckpt(str(self.path), verbose=False)

    def _take_ours(self, folder: Path, text: str) -> None:
        """Go on with the file that reclap writes of the model, which must be complete."""
        reclap.load(self.path).save(folder, format="laion")
        ours = folder / laion_export.FILE
        if text == "roberta":
            self.module.load_ckpt(str(ours), verbose=False)
        else:  # of names that laion_clap's reader does not expect
            self.model.load_state_dict(torch.load(ours, weights_only=True)["state_dict"])

    def audio(self, clip: np.ndarray, start: int = 0) -> np.ndarray:
        """Return the row of a clip, cropped at `start` where it is cropped."""
        with patches.crop_at(start), torch.no_grad():
            return self.module.get_audio_embedding_from_data([clip])[0]

    def files(self, paths: list[Path]) -> list[np.ndarray]:
        """Return the rows of files, read and embedded in one call."""
        with torch.no_grad():
            return list(self.module.get_audio_embedding_from_filelist([str(p) for p in paths]))

    def text(self, texts: list[str]) -> np.ndarray:
        """Return the rows of texts."""
        with torch.no_grad():
            return self.module.get_text_embedding(texts)


def _roberta(*, reduced: bool) -> transformers.RobertaModel:
    small = {"num_hidden_layers": 2, "vocab_size": 4000} if reduced else {}
    published = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    config = transformers.RobertaConfig(**published | {"layer_norm_eps": 1e-5} | small)
    return transformers.RobertaModel(config)


def _shrink_without_antialias() -> None:
    """Let Resize do what it did when the released models were trained, before torchvision 0.17."""
    plain = patches.transforms.Resize

    def resize(size: list[int]) -> torch.nn.Module:
        return plain(size, antialias=False)

    patches.transforms.Resize = resize


def _halve_stages() -> None:
    """Let laion_clap build HTSAT with two blocks in every stage."""
    from clap_module import htsat

    build = htsat.HTSAT_Swin_Transformer.__init__

    def small(self: torch.nn.Module, **options: object) -> None:
        build(self, **options | {"depths": [2, 2, 2, 2]})

    htsat.HTSAT_Swin_Transformer.__init__ = small


class _T5(transformers.T5EncoderModel):
    """Answers as the encoder of BART does, which laion_clap averages over all positions.

    ReCLAP does the same with T5: the mean over 77 positions, padding included.
    """

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict:
        """Return the last states by BART's name for them."""
        out = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        return {"encoder_last_hidden_state": out.last_hidden_state}


def _give_t5(model: torch.nn.Module, *, reduced: bool) -> None:
    """Put flan-t5-large's encoder, and a head of its width, in the place of RoBERTa."""
    small = {"num_layers": 2, "vocab_size": 4000} if reduced else {}
    large = {"d_model": 1024, "d_ff": 2816, "d_kv": 64, "num_heads": 16, "num_layers": 24}
    config = transformers.T5Config(**large | {"feed_forward_proj": "gated-gelu"} | small)
    model.text_branch = _T5(config)
    model.text_branch_type = "bart"
    model.text_projection[0] = torch.nn.Linear(1024, 512)
