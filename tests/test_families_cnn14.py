"""Checkpoints with Cnn14: MS-CLAP 2022 and LAION-CLAP's PANN-14."""

import itertools

import numpy as np
import pytest
from closeness import f32
from needs import needs

import reclap
from reclap import audio
from reclap.cli import main
from reclap.config import Cnn14Config
from reclap.errors import FormatError

torch = needs("torch", "oracle")
transformers = needs("transformers", "oracle")

from test_families import SAME, TEXTS, Projection, mel_bank, unit, write_tokenizer  # noqa: E402
from torch_cnn14 import random_cnn14  # noqa: E402

pytestmark = pytest.mark.oracle

SMALL = (2, 3, 4, 5, 6, 8)
SMALL_TEXT = {
    "vocab_size": 120,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 110,
}


class Clap:
    """Towers and heads of random weights, and the state dict in which a project keeps them."""

    def __init__(self, text, heads, widths=SMALL):
        self.audio, self.text, self.heads = random_cnn14(widths=widths), text.eval(), heads
        self.state = {}

    def put(self, prefix, tensors):
        self.state |= {f"{prefix}.{name}": x for name, x in tensors.items()}

    def put_audio(self, prefix, rate):
        """Put the tower with what embedding does not need: front end and tagging."""
        width = self.audio.fc1.out_features
        frozen = {
            "spectrogram_extractor.stft.conv_real.weight": torch.zeros(513, 1, 1024),
            "spectrogram_extractor.stft.conv_imag.weight": torch.zeros(513, 1, 1024),
            "logmel_extractor.melW": mel_bank(rate),
            "fc_audioset.weight": torch.zeros(527, width),
            "fc_audioset.bias": torch.zeros(527),
        }
        self.put(prefix, self.audio.state_dict() | frozen)

    def embed_audio(self, clip, front):
        mel = torch.from_numpy(audio.window_features(clip, front))
        with torch.no_grad():
            return unit(self.heads["audio"](self.audio(mel)).numpy())


def microsoft(text_sizes=SMALL_TEXT, widths=SMALL, dim=40):
    """Return MS-CLAP 2022 as its weight file holds it."""
    torch.manual_seed(1)
    bert = transformers.BertModel(transformers.BertConfig(**text_sizes))
    heads = {
        "audio": Projection(widths[-1], dim),
        "text": Projection(bert.config.hidden_size, dim),
    }
    made = Clap(bert, heads, widths)
    made.put_audio("audio_encoder.base", 44100)
    made.put("caption_encoder.base", bert.state_dict())
    made.put("audio_encoder.projection", heads["audio"].state_dict())
    made.put("caption_encoder.projection", heads["text"].state_dict())
    made.state["logit_scale"] = torch.tensor(3.0)
    return made


def mlp(*widths):
    layers = [
        part
        for a, b in itertools.pairwise(widths)
        for part in (torch.nn.Linear(a, b), torch.nn.ReLU())
    ]
    return torch.nn.Sequential(*layers[:-1])


