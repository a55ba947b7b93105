"""Manifests: what is read, and what is refused with file and line."""

import json

import pytest
from needs import needs

from reclap.errors import FormatError
from reclap.io import manifest


@pytest.fixture
def sounds(tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder, name, *lines):
    path = folder / name
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


def test_csv_row_holds_path_caption_rewrites_and_the_rest(sounds):
    path = write(
        sounds, "m.csv", "path,caption,rewrites,fold", 'a.wav,A dog,"[""One"", ""Two""]",3'
    )
    (row,) = manifest.read(path)
    assert row.path == sounds / "a.wav"
    assert row.captions == (manifest.Caption("A dog", ("One", "Two")),)
    assert row.extra == {"fold": "3"}


def test_mark_that_excel_puts_first_is_no_part_of_a_name(sounds):
    path = sounds / "m.csv"
    path.write_bytes("path,caption\na.wav,A dog\n".encode("utf-8-sig"))
    (row,) = manifest.read(path)
    assert row.path == sounds / "a.wav"
    assert row.extra == {}


def test_json_line_holds_the_same(sounds):
    path = write(
        sounds, "m.jsonl", {"audio": "a.wav", "caption": "A", "rewrites": ["B"], "fold": 3}, "", ""
    )
    (row,) = manifest.read(path)
    assert row.captions == (manifest.Caption("A", ("B",)),)
    assert row.extra == {"fold": "3"}


def test_several_captions_with_rewrites_of_their_own(sounds):
    several = [{"caption": "A", "rewrites": ["B", "C"]}, {"caption": "D"}]
    (row,) = manifest.read(write(sounds, "m.jsonl", {"path": "a.wav", "captions": several}))
    assert row.captions == (manifest.Caption("A", ("B", "C")), manifest.Caption("D"))


def test_negatives_and_modules_are_lists_of_texts(sounds):
    further = {"negatives": ["B", "C"], "modules": ["D"]}
    want = manifest.Caption("A", (), ("B", "C"), ("D",))
    row = {"path": "a.wav", "caption": "A"} | further
    assert manifest.read(write(sounds, "m.jsonl", row))[0].captions == (want,)
    listed = {"path": "a.wav", "captions": [{"caption": "A"} | further, {"caption": "E"}]}
    found = manifest.read(write(sounds, "m.jsonl", listed))[0].captions
    assert found == (want, manifest.Caption("E"))
    cells = write(sounds, "m.csv", "path,caption,modules,negatives", "a.wav,A,\"['D']\",")
    (row,) = manifest.read(cells)
    assert row.captions == (manifest.Caption("A", (), (), ("D",)),)
    assert row.extra == {}


def test_reclap_column_holds_a_python_list(sounds):
    cell = """"['it\\'s', ""b""]\""""
    path = write(sounds, "m.csv", "audio,caption,rewritten_captions", f"a.wav,A,{cell}")
    assert manifest.read(path)[0].captions[0].rewrites == ("it's", "b")


def test_python_code_in_a_cell_is_not_run(sounds):
    cell = f"\"[__import__('pathlib').Path('{sounds}/ran').touch()]\""
    path = write(sounds, "m.csv", "path,caption,rewrites", f"a.wav,A,{cell}")
    with pytest.raises(FormatError, match=r"m\.csv:2: rewrites: expected a list"):
        manifest.read(path)
    assert not (sounds / "ran").exists()


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['a\\'b', \"c\"]", ("a'b", "c")),
        ("[ 'a' , ]", ("a",)),
        ("['\\u00e9, \\n']", ("é,",)),
        ("[]", ()),
        ("[" * 90_000, None),
        ("[" * 90_000 + "]" * 90_000, None),
        ("[" + "-" * 90_000 + "1]", None),
        ("['a'" + " " * 100_000 + "x", None),
        ("['a', b'c']", None),
        ("['a' 'b']", None),
        ("['\\N{no such}']", None),
        ("['\\xzz']", None),
        ("'" * 90_001, None),
        ("[" + "'a'," * 30_000, None),
    ],
)
def test_python_list_is_a_flat_list_of_texts(sounds, cell, expected):
    """Anything else would let a cell of brackets exhaust the parser's stack."""
    quoted = '"' + cell.replace('"', '""') + '"'
    path = write(sounds, "m.csv", "path,caption,rewrites", f"a.wav,A,{quoted}")
    if expected is None:
        with pytest.raises(FormatError, match=r"m\.csv:2: (rewrites: expected|field larger)"):
            manifest.read(path)
    else:
        assert manifest.read(path)[0].captions[0].rewrites == expected


