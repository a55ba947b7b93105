"""The data set of real recordings: manifest and splits of recipes/sounds."""

import hashlib
import importlib.util
import json
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from reclap.datasets import audit
from reclap.io import manifest as reclap_manifest

SOUNDS = Path(__file__).parents[1] / "recipes" / "sounds"
SPLITS = SOUNDS / "splits"


def script(name: str):
    """Return a script of the recipe as a module."""
    spec = importlib.util.spec_from_file_location(name, SOUNDS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(kind: str) -> dict[str, list[str]]:
    """Return the ids of each list of one kind of split."""
    return {p.stem: p.read_text("utf-8").splitlines() for p in sorted((SPLITS / kind).glob("*"))}


@pytest.fixture(scope="module")
def written(shared, tmp_path_factory):
    out = tmp_path_factory.mktemp("sounds") / "sounds.jsonl"
    audio = shared / "audio"
    if not (audio / "kinds.csv").is_file():
        pytest.skip("the shared test data has no kinds.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["make_manifest.py", str(audio), str(out)])
        script("make_manifest").main()
    return out


@pytest.fixture(scope="module")
def manifest(written):
    return [json.loads(line) for line in written.read_text("utf-8").splitlines()]


def crossing(rows, lists):
    """Return the sources that several lists hold."""
    source = {row["id"]: row["source"] for row in rows}
    homes = defaultdict(set)
    for name, ids in lists.items():
        for i in ids:
            homes[source[i]].add(name)
    return {s for s, names in homes.items() if len(names) > 1}


def test_digests_of_splits_hold():
    sums = dict(
        reversed(line.split("  ")) for line in (SPLITS / "SHA256SUMS").read_text().splitlines()
    )
    files = {p.relative_to(SPLITS).as_posix(): p for p in SPLITS.glob("*/*")}
    assert sums.keys() == files.keys()
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[name], name


@pytest.mark.parametrize("kind", ["heard", "unheard", "esc10"])
def test_an_id_is_in_one_list(kind):
    ids = [i for part in listed(kind).values() for i in part]
    assert len(ids) == len(set(ids)) > 300


@pytest.mark.slow
def test_manifest_has_every_recording(manifest, shared):
    ids = [row["id"] for row in manifest]
    assert len(ids) == len(set(ids))
    assert ids == sorted(ids)
    paths = {row["path"] for row in manifest}
    assert len(paths) == 320 + 931
    assert all((shared / "audio" / path).is_file() for path in paths)
    required = {"kind", "group", "source", "licence", "seconds", "archive"}
    assert all(
        required <= row.keys() and all(row.values()) for row in manifest if "start" not in row
    )


@pytest.mark.slow
def test_manifest_is_read_with_the_captions_of_its_kinds(written, manifest, shared):
    texts = script("make_manifest").captions(SOUNDS / "captions")
    read = reclap_manifest.read(written, shared / "audio")
    assert len(read) == len(manifest) == 1416
    names = {"en": "English", "fr": "French", "it": "Italian"}
    for row in read:
        listed = texts[row.extra["kind"]]
        if "language" in row.extra:
            listed = texts[f"speech in {names[row.extra['language']]}"] + listed
        listed = texts.get(row.extra["id"], []) + listed
        assert [c.text for c in row.captions] == [item["caption"].strip() for item in listed]
        assert all(len(c.rewrites) >= 8 for c in row.captions)


def test_every_kind_and_language_has_captions_or_it_is_told():
    make = script("make_manifest")
    texts = make.captions(SOUNDS / "captions")
    for language, name in make.LANGUAGES.items():
        row = {"id": "a", "kind": "speech", "language": language}
        key, listed = make.captions_of(row, texts)
        assert key == f"speech in {name}"
        assert listed == texts[key] + texts["speech"]
        assert len(texts[key]) >= 3
    with pytest.raises(ValueError, match="a: no captions of humming"):
        make.captions_of({"id": "a", "kind": "humming"}, texts)


@pytest.mark.slow
def test_page_has_the_counts(manifest):
    page = (SOUNDS.parents[1] / "docs" / "data.md").read_text("utf-8")
    assert script("count").tables(manifest) in page


@pytest.mark.slow
def test_windows_cover_their_recording(manifest):
    windows = defaultdict(list)
    for row in manifest:
        windows[row["path"]].append((row.get("start", 0), row["seconds"], row["source"]))
    several = [w for w in windows.values() if len(w) > 1]
    assert len(several) > 80
    for parts in several:
        for (start, seconds, source), after in pairwise(parts):
            assert after[0] == pytest.approx(start + seconds, abs=0.01)
            assert after[2] == source


@pytest.mark.slow
def test_speech_is_speech_whoever_speaks(manifest):
    speech = [row for row in manifest if row["group"] == "speech"]
    assert {row["kind"] for row in speech} == {"speech"}
    assert {row["language"] for row in speech} == {"en", "fr", "it"}
    assert not re.search(r"\b(wo)?man\b", json.dumps([row["kind"] for row in manifest]))


@pytest.mark.slow
def test_splits_are_those_of_the_manifest(manifest):
    for name, ids in script("make_splits").lists(manifest).items():
        assert (SPLITS / name).read_text("utf-8").splitlines() == ids, name


@pytest.mark.slow
def test_clips_of_one_recording_have_one_source(manifest):
    source = {row["id"]: row["source"] for row in manifest}
    assert source["esc10/fire_crackling/2-28314-A"] == source["esc10/fire_crackling/2-30322-A"]
    assert len(set(source.values())) == 431


@pytest.mark.slow
def test_no_source_crosses(manifest):
    assert crossing(manifest, listed("heard")) == set()
    assert crossing(manifest, listed("unheard")) == set()
    assert crossing(manifest, listed("esc10")) == set()
    row = next(r for r in manifest if r["id"] == listed("heard")["fold1"][0])
    assert crossing([*manifest, {"id": "copy", "source": row["source"]}], {
        **listed("heard"), "fold2": [*listed("heard")["fold2"], "copy"]
    }) == {row["source"]}  # fmt: skip


@pytest.mark.slow
def test_heard_kinds_have_two_sources_in_two_folds(manifest):
    kind = {row["id"]: row["kind"] for row in manifest}
    folds = defaultdict(set)
    for fold, ids in listed("heard").items():
        for i in ids:
            folds[kind[i]].add(fold)
    assert len(folds) == 28
    assert min(len(f) for f in folds.values()) >= 2
    assert all(len(folds[k]) == 4 for k in ("cello", "dog barking"))


@pytest.mark.slow
def test_each_kind_is_unheard_once_and_synonyms_together(manifest):
    kind = {row["id"]: row["kind"] for row in manifest}
    third = {kind[i]: split for split, ids in listed("unheard").items() for i in ids}
    assert third.keys() == {row["kind"] for row in manifest}
    sizes = [list(third.values()).count(split) for split in set(third.values())]
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 2
    for kinds in script("make_splits").KINDS["synonyms"].values():
        assert len({third[k] for k in kinds}) == 1


def test_folds_of_esc10_are_those_of_the_bundled_model():
    lines = (SOUNDS.parent / "mini" / "manifest.csv").read_text("utf-8").splitlines()[1:]
    folds = defaultdict(set)
    for line in lines:
        path, fold = line.split(",")[:2]
        folds[f"fold{fold}"].add(f"esc10/{path.removesuffix('.ogg')}")
    assert folds == {name: set(ids) for name, ids in listed("esc10").items()}


@pytest.mark.slow
def test_splits_share_nothing_between_them(written, shared):
    report = audit(SOUNDS, manifest=written, root=shared / "audio", audio=False)
    assert len(report.splits) == 11
    assert report.files == 1251
    assert report.is_clean
