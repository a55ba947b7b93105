"""Checkpoints of transformers and LAION-CLAP load, with the numbers of their own code."""

import re
import types

import numpy as np
import pytest
from closeness import f32
from needs import needs

import reclap
from reclap import audio
from reclap.audio import fusion
from reclap.audio.streams import Whole
from reclap.cli import main
from reclap.errors import FormatError

torch = needs("torch", "oracle")
transformers = needs("transformers", "oracle")

pytestmark = pytest.mark.oracle

SAME = 2e-6  # unit vectors; issue: 2e-5
RATE = 48000

# Ours to LAION's, for a file as laion_clap saves it.
TO_LAION = {
    "batch_norm.": "bn0.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.self.": "attn.",
    "attention.output.dense.": "attn.proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
}


def clap_model(rng, *, fused=False, size="small", audio=None, text=None):
    """Return a ClapModel of random weights in which nothing is 0 or 1.

    `audio` and `text` are further settings of the two towers.
    """
    small = {"depths": [2, 2], "num_attention_heads": [1, 2], "patch_embeds_hidden_size": 16}
    tiny = {"depths": [2, 2, 6, 2], "num_attention_heads": [4, 8, 16, 32]}
    base = tiny | {"depths": [2, 2, 12, 2], "patch_embeds_hidden_size": 128}
    shape = {"small": small, "tiny": tiny, "base": base}[size]
    embed = shape.get("patch_embeds_hidden_size", 96)
    sizes = {"vocab_size": 120, "hidden_size": 128, "num_hidden_layers": 2}
    sizes |= {
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 90,
        "layer_norm_eps": 1e-5,
    }
    config = transformers.ClapConfig(
        audio_config=shape
        | {"enable_fusion": fused, "hidden_size": embed * 2 ** (len(shape["depths"]) - 1)}
        | ({"aff_block_r": 4, "fusion_type": "aff_2d"} if fused else {})
        | (audio or {}),
        text_config=sizes
        | (text or {})
        | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        projection_dim=24 if size == "small" else 512,
    )
    torch.manual_seed(0)
    model = transformers.ClapModel(config).eval()
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.from_numpy(f32(rng, *x.shape)) if x.is_floating_point() else None
            if name.endswith("running_mean"):
                near_input = "audio_encoder.batch_norm" in name
                x.copy_(noise * 5 - 40 if near_input else noise / 5)
            elif name.endswith("running_var"):
                near_input = "audio_encoder.batch_norm" in name
                x.copy_(noise**2 * 50 + 100 if near_input else noise**2 / 5 + 1)
            elif name.endswith(("bias", "relative_position_bias_table")):
                x.copy_(noise / 5)
            elif x.ndim == 1 and name.endswith("weight"):
                x.copy_(1 + noise / 5)
    return model