def test_faulty_rows_are_told_all_at_once(sounds):
    rows = [{"path": "a.wav", "caption": "A" if k == 2 else " "} for k in range(9)]
    path = write(sounds, "m.jsonl", *rows)
    message = r"8 faulty rows: .*m\.jsonl:1: caption is empty.*m\.jsonl:6: .*; and 3 more"
    with pytest.raises(FormatError, match=message):
        manifest.read(path)


def test_row_knows_its_line(sounds):
    path = write(sounds, "m.csv", "path,caption", "a.wav,A", "b.wav,B")
    _, row = manifest.read(path)
    assert row.at == f"{path}:3"
    assert row.fault(ValueError("too short")) == f"{path}:3: {row.path}: too short"
    assert row.fault(ValueError(f"{row.path}: cut")) == f"{path}:3: {row.path}: cut"


def test_empty_cell_means_no_rewrites(sounds):
    path = write(sounds, "m.csv", "path,caption,rewrites", "a.wav,A,")
    assert manifest.read(path)[0].captions[0].rewrites == ()


def test_quoted_cells_may_span_lines(sounds):
    path = write(sounds, "m.csv", "path,caption", 'a.wav,"A\ndog"', "b.wav,")
    with pytest.raises(FormatError, match=r"m\.csv:4: caption is empty"):
        manifest.read(path)


