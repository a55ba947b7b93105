"""``reclap info`` says of every layout what it is, what is in it, and what of it is not used."""

import io
import json
import sys

import pytest
from needs import needs
from test_families import clap_model, laion_state, save_folder, write_tokenizer
from test_initial import text_model

from reclap.cli import main
from reclap.runtime import progress

torch = needs("torch", "oracle")
transformers = needs("transformers", "oracle")

pytestmark = pytest.mark.oracle

ALWAYS = {"name", "source", "family", "in all", "tokenizer", "digest"}


def info(capsys, path, *options):
    """Return the rows that the command prints, and its JSON object."""
    assert main(["info", str(path), *options]) == 0
    text = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in text.splitlines())
    assert main(["info", str(path), "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert set(rows) >= ALWAYS
    assert rows["digest"] == found["digest"]
    assert found["parameters"]["total"] == sum(
        count for part, count in found["parameters"].items() if part != "total"
    )
    return rows, found


def test_folder_of_transformers(rng, tmp_path, capsys):
    model = clap_model(rng)
    rows, found = info(capsys, save_folder(model, tmp_path))
    assert rows["family"] == "transformers ClapModel"
    own = {n: x.numel() for n, x in model.named_parameters()}
    counts = found["parameters"]
    statistics = 2 * 64  # of the batch norm
    audio = sum(n for name, n in own.items() if name.startswith("audio_model.")) + statistics
    assert counts["audio"] == audio
    assert counts["text"] == sum(n for name, n in own.items() if name.startswith("text_model."))
    heads = sum(n for name, n in own.items() if "_projection." in name)
    assert counts["audio_head"] + counts["text_head"] == heads
    assert rows["tokenizer"].startswith("WordLevel, 104 tokens: ")
    assert "audio_branch.bn0.num_batches_tracked" in found["ignored"]
    assert "second temperature" in found["ignored"]["logit_scale_t"]


def test_bare_state_dict_without_tokenizer(rng, tmp_path, capsys):
    torch.save(laion_state(clap_model(rng, fused=True)), tmp_path / "bare.pt")
    rows, found = info(capsys, tmp_path / "bare.pt")
    assert rows["family"] == "LAION-CLAP layout"
    assert rows["tokenizer"] == "none: no text can be embedded"
    assert "feature fusion" in rows["window"]
    reasons = set(found["ignored"].values())
    assert {"not needed to embed", "only of the loss with transform MLPs"} < reasons
    assert found["ignored"]["text_branch.embeddings.position_ids"] == "not needed to embed"
    assert "beside the weights" not in reasons
    assert rows["text tower"].startswith("RoBERTa 128 x 2")


def test_what_is_beside_the_weights_is_listed(rng, tmp_path, capsys):
    state = {f"module.{n}": x for n, x in laion_state(clap_model(rng)).items()}
    whole = {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: torch.zeros(2)}}}
    torch.save(whole, tmp_path / "epoch_3.pt")
    rows, found = info(capsys, tmp_path / "epoch_3.pt")
    assert rows["ignored"] == "2 beside the weights: epoch, optimizer"
    assert found["ignored"]["optimizer"] == "beside the weights"


def assert_digest_is_watched(monkeypatch, path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with monkeypatch.context() as patch:
        patch.setattr(progress, "_PATIENCE", 0)
        patch.setattr(sys, "stderr", Terminal())
        assert main(["info", str(path)]) == 0
        assert "\rdigest" in sys.stderr.getvalue()


def test_audio_tower_alone(rng, tmp_path, capsys, monkeypatch):
    state = laion_state(clap_model(rng))
    inside = {n.removeprefix("audio_branch."): x for n, x in state.items() if "audio_branch" in n}
    saved = {"state_dict": {f"sed_model.{n}": x for n, x in inside.items()}, "epoch": 1}
    torch.save(saved, tmp_path / "HTSAT.ckpt")
    rows, found = info(capsys, tmp_path / "HTSAT.ckpt")
    assert_digest_is_watched(monkeypatch, tmp_path / "HTSAT.ckpt")
    assert rows["family"].startswith("HTS-AT")
    assert "audio_from" in rows["use"]
    assert rows["audio tower"].startswith("HTS-AT 16 x 2-2")
    assert "text tower" not in rows
    assert {"sed_model.tscam_conv.bias", "epoch"} <= set(found["ignored"])


@pytest.mark.parametrize(
    ("kind", "name"),
    [("bert with a head", "BERT"), ("t5", "T5"), ("gpt2", "GPT-2"), ("clip", "CLIP")],
)
def test_text_tower_alone(tmp_path, capsys, monkeypatch, kind, name):
    model = text_model(tmp_path / "plain", kind)
    rows, found = info(capsys, tmp_path / "plain")
    assert_digest_is_watched(monkeypatch, tmp_path / "plain")
    assert rows["family"].startswith("plain text model")
    assert rows["text tower"].startswith(name)
    assert "audio tower" not in rows
    total = sum(x.numel() for x in model.parameters())
    assert (found["parameters"]["total"] < total) == (kind in ("bert with a head", "t5"))


def test_named_tokenizer_is_shown(rng, tmp_path, capsys):
    torch.save(laion_state(clap_model(rng)), tmp_path / "bare.pt")
    (tmp_path / "text").mkdir()
    write_tokenizer(tmp_path / "text" / "tokenizer.json")
    rows, _ = info(capsys, tmp_path / "bare.pt", "--tokenizer", str(tmp_path / "text"))
    assert rows["tokenizer"].endswith("text/tokenizer.json")
