"""Models and results go where people send them: other processes, copies, loaders of batches."""

import concurrent.futures
import copy
import inspect
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import needs

import reclap
from reclap.checkpoints import model_folder
from reclap.llm.request import RequestError
from reclap.model import Model
from reclap.model.loading import Opening, load
from reclap.prompts.bank import PromptBank
from reclap.training.text_encoder import TextEncoder

TEXTS = ["rain on a tin roof", "a dog barks"]


def copied(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


@pytest.fixture
def folder(small_folder, tmp_path):
    return Path(shutil.copytree(small_folder, tmp_path / "model"))


@pytest.mark.parametrize("again", [copied, copy.deepcopy, copy.copy])
def test_copied_model_embeds_the_same_and_shares_nothing(small_folder, again, tones):
    model = reclap.load(small_folder, threads=2)
    other = again(model)
    assert type(other) is Model
    assert (other.digest, other.text_digest, other.threads) == (
        model.digest,
        model.text_digest,
        2,
    )
    np.testing.assert_array_equal(other.embed_text(TEXTS), model.embed_text(TEXTS))
    np.testing.assert_array_equal(other.embed_audio(tones), model.embed_audio(tones))
    for name in ("_lock", "_context", "_core", "_weights", "_tokenizer", "_prompts", "_ignored"):
        assert getattr(other, name) is not getattr(model, name), name


def test_every_option_of_load_is_pickled(small_folder):
    (opening, *_) = reclap.load(small_folder).__reduce__()[1]
    assert set(opening.options) == set(inspect.signature(load).parameters)


@pytest.mark.parametrize("again", [copied, copy.deepcopy])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "float32x3", "float32x6", "auto"])
def test_type_of_a_model_survives_pickling(small_folder, tones, dtype, again):
    try:
        model = reclap.load(small_folder, dtype=dtype, threads=1)
    except ValueError as error:
        pytest.skip(str(error))
    other = again(model)
    assert other.info()["dtype"] == model.info()["dtype"]
    assert dtype in (other.info()["dtype"], "auto")
    assert (other.digest, other.threads) == (model.digest, 1)
    np.testing.assert_array_equal(other.embed_text(TEXTS), model.embed_text(TEXTS))
    np.testing.assert_array_equal(other.embed_audio(tones[:2]), model.embed_audio(tones[:2]))


def test_bundled_model_travels_by_its_name(monkeypatch, tmp_path):
    data = pickle.dumps(reclap.load("mini"))
    assert str(Path(reclap.__file__).parent).encode() not in data
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data).info()["name"] == reclap.load("mini").info()["name"]  # noqa: S301


def test_relative_path_is_found_from_another_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    data = pickle.dumps(reclap.load("model"))
    monkeypatch.chdir("/")
    assert pickle.loads(data).embed_text(TEXTS).shape[0] == 2  # noqa: S301


def test_pickle_holds_no_weights(small_folder):
    assert len(pickle.dumps(reclap.load(small_folder))) < 2000


def test_changed_weights_are_named_on_unpickling(folder):
    model = reclap.load(folder)
    data = pickle.dumps(model)
    tensors = model_folder.read_tensors(folder / model_folder.MODEL)
    tensors = {name: np.array(x) for name, x in tensors.items()}
    name = next(n for n, x in tensors.items() if x.dtype == np.float32 and x.ndim == 2)
    tensors[name] = tensors[name] + 1
    model_folder.write_tensors(folder / model_folder.MODEL, tensors)
    with pytest.raises(reclap.FormatError, match=r"the model has changed since .* pickled"):
        pickle.loads(data)  # noqa: S301
    with pytest.raises(reclap.FormatError, match=r"the model has changed since .* copied"):
        copy.deepcopy(model)


def test_changed_tokenizer_is_named_on_unpickling(folder):
    data = pickle.dumps(reclap.load(folder))
    path = folder / model_folder.TOKENIZER
    text = path.read_text()
    path.write_text(text.replace("[MASK]", "[MUSK]"))
    assert path.read_text() != text
    with pytest.raises(reclap.FormatError, match="the tokenizer has changed since"):
        pickle.loads(data)  # noqa: S301


def test_lost_source_is_named_on_unpickling(folder):
    data = pickle.dumps(reclap.load(folder))
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=r"no model named or at .*model'"):
        pickle.loads(data)  # noqa: S301


@pytest.mark.parametrize("again", [copied, copy.deepcopy, copy.copy])
def test_copied_text_tower_makes_the_same_and_shares_nothing(folder, again, monkeypatch):
    monkeypatch.chdir(folder.parent)
    encoder = TextEncoder("model", 2)
    monkeypatch.chdir("/")
    other = again(encoder)
    assert (other.digest, other.threads) == (encoder.digest, 2)
    np.testing.assert_array_equal(other.features(TEXTS), encoder.features(TEXTS))
    for name in ("_context", "_core", "_weights", "_tokenizer"):
        assert getattr(other, name) is not getattr(encoder, name), name
    path = folder / model_folder.TOKENIZER
    path.write_text(path.read_text().replace("[MASK]", "[MUSK]"))
    with pytest.raises(reclap.FormatError, match=r"model: the text tower has changed since"):
        again(encoder)
    assert len(pickle.dumps(encoder)) < 1000


def test_model_of_parts_is_refused_clearly(small):
    parts = Model(small.config, small._weights, None, Path("parts"))
    with pytest.raises(TypeError, match=r"parts: only models that reclap\.load returned"):
        pickle.dumps(parts)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_pools_of_processes_take_a_model(small_folder, method):
    model = reclap.load(small_folder, threads=1)
    want = model.embed_text(TEXTS)
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        got = pool.submit(model.embed_text, TEXTS).result(timeout=120)
    np.testing.assert_array_equal(got, want)