def save_folder(model, folder):
    model.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_tokenizer(path):
    """Write a tokenizer of whole words with RoBERTa's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [f"w{i}" for i in range(100)]
    vocab = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(path))


def mel_bank(rate, fmax=14000):
    """Return the bank that torchlibrosa keeps among the weights."""
    bank = transformers.audio_utils.mel_filter_bank(
        513, 64, 50, fmax, rate, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(bank).float()


def laion_state(model):
    """Return the state dict that LAION-CLAP would have saved for a ClapModel."""
    split, out = {}, {}
    for name, x in model.state_dict().items():
        name = name.replace("audio_model.audio_encoder.", "audio_branch.")
        name = name.replace("text_model.", "text_branch.")
        for head in ("audio", "text"):
            name = name.replace(f"{head}_projection.linear1", f"{head}_projection.0")
            name = name.replace(f"{head}_projection.linear2", f"{head}_projection.2")
        if name.startswith("audio_branch.") and "fusion_model" not in name:
            for theirs, laion in TO_LAION.items():
                name = name.replace(theirs, laion)
        stem, _, kind = name.rpartition(".")
        if name.startswith("audio_branch.") and stem.rpartition(".")[2] in (
            "query",
            "key",
            "value",
        ):
            split.setdefault(f"{stem.rpartition('.')[0]}.qkv.{kind}", []).append(x)
        else:
            out[name] = x
    out |= {name: torch.cat(parts) for name, parts in split.items()}
    out["audio_branch.tscam_conv.bias"] = torch.zeros(527)
    out["audio_branch.logmel_extractor.melW"] = mel_bank(RATE)
    out["text_branch.embeddings.position_ids"] = torch.arange(90)[None]
    out["audio_transform.sequential.0.bias"] = torch.zeros(24)
    return out


def sounds(rng, seconds=(1.0, 10.0)):
    return [f32(rng, int(s * RATE)) / 10 for s in seconds]


def theirs_audio(model, clips, config):
    """Embed by transformers what our front end made of the clips."""
    made = [next(fusion.log_mels(Whole(clip), config)) for clip in clips]
    mel = np.stack([p.mel if p.mel.ndim == 3 else p.mel[None] for p in made])
    longer = torch.tensor([[p.longer] for p in made])
    with torch.no_grad():
        rows = model.get_audio_features(input_features=torch.from_numpy(mel), is_longer=longer)
    return unit(getattr(rows, "pooler_output", rows).numpy())


def theirs_text(model, texts):
    rows = []
    for text in texts:
        ids = torch.tensor([[0, *(4 + int(w[1:]) for w in text.split()), 2]])
        with torch.no_grad():
            row = model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
        rows.append(getattr(row, "pooler_output", row)[0].numpy())
    return unit(np.stack(rows))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


TEXTS = ["w3", "w1 w2 w99 w4 w5", " ".join(f"w{i}" for i in range(60))]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "size",
    [
        "small",
        pytest.param("tiny", marks=pytest.mark.slow),
        pytest.param("base", marks=pytest.mark.slow),
    ],
)
def test_folder_of_transformers_gives_its_embeddings(rng, tmp_path, fused, size):
    theirs = clap_model(rng, fused=fused, size=size)
    ours = reclap.load(save_folder(theirs, tmp_path / "hf"))
    assert ours.config.audio.fusion == fused
    assert ours.config.front.mel_scale == ("htk" if fused else "slaney")
    clips = sounds(rng, (1.0, 10.0, 13.0) if fused else (1.0, 10.0))
    got = ours.embed_audio(clips, rate=RATE)
    np.testing.assert_allclose(got, theirs_audio(theirs, clips, ours.config.front), atol=SAME)
    np.testing.assert_allclose(ours.embed_text(TEXTS), theirs_text(theirs, TEXTS), atol=SAME)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("form", ["epoch", "bare", "ddp"])
def test_file_of_laion_gives_the_same_as_the_folder(rng, tmp_path, fused, form):
    theirs = clap_model(rng, fused=fused)
    folder = reclap.load(save_folder(theirs, tmp_path / "hf"))
    state = laion_state(theirs)
    if form == "ddp":
        state = {f"module.{name}": x for name, x in state.items()}
    moments = {i: {"exp_avg": torch.zeros(3), "lr": np.float64(0.1)} for i in range(3)}
    whole = {"epoch": 3, "name": "x", "state_dict": state, "optimizer": {"state": moments}}
    torch.save(state if form == "bare" else whole, tmp_path / "model.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    ours = reclap.load(tmp_path / "model.pt")
    assert ours.config.front.quantize  # as LAION's hook.py
    assert ours.config.audio == folder.config.audio
    mel = audio.log_mel(f32(rng, 10 * RATE) / 10, folder.config.front)
    mel = np.stack([mel] * 4)[None] if fused else mel[None]
    longer = np.array([True]) if fused else None
    rows = [m._core.audio(m._context, mel, longer=longer) for m in (ours, folder)]
    np.testing.assert_array_equal(*rows)
    np.testing.assert_array_equal(ours.embed_text(TEXTS), folder.embed_text(TEXTS))
    assert "audio_branch.tscam_conv.bias" in ours.info()["ignored"]


def test_t5_and_fusion_as_in_reclap(rng, tmp_path):
    """HTSAT with fusion and a T5 encoder pooled over 77 positions, padding included."""
    state = {
        name: x
        for name, x in laion_state(clap_model(rng, fused=True)).items()
        if "text_" not in name
    }
    config = transformers.T5Config(
        vocab_size=120, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, dropout_rate=0.0
    )
    config.feed_forward_proj, config.is_gated_act, config.dense_act_fn = (
        "gated-gelu",
        True,
        "gelu_new",
    )
    torch.manual_seed(1)
    tower = transformers.T5EncoderModel(config).eval()
    state |= {f"text_branch.{name}": x for name, x in tower.state_dict().items()}
    head = [torch.nn.Linear(32, 24), torch.nn.ReLU(), torch.nn.Linear(24, 24)]
    for i in (0, 2):
        state[f"text_projection.{i}.weight"] = head[i].weight.detach()
        state[f"text_projection.{i}.bias"] = head[i].bias.detach()
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "base_rewritten.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    ours = reclap.load(tmp_path / "base_rewritten.pt")
    assert (ours.config.text.pool, ours.config.text.heads) == ("mean_padded", 2)
    want = []
    for text in TEXTS:
        ids = [0, *(4 + int(w[1:]) for w in text.split()), 2]
        ids_padded = torch.tensor([ids + [0] * (77 - len(ids))])
        mask = torch.tensor([[1] * len(ids) + [0] * (77 - len(ids))])
        with torch.no_grad():
            x = tower(input_ids=ids_padded, attention_mask=mask).last_hidden_state.mean(dim=1)
            want.append(torch.nn.Sequential(*head)(x)[0].numpy())
    np.testing.assert_allclose(ours.embed_text(TEXTS), unit(np.stack(want)), atol=SAME)


class Projection(torch.nn.Module):
    """MS-CLAP's head."""

    def __init__(self, width, dim):
        super().__init__()
        self.linear1 = torch.nn.Linear(width, dim, bias=False)
        self.linear2 = torch.nn.Linear(dim, dim, bias=False)
        self.layer_norm = torch.nn.LayerNorm(dim)

    def forward(self, x):
        e = self.linear1(x)
        return self.layer_norm(e + self.linear2(torch.nn.functional.gelu(e)))