def test_root_moves_relative_paths_only(sounds, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    lines = [{"path": p, "caption": "A"} for p in ("a.wav", str(sounds / "b.wav"))]
    path = write(elsewhere, "m.jsonl", *lines)
    assert [r.path for r in manifest.read(path, sounds)] == [sounds / "a.wav", sounds / "b.wav"]


def test_filter_compares_as_strings(sounds):
    rows = [{"path": "a.wav", "caption": "A", "fold": f} for f in (1, 2, "3")]
    path = write(sounds, "m.jsonl", *rows)
    assert [r.extra["fold"] for r in manifest.read(path, where={"fold": [2, 3]})] == ["2", "3"]


def test_rows_outside_the_filter_need_no_files(sounds):
    rows = [{"path": p, "caption": "A", "fold": p[0]} for p in ("a.wav", "none.wav")]
    assert len(manifest.read(write(sounds, "m.jsonl", *rows), where={"fold": ["a"]})) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["caption,fold", "A,1"], r"m\.csv:2: no column path; has caption, fold"),
        (["path,fold", "a.wav,1"], r"m\.csv:2: no column caption; has path, fold$"),
        (["path,caption", "a.wav"], r"m\.csv:2: caption is empty$"),
        (["caption,path", "A dog"], r"m\.csv:2: path is empty$"),
        (["path,captions", "a.wav"], r"m\.csv:2: captions is empty$"),
        (["path,captions", "a.wav,"], r"m\.csv:2: captions is empty$"),
        (["path,captions,caption", "a.wav,"], r"m\.csv:2: caption is empty$"),
        (["path,caption", "a.wav,A", "b.wav,  "], r"m\.csv:3: caption is empty"),
        (["path,caption", ",A"], r"m\.csv:2: path is empty"),
        (["path,caption,rewrites", "a.wav,A,one; two"], r"m\.csv:2: rewrites: expected a list"),
        (["path,caption,rewrites", 'a.wav,A,"[1]"'], r"m\.csv:2: rewrites\[0\]: expected a text"),
        (["path,caption,rewrites", 'a.wav,A,"[""""]"'], r"m\.csv:2: rewrites\[0\] is empty"),
        (["path,caption", "a.wav,A,B,C"], r"m\.csv:2: more cells than the 2 columns"),
        (["path,caption", 'a.wav,"A'], r"m\.csv:2: unexpected end"),
        (["path,caption"], r"m\.csv: no row$"),
        ([""], r"m\.csv: no row$"),
    ],
)
def test_bad_csv_is_named_with_its_line(sounds, lines, message):
    with pytest.raises(FormatError, match=message):
        manifest.read(write(sounds, "m.csv", *lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], r"m\.jsonl:1: not JSON"),
        (["[1]"], r"m\.jsonl:1: expected an object, got list"),
        (["", '{"path": 3, "caption": "A"}'], r"m\.jsonl:2: path: expected a text, got 3"),
        (['{"path": "a.wav", "caption": null}'], r"m\.jsonl:1: caption: expected a text"),
        (['{"path": "a.wav", "captions": []}'], r"m\.jsonl:1: captions: expected a list"),
        (['{"path": "a.wav", "captions": [{}]}'], r"1: captions\[0\]: no column caption"),
        (
            ['{"path": "a.wav", "captions": [{"caption": "A", "rewrite": []}]}'],
            r"m\.jsonl:1: captions\[0\]: unknown rewrite",
        ),
        (
            ['{"path": "a.wav", "captions": [{"caption": "A"}], "negatives": ["B"]}'],
            r"m\.jsonl:1: negatives: belongs to a caption; move it into captions",
        ),
        (
            ['{"path": "a.wav", "caption": "A dog", "negatives": ["B", "a dog"]}'],
            r"1: negatives\[1\]: 'a dog' is a caption, rewrite or module of this sound",
        ),
        (['{"path": "a.wav", "caption": "A", "modules": "B"}'], r"1: modules: expected a list"),
    ],
)
def test_bad_json_line_is_named_with_its_line(sounds, lines, message):
    with pytest.raises(FormatError, match=message):
        manifest.read(write(sounds, "m.jsonl", *lines))


def test_a_url_is_called_one_where_files_are_checked(sounds):
    url = "https://example.com/a.wav"
    path = write(sounds, "m.jsonl", *({"path": x, "caption": "A"} for x in ("a.wav", url)))
    with pytest.raises(FormatError, match=rf"m\.jsonl:2: path {url} is a URL: download"):
        manifest.read(path)
    assert len(manifest.read(path, check_files=False)) == 2
    (sounds / "https:" / "example.com").mkdir(parents=True)
    (sounds / "https:" / "example.com" / "a.wav").touch()
    assert len(manifest.read(path)) == 2


def test_all_missing_files_are_counted_and_some_named(sounds):
    rows = [{"path": f"no{i}.wav", "caption": "A"} for i in range(8)]
    path = write(sounds, "m.jsonl", {"path": "a.wav", "caption": "A"}, *rows)
    with pytest.raises(
        FileNotFoundError, match=r"8 of 9 sound files are missing.*no4\.wav, \.\.\."
    ):
        manifest.read(path)
    assert len(manifest.read(path, check_files=False)) == 9


def test_folder_is_no_sound_file(sounds):
    (sounds / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="1 of 1"):
        manifest.read(write(sounds, "m.jsonl", {"path": "folder", "caption": "A"}))


def test_filter_that_keeps_nothing_is_named(sounds):
    path = write(sounds, "m.jsonl", {"path": "a.wav", "caption": "A", "fold": 1})
    with pytest.raises(FormatError, match="no row where fold is 2 or 3"):
        manifest.read(path, where={"fold": [2, 3]})


def test_filter_by_an_absent_column_is_refused(sounds):
    path = write(sounds, "m.jsonl", {"path": "a.wav", "caption": "A"})
    with pytest.raises(FormatError, match=r"m\.jsonl:1: no column split to filter"):
        manifest.read(path, where={"split": ["x"]})