@pytest.mark.oracle
def test_joblib_takes_a_model(small_folder):
    joblib = needs("joblib", "oracle")
    model = reclap.load(small_folder, threads=1)
    [got] = joblib.Parallel(n_jobs=2)([joblib.delayed(model.embed_text)(TEXTS)])
    np.testing.assert_array_equal(got, model.embed_text(TEXTS))


class Captions:
    """A data set of torch that holds a model."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, i):
        return self.model.embed_text([TEXTS[i]])[0]


@pytest.mark.oracle
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_loader_of_torch_takes_a_model(small_folder, method):
    data = needs("torch.utils.data", "oracle")
    model = reclap.load(small_folder, threads=1)
    found = data.DataLoader(
        Captions(model), batch_size=1, num_workers=1, multiprocessing_context=method
    )
    np.testing.assert_array_equal(np.concatenate(list(found)), model.embed_text(TEXTS))


def one_of(name, model, folder, tones):
    """Return an object of a public name, and what tells it from others."""
    bank = PromptBank.from_prompts({"dog": ["a gruff bark", "a yelp"]})
    [embedding] = model.iter_embed(tones[:1])
    [classification] = model.classify(tones[:1], bank, explain=True)
    timeline = model.timeline(tones[0], TEXTS)
    of = reclap.Embeddings(model.embed_text(TEXTS), tuple(TEXTS), "text", "a", "b", "c")
    skipped = reclap.SkippedWarning({1: "bad"})
    made = {
        "ClapConfig": (model.config, lambda x: x),
        "Classification": (classification, lambda x: (x.top, x.to_json(), x.attribution.of("dog"))),
        "Embedding": (embedding, lambda x: (x.index, x.file, x.row.tolist(), x.error)),
        "Embeddings": (of, lambda x: {**vars(x), "rows": x.rows.tolist()}),
        "Model": (model, lambda x: (x.digest, x.text_digest, x.info())),
        "PromptBank": (bank, lambda x: (x, x.digest)),
        "SkippedWarning": (skipped, lambda x: (str(x), vars(x))),
        "Timeline": (timeline, lambda x: (x.to_json(), x.best)),
        "load": (reclap.load, lambda x: x(folder).digest),
        "nearest": (reclap.nearest, lambda x: x(of, of).order.tolist()),
    }
    if name in made:
        return made[name]
    if name in ("describe", "rewrite", "train"):
        return getattr(reclap, name), lambda x: x is getattr(reclap, name)
    error = getattr(reclap, name)
    assert issubclass(error, reclap.ReclapError), f"{name}: say how one is made, and what it tells"
    return error("what is wrong"), lambda x: (str(x), vars(x))


@pytest.mark.parametrize("again", [copied, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("name", reclap.__all__)
def test_everything_public_survives_copies(small, small_folder, tones, name, again):
    value, told = one_of(name, small, small_folder, tones)
    other = again(value)
    assert type(other) is type(value)
    assert told(other) == told(value)


def test_exceptions_survive_pickling():
    """One that does not breaks the whole pool of processes."""
    for error in (
        reclap.FormatError("bad"),
        reclap.SkippedWarning({1: "bad"}),
        RequestError("http", "refused", again=True, wait=2.0),
    ):
        other = copied(error)
        assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))


def test_hub_id_is_loaded_by_its_id_again():
    opening = Opening({"source": "org/name", "tokenizer": None, "offline": False}, Path("cache"))
    assert opening.options["source"] == "hf:org/name"


OLD_NAMES = [
    ("reclap.audio", "AudioConfig"),
    ("reclap.clips", "Clip"),
    ("reclap.config", "ClapConfig"),
    ("reclap.config.towers", "TextConfig"),
    ("reclap.embeddings", "Embeddings"),
    ("reclap.loading", "Opening"),
    ("reclap.loading", "reopen"),
    ("reclap.manifest", "Row"),
    ("reclap.model", "Model"),
    ("reclap.prompts.bank", "Description"),
    ("reclap.prompts.bank", "Entry"),
    ("reclap.prompts.bank", "Prompt"),
    ("reclap.results", "Timeline"),
    ("reclap.text", "Tokenizer"),
    ("reclap.text_encoder", "TextEncoder"),
    ("reclap.towers", "TextConfig"),
    ("reclap.training.data", "Data"),
    ("reclap.training.recipe", "Eval"),
    ("reclap.training.recipe", "ModelPart"),
    ("reclap.training.recipe", "Optim"),
    ("reclap.training.recipe", "Run"),
]


@pytest.mark.parametrize(("module", "name"), OLD_NAMES)
def test_names_in_older_pickles_are_found(module, name):
    code = (
        "import pickle, importlib\n"
        f"found = pickle.loads(b'c{module}\\n{name}\\n.')\n"
        f"assert found.__name__ == {name!r} and found.__module__ != {module!r}\n"
        "assert getattr(importlib.import_module(found.__module__), found.__name__) is found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


def test_pickle_of_a_model_that_was_written_before_modules_moved(small_folder):
    model = reclap.load(small_folder, threads=1)
    data = pickle.dumps(model, protocol=0).replace(b"reclap.model.loading\n", b"reclap.loading\n")
    assert b"reclap.loading\n" in data
    np.testing.assert_array_equal(
        pickle.loads(data).embed_text(TEXTS),  # noqa: S301
        model.embed_text(TEXTS),
    )
