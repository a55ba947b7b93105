"""Zero-shot classification by banks of prompts: rules, draws, attribution, cached embeddings."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from closeness import assert_close

import reclap
from reclap.model import prompt_cache
from reclap.prompts.bank import Description, Entry, Prompt, PromptBank
from reclap.prompts.combine import RULES
from reclap.store import Store

PROMPTS = {
    "dog": ["a gruff bark", "a dog yelps", "growling", "bark bark"],
    "rain": ["a steady hiss", "drops on tin", "rain falls"],
    "bell": ["a bell rings"],
}
BANK = PromptBank.from_prompts(PROMPTS, "three")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECLAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def fresh(small_folder):
    """Return a model that has seen no bank yet."""
    return reclap.load(small_folder, threads=2)


# ---- Rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_classify_scores_by_the_rule(small, tones, rule):
    texts = [text for group in PROMPTS.values() for text in group]
    prompts = small.embed_text(texts)
    cosines = small.embed_audio(tones).astype(np.float64) @ prompts.T
    want = reference.combine(cosines, prompts, [0, 4, 7, 8], rule, small.logit_scale)
    results = small.classify(tones, BANK, combine=rule)
    assert_close([r.scores for r in results], want, terms=64, magnitude=1)
    for result, row in zip(results, want, strict=True):
        assert result.label == list(PROMPTS)[row.argmax()]
        assert_close(
            result.probabilities, reference.softmax(small.logit_scale * row), terms=64, magnitude=8
        )


def test_plain_prompts_and_a_bank_of_them_score_alike(small, tones):
    for rule in RULES:
        for a, b in zip(
            small.classify(tones, PROMPTS, combine=rule),
            small.classify(tones, BANK, combine=rule),
            strict=True,
        ):
            np.testing.assert_array_equal(a.scores, b.scores)


def test_prompts_are_drawn(small, tones):
    drawn = BANK.select(["dog", "rain"]).sample(2, seed=4)
    [want] = small.classify(tones[0], drawn)
    for labels in (BANK.select(["dog", "rain"]), {k: PROMPTS[k] for k in ("dog", "rain")}):
        [got] = small.classify(tones[0], labels, n_prompts=2, seed=4, explain=True)
        assert got.attribution.prompts == drawn
        np.testing.assert_array_equal(got.scores, want.scores)


def test_too_few_prompts_name_the_label(small, tones):
    with pytest.raises(ValueError, match="2 prompts of each label wanted, but 'bell' has 1"):
        small.classify(tones[0], BANK, n_prompts=2)


def test_a_label_without_prompts_in_use_is_named(small, tones):
    rejected = Entry("bell", "", (Description("", (Prompt("a bell", "rejected"),)),))
    bank = BANK.replace(entries=dict(BANK.entries) | {"bell": rejected})
    with pytest.raises(ValueError, match=r"labels\['bell'\]: expected at least one"):
        small.classify(tones[0], bank)


def test_an_unknown_rule_is_refused_before_any_work(small):
    with pytest.raises(ValueError, match="combine is 'median', expected one of"):
        small.classify("no such file.wav", BANK, combine="median")


@pytest.mark.parametrize("rule", RULES)
def test_timeline_scores_by_the_rule(small, tones, rule):
    [alone] = small.classify(tones[0], BANK, combine=rule)
    timeline = small.timeline(tones[0], BANK, window=60.0, combine=rule)
    assert timeline.labels == ("dog", "rain", "bell")
    assert_close(timeline.scores[0], alone.scores, terms=64, magnitude=1)


def test_timeline_draws_prompts(small, tones):
    bank = BANK.select(["dog", "rain"])
    a = small.timeline(tones[2], bank, window=0.5, n_prompts=1, seed=1)
    b = small.timeline(tones[2], bank.sample(1, 1), window=0.5)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)  # texts had other company
    other = small.timeline(tones[2], bank, window=0.5, n_prompts=1, seed=2)
    assert np.abs(a.scores - other.scores).max() > 1e-4  # which hides no other draw


# ---- Attribution ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_attribution_adds_up_to_the_score(small, tones, rule):
    plain = small.classify(tones, BANK, combine=rule)
    for result, other in zip(
        small.classify(tones, BANK, combine=rule, explain=True), plain, strict=True
    ):
        np.testing.assert_array_equal(result.scores, other.scores)
        assert other.attribution is None
        for label, score in zip(result.labels, result.scores, strict=True):
            shares = result.attribution.of(label)
            assert sorted(s.prompt for s in shares) == sorted(PROMPTS[label])
            parts = [s.contribution for s in shares]
            used = [s.contribution for s in shares if s.weight]
            assert parts[: len(used)] == sorted(used, reverse=True)
            if rule != "logsumexp":
                assert_close(sum(parts), score, terms=64, magnitude=1)


def test_attribution_holds_cosines(small, tones):
    [result] = small.classify(tones[1], BANK, combine="max", explain=True)
    texts = [s.prompt for s in result.attribution.of("dog")]
    want = small.embed_audio(tones[1])[0].astype(np.float64) @ small.embed_text(texts).T
    assert_close([s.cosine for s in result.attribution.of("dog")], want, terms=64, magnitude=1)
    assert [s.weight for s in result.attribution.of("dog")] == [1, 0, 0, 0]
    with pytest.raises(KeyError, match="cat"):
        result.attribution.of("cat")


def test_skipped_sounds_have_no_attribution(small, tones, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    results = small.classify(
        [tones[0], tmp_path / "bad.wav", tones[1]], BANK, explain=True, errors="skip"
    )
    assert [r.attribution is None for r in results] == [False, True, False]


# ---- Cached embeddings ---------------------------------------------------------------------------


def counted(model, monkeypatch):
    calls = []
    embed = model.embed_text
    monkeypatch.setattr(model, "embed_text", lambda texts: calls.append(len(texts)) or embed(texts))
    return calls


def test_a_bank_is_embedded_once(fresh, small_folder, cache, monkeypatch, tones):
    calls = counted(fresh, monkeypatch)
    for seed in range(3):
        fresh.classify(tones[0], BANK, n_prompts=1, seed=seed)
    assert calls == [8]
    [file] = cache.iterdir()
    assert file.name == f"{fresh.text_digest}.store"
    again = reclap.load(small_folder)
    more = counted(again, monkeypatch)
    [from_file] = again.classify(tones[0], BANK)
    assert more == []
    [without] = again.classify(tones[0], BANK, cache=False)
    assert more == [8]
    np.testing.assert_array_equal(from_file.scores, without.scores)


def test_nothing_is_kept_without_a_cache(fresh, cache, monkeypatch, tones):
    calls = counted(fresh, monkeypatch)
    fresh.classify(tones[0], BANK, cache=False)
    fresh.timeline(tones[0], BANK, cache=False)
    fresh.class_vectors(BANK, cache=False)
    fresh.classify(tones[0], PROMPTS)
    assert calls == [8] * 4
    assert not cache.exists()


def test_each_model_has_a_store_with_every_prompt_once(fresh, fused_folder, cache):
    fresh.class_vectors(BANK.select(["dog"]))
    fresh.class_vectors(BANK)
    fresh.class_vectors(BANK.replace(name="renamed"))
    other = reclap.load(fused_folder)
    other.class_vectors(BANK)
    assert {p.name for p in cache.iterdir()} == {
        f"{model.text_digest}.store" for model in (fresh, other)
    }
    texts = [text for group in BANK.prompts().values() for text in group]
    for folder in cache.iterdir():
        store = Store(folder)
        store.verify()
        assert sorted(store.items) == sorted(texts)


def test_the_tokenizer_counts(small_folder, fresh, tmp_path):
    text = (small_folder / "tokenizer.json").read_text().replace('"##', '"#')
    other = tmp_path / "model"
    fresh.save(other)
    (other / "tokenizer.json").unlink()
    (other / "tokenizer.json").write_text(text)
    changed = reclap.load(other)
    assert changed.digest == fresh.digest
    assert changed.text_digest != fresh.text_digest


def test_memory_holds_few_banks(fresh, cache, monkeypatch):
    calls = counted(fresh, monkeypatch)
    banks = [
        PromptBank.from_prompts({"a": [f"text {i}"]}) for i in range(prompt_cache.IN_MEMORY + 3)
    ]
    for bank in banks:
        fresh.class_vectors(bank)
    assert len(fresh._prompts._kept) == prompt_cache.IN_MEMORY
    fresh.class_vectors(banks[0])  # read from its file
    assert len(calls) == len(banks)


@pytest.mark.parametrize(
    ("labels", "lost"),
    [
        (["\U0001f436", "rain", "\U0001f431"], ["\U0001f436", "\U0001f431"]),
        ({"dog": ["\U0001f436"], "rain": ["rain", "\U0001f327"], "\U0001f431": ["a"]}, ["dog"]),
        (["rain", "a dog", "a \U0001f436 dog"], []),
    ],
)
def test_labels_that_the_tokenizer_does_not_know_are_told(fresh, tones, caplog, labels, lost):
    with caplog.at_level(logging.WARNING):
        fresh.classify(tones[0], labels, cache=False)
    told = [r.getMessage() for r in caplog.records if "knows no part of" in r.getMessage()]
    assert len(told) == bool(lost)
    assert [
        text
        for text in ("\U0001f436", "\U0001f431", "dog", "rain")
        if any(repr(text) in line for line in told)
    ] == lost


def test_lists_of_labels_are_embedded_once(fresh, small_folder, cache, monkeypatch, tones):
    calls = counted(fresh, monkeypatch)
    for _ in range(2):
        fresh.classify(tones[0], ["rain", "dog"])
        fresh.timeline(tones[0], {"rain": ["wet", "drops"], "dog": ["wet"]})
        fresh.classify(tones[0], ["dog", "rain"], template="{label}")
    assert calls == [2, 2, 2]
    fresh.class_vectors([f"few {i}" for i in range(255)])
    assert not cache.exists()
    many = [f"label {i}" for i in range(256)]
    _, want = fresh.class_vectors(many)
    again = reclap.load(small_folder)
    more = counted(again, monkeypatch)
    np.testing.assert_array_equal(again.class_vectors(many)[1], want)
    assert more == []
    np.testing.assert_array_equal(again.class_vectors(many, cache=False)[1], want)


def test_what_another_process_keeps_meanwhile_stays(fresh, small_folder, cache, monkeypatch):
    other, embed = PromptBank.from_prompts({"a": ["kept meanwhile"]}), fresh.embed_text

    def slow(texts):
        reclap.load(small_folder).class_vectors(other)
        return embed(texts)

    monkeypatch.setattr(fresh, "embed_text", slow)
    fresh.class_vectors(BANK)
    (folder,) = cache.iterdir()
    texts = [text for group in PROMPTS.values() for text in group]
    assert Store(folder).items == ("kept meanwhile", *texts)


@pytest.mark.parametrize("damage", ["rows", "header", "dim"])
def test_a_damaged_store_is_made_anew(fresh, small_folder, cache, caplog, damage):
    _, want = fresh.class_vectors(BANK)
    [folder] = cache.iterdir()
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    if damage == "rows":
        content = whole["rows.bin"]
        (folder / "rows.bin").write_bytes(bytes(4) + content[4:])
    else:
        text = (folder / "header.json").read_text()
        changed = "{" if damage == "header" else text.replace('"dim": 20', '"dim": 10')
        (folder / "header.json").write_text(changed)
    with caplog.at_level(logging.WARNING):
        _, got = reclap.load(small_folder).class_vectors(BANK)
    np.testing.assert_array_equal(got, want)
    assert "the cache is rebuilt" in caplog.text
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == whole


def test_prompts_that_were_embedded_before_a_kill_are_not_embedded_again(
    fresh, small_folder, cache, monkeypatch
):
    many = [f"label {i}" for i in range(2 * prompt_cache.BLOCK)]
    _, want = fresh.class_vectors(many, cache=False)
    embed, calls = fresh.embed_text, []

    def killed(texts):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(texts))
        return embed(texts)

    monkeypatch.setattr(fresh, "embed_text", killed)
    with pytest.raises(KeyboardInterrupt):
        fresh.class_vectors(many)
    again = reclap.load(small_folder)
    more = counted(again, monkeypatch)
    np.testing.assert_array_equal(again.class_vectors(many)[1], want)
    assert more == [prompt_cache.BLOCK]


def test_the_cache_of_prompts_does_not_grow_for_ever(fresh, fused_folder, cache, monkeypatch):
    other = reclap.load(fused_folder)
    other.class_vectors(BANK)
    os.utime(cache / f"{other.text_digest}.store", (1, 1))  # long ago
    one = reclap.io.cache_dir.size_of(cache / f"{other.text_digest}.store")
    monkeypatch.setattr(prompt_cache, "MAX_BYTES", one + one // 2)
    fresh.class_vectors(BANK)
    assert [p.name for p in cache.iterdir()] == [f"{fresh.text_digest}.store"]


def test_a_folder_that_cannot_be_written_is_done_without(fresh, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RECLAP_CACHE", str(tmp_path / "file"))
    _, want = fresh.class_vectors(BANK, cache=False)
    with caplog.at_level(logging.WARNING):
        _, got = fresh.class_vectors(BANK)
    np.testing.assert_array_equal(got, want)
    assert "not cached" in caplog.text


def test_cache_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("RECLAP_CACHE", str(tmp_path))
    assert reclap.io.cache_dir.cache_folder() == tmp_path
    monkeypatch.delenv("RECLAP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert reclap.io.cache_dir.cache_folder() == tmp_path / "xdg" / "reclap"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert reclap.io.cache_dir.cache_folder() == tmp_path / "home" / ".cache" / "reclap"


CHILD = """
import sys
import reclap
bank = reclap.PromptBank.from_prompts({f"label {i}": [f"text {i} {j}" for j in range(5)]
                                       for i in range(40)})
print(reclap.load(sys.argv[1], threads=1).class_vectors(bank)[1].tobytes().hex())
"""


@pytest.mark.slow
def test_processes_share_the_folder(small_folder, cache):
    environment = os.environ | {"PYTHONPATH": str(Path(reclap.__file__).parents[1])}
    command = [sys.executable, "-c", CHILD, str(small_folder)]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(4)
    ]
    answers = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(answers) == 1
    assert len(list(cache.iterdir())) == 1