def test_other_endings_and_encodings_are_refused(sounds):
    with pytest.raises(FormatError, match=r"expected a manifest called \.csv or \.jsonl"):
        manifest.read(write(sounds, "m.txt", "x"))
    (sounds / "m.csv").write_bytes(b"path,caption\na.wav,\xff\xfe\n")
    with pytest.raises(FormatError, match=r"m\.csv: not UTF-8"):
        manifest.read(sounds / "m.csv")
    with pytest.raises(FileNotFoundError):
        manifest.read(sounds / "absent.csv")


def test_captions_may_be_kept_once_for_many_rows(tmp_path):
    captions = {
        "dog": [{"caption": "A dog barks.", "rewrites": ["Woof."]}],
        "rain": [{"caption": "Rain."}],
    }
    (tmp_path / "c.json").write_text(json.dumps(captions))
    path = tmp_path / "m.csv"
    path.write_text("path,captions\na.wav,c.json#dog\nb.wav,c.json#rain\nc.wav,c.json#dog\n")
    rows = manifest.read(path, check_files=False)
    assert [row.captions[0].text for row in rows] == ["A dog barks.", "Rain.", "A dog barks."]
    assert rows[0].captions is rows[2].captions
    assert manifest.files(path) == [path, tmp_path / "c.json"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("c.json#cat", r"no 'cat' in .*c\.json, which has dog, bad$"),
        ("l.json#cat", r"no 'cat' in .*l\.json, which is no object of lists$"),
        ("c.json", r"'c\.json' is no list; write file\.json#key$"),
        ("#dog", r"'#dog' is no list; write file\.json#key$"),
        ("d.json#dog", r"cannot read .*d\.json"),
        ("c.json#bad", r"c\.json: bad: captions: expected a list of objects"),
    ],
)
def test_wrong_references_to_captions_name_the_line(tmp_path, reference, message):
    (tmp_path / "c.json").write_text('{"dog": [{"caption": "A dog."}], "bad": [1]}')
    (tmp_path / "l.json").write_text("[]")
    path = tmp_path / "m.csv"
    path.write_text(f"path,captions\na.wav,{reference}\n")
    with pytest.raises(FormatError, match=message):
        manifest.read(path, check_files=False)


def test_a_row_without_a_list_of_captions_has_its_own(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("path,caption,captions\na.wav,A dog,\nb.wav,A cat\n")
    rows = manifest.read(path, check_files=False)
    assert [row.captions[0].text for row in rows] == ["A dog", "A cat"]


def test_parquet_rows_are_counted_through_all_batches(sounds, monkeypatch):
    pyarrow = needs("pyarrow", "parquet")
    parquet = needs("pyarrow.parquet", "parquet")
    monkeypatch.setattr(manifest, "_BATCH", 2)
    captions = ["A", "B", "C", " ", "E"]
    rows = [{"path": "a.wav", "caption": c, "fold": i} for i, c in enumerate(captions)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), sounds / "m.parquet")
    with pytest.raises(FormatError, match=r"m\.parquet:4: caption is empty"):
        manifest.read(sounds / "m.parquet")
    kept = manifest.read(sounds / "m.parquet", where={"caption": ["A", "C", "E"]})
    assert [row.at.rpartition(":")[2] for row in kept] == ["1", "3", "5"]
    assert kept[2].extra == {"fold": "4"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "m.csv",
            "path,caption,caption\na.wav,x,y\n",
            r"m\.csv:1: column 'caption' more than once",
        ),
        (
            "m.jsonl",
            '{"path": "a.wav", "caption": "x", "caption": "y"}\n',
            r"m\.jsonl:1: 'caption' more than once",
        ),
    ],
)
def test_columns_and_keys_that_are_there_twice_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=message):
        manifest.read(tmp_path / name, check_files=False)
