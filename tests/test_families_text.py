"""LAION-CLAP with other text towers than RoBERTa, and where tokenizers come from."""

import numpy as np
import pytest
from needs import needs
from test_families import (
    SAME,
    TEXTS,
    clap_model,
    laion_state,
    unit,
    write_tokenizer,
)
from test_vocabulary import ODD, roberta

import reclap
from reclap.cli import main
from reclap.errors import FormatError

torch = needs("torch", "oracle")
transformers = needs("transformers", "oracle")

pytestmark = pytest.mark.oracle


class Attention(torch.nn.Module):
    """One block of OpenAI's CLIP text transformer, by torch's own layers."""

    def __init__(self, width, heads, activation):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.mlp = torch.nn.ModuleDict(
            {"c_fc": torch.nn.Linear(width, 64), "c_proj": torch.nn.Linear(64, width)}
        )
        self.activation = activation

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](self.activation(self.mlp["c_fc"](self.ln_2(x))))


class ClipText(torch.nn.Module):
    """What LAION-CLAP builds for tmodel "transformer"; tensors by its names."""

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(5)
        self.text_branch = torch.nn.Module()
        self.text_branch.resblocks = torch.nn.ModuleList(
            Attention(128, 2, activation) for _ in range(2)
        )
        self.token_embedding = torch.nn.Embedding(120, 128)
        self.positional_embedding = torch.nn.Parameter(torch.randn(77, 128) / 5)
        self.ln_final = torch.nn.LayerNorm(128)
        for name, x in self.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(x, std=0.2)

    @torch.no_grad()
    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[: len(ids)]
        mask = torch.full((len(ids), len(ids)), float("-inf")).triu(1)
        x = x[:, None]
        for block in self.text_branch.resblocks:
            x = block(x, mask)
        return self.ln_final(x)[-1, 0]


def head(state):
    def run(x):
        x = x @ state["text_projection.0.weight"].T + state["text_projection.0.bias"]
        x = torch.relu(x) @ state["text_projection.2.weight"].T
        return (x + state["text_projection.2.bias"]).numpy()

    return run


def ids_of(text):
    return [0, *(4 + int(w[1:]) for w in text.split()), 2]


ACTIVATIONS = {
    None: torch.nn.functional.gelu,
    "gelu": torch.nn.functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def without_text(state):
    return {n: x for n, x in state.items() if not n.startswith("text_branch.")}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_clip_text_transformer_with_either_activation(rng, tmp_path, activation):
    state = without_text(laion_state(clap_model(rng)))
    tower = ClipText(ACTIVATIONS[activation])
    torch.save({"state_dict": state | tower.state_dict()}, tmp_path / "clip.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    ours = reclap.load(tmp_path / "clip.pt", text_activation=activation)
    want = [head(state)(tower(torch.tensor(ids_of(text)))) for text in TEXTS]
    np.testing.assert_allclose(ours.embed_text(TEXTS), unit(np.stack(want)), atol=SAME)


def test_bert_is_pooled_as_laion_does(rng, tmp_path):
    state = without_text(laion_state(clap_model(rng)))
    sizes = {"vocab_size": 120, "hidden_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 90}
    torch.manual_seed(6)
    tower = transformers.BertModel(transformers.BertConfig(**sizes)).eval()
    state |= {f"text_branch.{n}": x for n, x in tower.state_dict().items()}
    torch.save(state, tmp_path / "bert.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    ours = reclap.load(tmp_path / "bert.pt")
    with torch.no_grad():
        pooled = [tower(torch.tensor([ids_of(text)])).pooler_output[0] for text in TEXTS]
    want = [head(state)(x) for x in pooled]
    np.testing.assert_allclose(ours.embed_text(TEXTS), unit(np.stack(want)), atol=SAME)


def test_bart_is_refused_by_name(rng, tmp_path):
    state = without_text(laion_state(clap_model(rng)))
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_model"), 16)
    config = transformers.BartConfig(vocab_size=120, **sizes)
    tower = transformers.BartModel(config)
    state |= {f"text_branch.{n}": x for n, x in tower.state_dict().items()}
    torch.save(state, tmp_path / "bart.pt")
    with pytest.raises(FormatError, match=r"bart\.pt: text tower: BART, which reclap does not"):
        reclap.load(tmp_path / "bart.pt")


def test_activation_of_another_tower_is_refused(rng, tmp_path, small_folder, capsys):
    torch.save(laion_state(clap_model(rng)), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="the text tower is roberta-base, expected CLIP's"):
        reclap.load(tmp_path / "model.pt", text_activation="gelu")
    with pytest.raises(ValueError, match="text_activation is 'relu'"):
        reclap.load(tmp_path / "model.pt", text_activation="relu")
    with pytest.raises(ValueError, match=r"text_activation: .* is a model folder"):
        reclap.load(small_folder, text_activation="gelu")
    assert main(["info", str(tmp_path / "model.pt"), "--text-activation", "quick_gelu"]) == 2
    assert "roberta-base" in capsys.readouterr().err


# ---- Tokenizers ----------------------------------------------------------------------------------


def bare(rng, folder):
    """Save a model for 700 tokens without any tokenizer."""
    state = laion_state(clap_model(rng))
    table = "text_branch.embeddings.word_embeddings.weight"
    state[table] = torch.from_numpy(rng.standard_normal((700, 128)).astype(np.float32))
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def test_vocabulary_beside_a_file_or_named_or_converted(rng, tmp_path):
    """All give the same rows; the converted folder holds a tokenizer.json."""
    path = bare(rng, tmp_path)
    texts = [text for text in ODD if len(text) < 100]
    (tmp_path / "words").mkdir()
    theirs = roberta(tmp_path / "words")
    named = reclap.load(path, tokenizer=tmp_path / "words")
    ids, first = named._tokenizer.encode(texts)
    for text, a, b in zip(texts, first[:-1], first[1:], strict=True):
        assert theirs(text, truncation=True, max_length=77)["input_ids"] == ids[a:b].tolist()
    by_file = reclap.load(path, tokenizer=tmp_path / "words" / "vocab.json")
    roberta(tmp_path)
    beside = reclap.load(path)
    named.save(tmp_path / "own")
    assert (tmp_path / "own" / "tokenizer.json").is_file()
    converted = reclap.load(tmp_path / "own")
    rows = named.embed_text(texts)
    for model in (by_file, beside, converted):
        np.testing.assert_array_equal(model.embed_text(texts), rows)


def test_folder_without_tokenizer_is_named(rng, tmp_path):
    path = bare(rng, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: expected one of tokenizer\.json, vocab"):
        reclap.load(path, tokenizer=tmp_path / "empty")
