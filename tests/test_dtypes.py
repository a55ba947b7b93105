"""Models in narrower types: close to float32, deterministic, and known apart."""

import numpy as np
import pytest
from folders import EXAMPLES

import reclap
from reclap.errors import ReclapError
from reclap.model import weights
from reclap.model.weights import choose_dtype
from reclap.runtime.libraries import core

TEXTS = ["a dog barks", "rain on a tin roof", "an engine idles", "people talk"]
NARROW = ("bfloat16", "int8", "float32x3", "float32x6")
CLOSE = {  # cosines with float32
    "bfloat16": 0.999,
    "int8": 0.995 if core.int8_weight() == 127 else 0.99,  # without VNNI weights have seven bits
    "float32x3": 0.999999,
    "float32x6": 0.999999,
}


def load(source, dtype, **options):
    try:
        return reclap.load(source, dtype=dtype, **options)
    except (ValueError, reclap.BackendError) as error:
        pytest.skip(str(error))


@pytest.fixture(params=NARROW)
def narrow(request):
    return load("mini", request.param)


def test_embeddings_are_close_to_float32(narrow):
    exact = reclap.load("mini")
    least = CLOSE[narrow.info()["dtype"]]
    assert (narrow.embed_text(TEXTS) * exact.embed_text(TEXTS)).sum(1).min() > least
    files = sorted(EXAMPLES.glob("*.ogg"))
    assert (narrow.embed_audio(files) * exact.embed_audio(files)).sum(1).min() > least


def test_embeddings_depend_neither_on_company_nor_on_threads(narrow):
    files = sorted(EXAMPLES.glob("*.ogg"))
    dtype = narrow.info()["dtype"]
    whole = narrow.embed_audio(files)
    np.testing.assert_array_equal(load("mini", dtype, threads=3).embed_audio(files), whole)
    np.testing.assert_allclose(narrow.embed_audio(files[3]), whole[3:4], atol=1e-3)
    texts = narrow.embed_text(TEXTS)
    np.testing.assert_allclose(narrow.embed_text(TEXTS[2:3]), texts[2:3], atol=1e-3)


def test_each_type_has_a_digest_of_its_own(narrow):
    exact = reclap.load("mini")
    assert narrow.digest != exact.digest
    assert narrow.digest == load("mini", narrow.info()["dtype"]).digest
    assert len(narrow.digest) == 64


def test_weights_of_seven_bits_are_told_apart(monkeypatch):
    whole = load("mini", "int8")
    level = 190 - core.int8_weight()  # 127 or 63: the other one
    monkeypatch.setattr(core, "int8_weight", lambda: level)
    other = load("mini", "int8")
    assert {whole.info()["kernel"], other.info()["kernel"]} == {"oneDNN", "oneDNN, 7-bit weights"}
    assert whole.digest != other.digest


def test_rounded_weights_are_not_saved(narrow, tmp_path):
    with pytest.raises(ReclapError, match="load it in float32 to save it"):
        narrow.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("vendor", "features", "choice"),
    [
        ("GenuineIntel", ["avx2"], "float32"),
        ("GenuineIntel", ["avx512f", "avx512_bf16"], "float32"),
        ("AuthenticAMD", ["avx512f", "avx512_bf16"], "bfloat16"),
        ("GenuineIntel", ["avx512_bf16", "amx_bf16"], "bfloat16"),
        ("", [], "float32"),
    ],
)
def test_auto_goes_by_the_processor(monkeypatch, vendor, features, choice):
    monkeypatch.setattr(weights, "describe", lambda: {"vendor": vendor, "cpu": features})
    assert choose_dtype("auto") == choice
    assert choose_dtype("int8") == "int8"
    if "avx512_bf16" in features:
        assert choose_dtype("bfloat16") == "bfloat16"
    else:
        with pytest.raises(ValueError, match=r"no instructions for it .* it has (avx2|none)"):
            choose_dtype("bfloat16")


def test_unknown_types_are_refused():
    with pytest.raises(ValueError, match="dtype is 'float16', expected one of float32, bfloat16"):
        reclap.load("mini", dtype="float16")