def test_file_of_microsoft_gives_the_numbers_of_its_parts(rng, tmp_path):
    """HTSAT as transformers computes it, GPT-2, and the heads written out above."""
    htsat = clap_model(rng).audio_model
    torch.manual_seed(2)
    settings = {"vocab_size": 120, "n_positions": 90, "n_embd": 128, "n_layer": 2, "n_head": 2}
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(**settings)).eval()
    heads = {"audio_encoder": Projection(32, 40), "caption_encoder": Projection(128, 40)}
    state = {
        name.replace("audio_branch.", "audio_encoder.base.htsat."): x
        for name, x in laion_state(clap_model(np.random.default_rng(0))).items()
        if name.startswith("audio_branch.")
    }
    named = {f"audio_model.{name}": x for name, x in htsat.state_dict().items()}
    renamed = laion_state(types.SimpleNamespace(state_dict=lambda: named))
    for name in list(state):
        state[name] = renamed[name.replace("audio_encoder.base.htsat.", "audio_branch.")]
    state["audio_encoder.base.htsat.logmel_extractor.melW"] = mel_bank(32000)  # whatever the audio
    state |= {f"caption_encoder.base.{name}": x for name, x in gpt2.state_dict().items()}
    for tower, head in heads.items():
        state |= {f"{tower}.projection.{name}": x for name, x in head.state_dict().items()}
    state["logit_scale"] = torch.tensor(3.0)
    torch.save({"model": state}, tmp_path / "CLAP_weights_2023.pth")
    write_tokenizer(tmp_path / "tokenizer.json")
    ours = reclap.load(tmp_path / "CLAP_weights_2023.pth")
    front = ours.config.front
    assert (front.rate, front.samples, front.bank_rate, front.frames) == (44100, 308700, 32000, 965)
    exact = reclap.load(tmp_path / "CLAP_weights_2023.pth", compat="upstream")
    assert (exact.config.front.channels, exact.config.front.resampler) == ("concatenate", "sinc")
    assert exact.digest != ours.digest
    clip = f32(rng, 100_000) / 10
    np.testing.assert_allclose(
        exact.embed_audio(clip.reshape(2, -1).T, rate=44100),  # channels one after the other
        ours.embed_audio(clip, rate=44100),
        atol=SAME,
    )
    mel = torch.from_numpy(audio.window_features(clip, front)[None])
    with torch.no_grad():
        want = heads["audio_encoder"](htsat(input_features=mel).pooler_output).numpy()
    np.testing.assert_allclose(ours.embed_audio(clip, rate=44100), unit(want), atol=SAME)
    want = []
    for text in TEXTS:
        words = [4 + int(w[1:]) for w in text.split()]
        suffix = ours._tokenizer.encode(["w0"])[0][2:-1]  # what the end marker becomes here
        ids = torch.tensor([[0, *words, *suffix.tolist(), 2]])
        place = int((ids != 0).sum()) - 1
        with torch.no_grad():
            x = gpt2(input_ids=ids).last_hidden_state[0, place]
            want.append(heads["caption_encoder"](x).numpy())
    np.testing.assert_allclose(ours.embed_text(TEXTS), unit(np.stack(want)), atol=SAME)