def laion(text_sizes=SMALL_TEXT, widths=SMALL, dim=24):
    """Return LAION-CLAP's PANN-14 with RoBERTa as its training saved it."""
    torch.manual_seed(1)
    sizes = text_sizes | {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
    roberta = transformers.RobertaModel(transformers.RobertaConfig(**sizes))
    heads = {"audio": mlp(widths[-1], dim, dim), "text": mlp(roberta.config.hidden_size, dim, dim)}
    made = Clap(roberta, heads, widths)
    made.put_audio("audio_branch", 48000)
    made.put("text_branch", roberta.state_dict())
    for name, head in heads.items():
        made.put(f"{name}_projection", head.state_dict())
        transform = mlp(dim, dim, dim).state_dict()
        made.put(
            f"{name}_transform.sequential", {n.replace("2", "3"): x for n, x in transform.items()}
        )
    made.state |= {"logit_scale_a": torch.tensor(3.0), "logit_scale_t": torch.tensor(2.0)}
    return made


def write(made, path, key):
    torch.save({key: made.state}, path)
    write_tokenizer(path.parent / "tokenizer.json")
    return path


def ids_of(text, length, pad):
    ids = [0, *(4 + int(w[1:]) for w in text.split()), 2]
    mask = [1] * len(ids) + [0] * (length - len(ids))
    return torch.tensor([ids + [pad] * (length - len(ids))]), torch.tensor([mask])


def assert_microsoft(made, ours, rng):
    clip = f32(rng, 100_000) / 10
    want = made.embed_audio(clip, ours.config.front)
    np.testing.assert_allclose(ours.embed_audio(clip, rate=44100), want, atol=SAME)
    rows = []
    for text in TEXTS:
        ids, mask = ids_of(text, 100, 0)
        with torch.no_grad():
            state = made.text(input_ids=ids, attention_mask=mask).last_hidden_state
            rows.append(made.heads["text"](state[:, 0])[0].numpy())
    np.testing.assert_allclose(ours.embed_text(TEXTS), unit(np.stack(rows)), atol=SAME)


def assert_laion(made, ours, rng):
    clip = np.clip(f32(rng, 200_000) / 10, -1, 1)
    want = made.embed_audio(clip, ours.config.front)
    np.testing.assert_allclose(ours.embed_audio(clip, rate=48000), want, atol=SAME)
    rows = []
    for text in TEXTS:
        ids, mask = ids_of(text, 77, 1)
        with torch.no_grad():
            pooled = made.text(input_ids=ids, attention_mask=mask).pooler_output
            rows.append(made.heads["text"](pooled)[0].numpy())
    np.testing.assert_allclose(ours.embed_text(TEXTS), unit(np.stack(rows)), atol=SAME)


def test_file_of_microsoft_2022_gives_the_numbers_of_its_parts(rng, tmp_path):
    made = microsoft()
    ours = reclap.load(write(made, tmp_path / "CLAP_weights_2022.pth", "model"))
    config, info = ours.config, ours.info()
    front = config.front
    assert (front.rate, front.samples, front.hop, front.frames) == (44100, 220500, 320, 690)
    assert (front.fmin, front.fmax, front.bank_rate) == (50, 14000, None)
    assert (front.padding, front.mel_scale, front.mel_norm) == ("repeat", "slaney", "slaney")
    assert config.audio == Cnn14Config(widths=SMALL)
    assert (config.text.pool, config.text.max_tokens, config.text.eps) == ("first", 100, 1e-12)
    assert config.template == "this is the sound of {label}"
    assert info["family"] == "MS-CLAP 2022"
    assert_microsoft(made, ours, rng)
    ignored = info["ignored"]
    assert ignored["audio_encoder.base.fc_audioset.bias"] == "not needed to embed"
    assert ignored["caption_encoder.base.pooler.dense.bias"] == "the first token counts as it is"
    used = {n for n in made.state if n not in ignored}
    assert sum(made.state[n].numel() for n in used) == info["parameters"]["total"]


def test_file_of_laions_pann_gives_the_numbers_of_its_parts(rng, tmp_path):
    made = laion()
    ours = reclap.load(write(made, tmp_path / "pann.pt", "state_dict"))
    front = ours.config.front
    assert (front.rate, front.samples, front.hop, front.frames) == (48000, 480000, 480, 1001)
    assert (front.mel_scale, front.mel_norm, front.quantize) == ("slaney", "slaney", True)
    assert ours.config.audio == Cnn14Config(widths=SMALL)
    assert (ours.config.text.pool, ours.config.audio_head) == ("pooler", "mlp")
    assert_laion(made, ours, rng)


@pytest.mark.parametrize(("make", "key"), [(microsoft, "model"), (laion, "state_dict")])
def test_converted_folder_is_the_same_model(rng, tmp_path, make, key, capsys):
    source = write(make(), tmp_path / "model.pth", key)
    assert main(["convert", str(source), str(tmp_path / "own")]) == 0
    a, b = reclap.load(source), reclap.load(tmp_path / "own")
    assert (a.digest, a.config) == (b.digest, b.config)
    clip = f32(rng, 30_000) / 10
    np.testing.assert_array_equal(a.embed_audio(clip, rate=44100), b.embed_audio(clip, rate=44100))
    np.testing.assert_array_equal(a.embed_text(TEXTS), b.embed_text(TEXTS))
    capsys.readouterr()
    assert main(["info", str(tmp_path / "own")]) == 0
    assert "Cnn14 2-3-4-5-6-8, " in capsys.readouterr().out
    long = f32(rng, 44100 * 12) / 10
    assert a.timeline(long, ["w1", "w2"], rate=44100).scores.shape[1] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "check", "key", "keys", "parameters"),
    [
        (microsoft, assert_microsoft, "model", 292, 196_304_144),
        (laion, assert_laion, "state_dict", 301, 209_501_457),
    ],
)
def test_models_of_full_size(rng, tmp_path, make, check, key, keys, parameters):
    text = {} if make is microsoft else {"vocab_size": 50265, "max_position_embeddings": 514}
    dim = 1024 if make is microsoft else 512
    made = make(text, Cnn14Config().widths, dim)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    counted = [x.numel() for name, x in made.state.items() if not name.endswith(statistics)]
    assert (len(made.state), sum(counted)) == (keys, parameters)
    ours = reclap.load(write(made, tmp_path / "model.pth", key))
    check(made, ours, rng)


# ---- Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mel_conv2d.0.weight": torch.zeros(64, 1, 5, 5)}, r"feature fusion \(mel_conv2d\.0\.we"),
        ({"fusion_model.local_att.0.bias": torch.zeros(2)}, r"feature fusion \(fusion_model\."),
        ({"conv_block1.conv1.weight": torch.zeros(2, 4, 3, 3)}, "feature fusion of 4 log-mels"),
        ({"conv_block6": None}, r"conv blocks \[1, 2, 3, 4, 5\], Cnn14 has 1 to 6"),
        ({"conv_block3.conv2.weight": None}, "conv_block3.conv2.weight is missing, expected 4"),
        ({"conv_block3.bn2.bias": None}, r"1 missing: audio_branch\.conv_block3\.bn2\.bias"),
        ({"bn0.weight": torch.zeros(64, 1)}, r"bn0\.weight has shape \[64, 1\], expected 1 axes"),
        (
            {"conv_block2.conv1.weight": torch.zeros(3, 2, 5, 5)},
            r"conv1\.weight is \[3, 5, 5, 2\], expected \[3, 3, 3, 2\]",
        ),
        ({"att_block.weight": torch.zeros(2)}, r"1 unexpected: audio_branch\.att_block\.weight"),
    ],
)
def test_other_towers_are_refused(tmp_path, change, message):
    made = laion()
    for name, x in change.items():
        if x is None:
            made.state = {
                n: v for n, v in made.state.items() if not n.startswith(f"audio_branch.{name}")
            }
        else:
            made.state[f"audio_branch.{name}"] = x
    path = write(made, tmp_path / "model.pt", "state_dict")
    with pytest.raises(FormatError, match=message) as error:
        reclap.load(path)
    assert str(error.value).startswith(str(path))
