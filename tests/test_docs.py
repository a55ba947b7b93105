"""What the documentation shows runs: README, docstrings, notebook, links."""

import ast
import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from needs import needs

import reclap
from reclap.cli import _parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODULES = sorted(
    m.name for m in pkgutil.walk_packages(reclap.__path__, "reclap.") if "__main__" not in m.name
)


def blocks(text: str, language: str = "") -> list[str]:
    """Return the fenced blocks of a language, or those without one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [body for name, body in fenced if name == language]


def commands(text: str) -> list[str]:
    """Return the lines of plain blocks that call reclap, without the remarks behind two spaces."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    return [re.split(r"\s{2,}", line)[0] for line in lines if line.startswith("reclap ")]


def parse(line: str) -> None:
    try:
        arguments = shlex.split(line)[1:]
        _parser(arguments).parse_args(arguments)
    except SystemExit as error:
        raise AssertionError(f"the command line refuses: {line}") from error


def test_readme_python_block_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (block,) = blocks(README, "python")
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102
    assert "examples/sounds/rain.ogg" in capsys.readouterr().out


def test_python_blocks_of_prompts_page_run(monkeypatch, capsys, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for block in blocks((ROOT / "docs" / "prompts.md").read_text("utf-8"), "python"):
        exec(compile(block, "docs/prompts.md", "exec"), {})  # noqa: S102
    assert "drops on a tin roof" in capsys.readouterr().out


def test_readme_starts_with_two_commands():
    first, second = blocks(README, "sh")
    assert first.count("\n") == second.count("\n") == 1
    assert re.search(r"pip install \. && \S*/reclap classify ", first)
    assert re.search(
        r"""pip install -e '\.\[test\]' && \S*/python -m pytest -n auto -m "not slow"$""",
        second.strip(),
    )
    parse(first.split(" && ")[-1])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_of_page_parse(page):
    for line in commands(page.read_text("utf-8")):
        parse(line)


def test_tasks_of_readme_are_lines_of_python():
    (text,) = re.findall(r"has its line of Python: (.*?)\. Cosine", README, re.S)
    names = re.findall(r"`(.+?)`", text)
    assert len(names) >= 13
    for name in names:
        first, *path = name.split(".")
        value = reclap if first == "reclap" else reclap.Model
        for part in path:
            assert first == "model" or part in value.__all__ or f"reclap.{part}" in MODULES
            value = getattr(value, part, None) or importlib.import_module(f"reclap.{part}")
        assert callable(value)


def test_readme_has_commands_and_is_short():
    assert len(commands(README)) >= 8
    assert 100 <= README.count("\n") <= 250


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_of_page_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    local = [t for t in targets if "://" not in t]
    assert [t for t in local if not (page.parent / t).exists()] == []


def test_design_names_every_file_and_no_other():
    text = (ROOT / "docs/design.md").read_text("utf-8")
    files = [p for f in ("reclap", "csrc") for p in (ROOT / f).rglob("*.[pch]*") if p.is_file()]
    sources = {p for p in files if p.suffix in (".py", ".c", ".h")}
    own = {p for p in sources if p.stem.startswith("__") or p.parent.name == "cli"}
    for path in sorted(sources - own):
        assert re.search(rf"\b{path.stem}\.(\[ch\]|{path.suffix[1:]}\b)", text), path
    known = {
        p.name
        for folder in ("tests", "parity", "fuzz", "benchmarks")
        for p in (ROOT / folder).iterdir()
    }
    known |= {p.name for p in sources} | {"setup.py"}
    named = re.findall(r"[`/](\w+\.(?:py|c|h))\b", text)
    assert len(named) > 100
    assert {name for name in named if name not in known and not name.startswith("NAME")} == set()


def test_every_page_of_docs_is_linked():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert [p.name for p in ROOT.glob("docs/*.md") if f"{p.name})" not in text] == []


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if name == "reclap.plotting":
        needs("matplotlib", "plot")
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_package_docstring_runs():
    failed, tried = doctest.testmod(reclap)
    assert (failed, tried > 0) == (0, True)


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda p: p.name)
def test_notebook_runs(path):
    nbformat = needs("nbformat", "notebook")
    nbclient = needs("nbclient", "notebook")
    needs("ipykernel", "notebook")
    needs("matplotlib", "plot")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    client.execute()


@pytest.mark.extra
@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda p: p.name)
def test_notebook_is_committed_with_small_outputs(path):
    nbformat = needs("nbformat", "notebook")
    assert path.stat().st_size < 300_000
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert any(c.outputs for c in cells)
    assert not any(o.output_type == "error" for c in cells for o in c.outputs)


# ---- The field's words ---------------------------------------------------------------------------

SOURCES = sorted((ROOT / "reclap").rglob("*.py"))


@pytest.mark.parametrize(
    "word",
    [
        "aggregation", "attribution", "cache", "checkpoint", "contrastive", "EMA", "embedding",
        "false negative", "log-mel", "nearest-neighbour", "pooled", "prefetch", "provenance",
        "resampl", "scratch", "zero-shot",
    ],
)  # fmt: skip
def test_a_search_for_the_usual_word_finds_a_page_and_a_docstring(word):
    assert any(word in page.read_text("utf-8") for page in PAGES if page.name != "CHANGELOG.md")
    strings = [
        ast.get_docstring(node) or ""
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    assert any(word.lower() in text.lower() for text in strings)


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_log_mels_and_embeddings_have_no_other_names(path):
    found = re.findall(r"\b(?:log-mel|mel) pictures?\b|\bunit rows?\b", path.read_text("utf-8"))
    assert found == []