def test_converted_checkpoint_is_the_same_model(rng, tmp_path, capsys):
    folder = save_folder(clap_model(rng), tmp_path / "hf")
    assert main(["convert", str(folder), str(tmp_path / "own")]) == 0
    a, b = reclap.load(folder), reclap.load(tmp_path / "own")
    assert a.digest == b.digest
    assert b.info()["family"] == "reclap"
    np.testing.assert_array_equal(a.embed_text(TEXTS), b.embed_text(TEXTS))
    assert main(["convert", str(folder), str(tmp_path / "own")]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["info", str(folder)]) == 0
    assert "transformers ClapModel" in capsys.readouterr().out


def test_fused_file_of_laion_shrinks_long_clips_as_upstream_does_today(rng, tmp_path):
    torch.save(laion_state(clap_model(rng, fused=True)), tmp_path / "model.pt")
    plain, exact = (reclap.load(tmp_path / "model.pt", compat=c) for c in (None, "upstream"))
    assert plain.config.front.fusion_resize == "bilinear"
    assert exact.config.front.fusion_resize == "antialias"
    short, long = f32(rng, RATE) / 10, f32(rng, 15 * RATE) / 10
    np.testing.assert_array_equal(
        plain.embed_audio(short, rate=RATE), exact.embed_audio(short, rate=RATE)
    )
    assert np.abs(plain.embed_audio(long, rate=RATE) - exact.embed_audio(long, rate=RATE)).max() > 0


def test_file_of_laion_resamples_to_librosas_lengths_as_upstream(rng, tmp_path):
    torch.save(laion_state(clap_model(rng)), tmp_path / "model.pt")
    plain, exact = (reclap.load(tmp_path / "model.pt", compat=c) for c in (None, "upstream"))
    assert (plain.config.front.resampler, exact.config.front.resampler) == ("soxr", "librosa")
    assert (plain.config.front.silence, exact.config.front.silence) == ("skip", "keep")
    assert plain.digest != exact.digest
    clip = f32(rng, 220_500) / 10  # as the clips of ESC-50
    want = np.append(audio.load(clip, 48000, rate=44100), np.float32(0))
    np.testing.assert_array_equal(
        exact.embed_audio(clip, rate=44100), plain.embed_audio(want, rate=48000)
    )


def test_compat_is_for_checkpoints_of_others(rng, tmp_path):
    with pytest.raises(ValueError, match=r"compat: .* is a model folder"):
        reclap.load("mini", compat="upstream")
    with pytest.raises(ValueError, match="compat is 'old', expected upstream or None"):
        reclap.load("mini", compat="old")


def test_file_without_tokenizer_embeds_sounds_only(rng, tmp_path):
    torch.save(laion_state(clap_model(rng)), tmp_path / "model.pt")
    model = reclap.load(tmp_path / "model.pt")
    assert model.embed_audio(sounds(rng)[0], rate=RATE).shape == (1, 24)
    with pytest.raises(FormatError, match=r"tokenizer=.*tokenizer\.json"):
        model.embed_text(["w1"])
    write_tokenizer(tmp_path / "words.json")
    model = reclap.load(tmp_path / "model.pt", tokenizer=tmp_path / "words.json")
    assert model.embed_text(["w1"]).shape == (1, 24)


def test_folder_of_ours_is_not_written_without_tokenizer(rng, tmp_path, capsys):
    torch.save(laion_state(clap_model(rng)), tmp_path / "model.pt")
    out = tmp_path / "own"
    assert main(["convert", str(tmp_path / "model.pt"), str(out)]) == 2
    assert re.search(r"model\.pt: .*--tokenizer", capsys.readouterr().err)
    assert not out.exists()
    write_tokenizer(tmp_path / "words.json")
    words = ["--tokenizer", str(tmp_path / "words.json")]
    assert main(["convert", str(tmp_path / "model.pt"), str(out), *words]) == 0
    assert reclap.load(out).embed_text(["w1"]).shape == (1, 24)
