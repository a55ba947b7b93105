"""The mutation runner: its operators change what they say, and a seed draws the same again."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "fuzz"))

import mutants  # noqa: E402
import mutation_operators as operators  # noqa: E402
import mutation_tests  # noqa: E402

PYTHON = '''\
"""Docstring: 1 < 2."""
__all__ = [1, 2]
log = logging.getLogger(__name__)


@decorated(3, 4)
def f(a: Annotated[int, 5] = 7) -> Literal[6]:
    """Docstring."""
    if a < 0.5 and b is not None:  # é
        log.warning("%d", 8)
        raise ValueError(f"{a == 9}", 10)
    é = "é"; total += g(a, len(b), 11)
    h(*a, b)
    close()
    return max(a, b), True, f"{a + 12}", k not in a
'''
C = """\
/* 1 < 2, f(a, b); */
#define TWO 2
static void f(int a, int b)
{
    for (int i = 0; i < a; i++) g(b, a); // 3
    if (a == b) return rc_fail(4, "5 < 6",
                               a == 7);
    x[i] += 0.5f;
    call(rc_min(a, b), "a, b");
    flag = true;
}
"""


def changes(path, text):
    return {(m.operator, m.old, m.new) for m in operators.mutants_of(path, text)}


def test_python_is_changed_where_it_computes():
    assert changes("a.py", PYTHON) == {
        ("constant", "7", "8"),
        ("comparison", "<", "<="),
        ("constant", "0.5", "1.0"),
        ("comparison", "is not", "is"),
        ("statement", "total += g(a, len(b), 11)", "pass"),
        ("argument", "a, len(b)", "len(b), a"),
        ("constant", "11", "12"),
        ("statement", "h(*a, b)", "pass"),
        ("statement", "close()", "pass"),
        ("constant", "True", "False"),
        ("comparison", "not in", "in"),
    }


def test_c_is_changed_where_it_computes():
    assert changes("a.c", C) == {
        ("constant", "0", "1"),
        ("comparison", "<", "<="),
        ("argument", "b, a", "a, b"),
        ("comparison", "==", "!="),
        ("statement", "x[i] += 0.5f;", ";"),
        ("constant", "0.5f", "1.0f"),
        ("statement", 'call(rc_min(a, b), "a, b");', ";"),
        ("constant", "true", "false"),
    }


@pytest.mark.parametrize(("path", "text"), [("a.py", PYTHON), ("a.c", C)])
def test_a_mutant_differs_in_its_change_alone(path, text):
    for mutant in operators.mutants_of(path, text):
        changed = mutant.apply(text)
        assert changed == text.replace(mutant.old, mutant.new, 1) or mutant.old in text[: mutant.at]
        assert len(changed) == len(text) + len(mutant.new) - len(mutant.old)
        if path == "a.py":
            ast.parse(changed)


def test_a_chain_is_changed_link_by_link():
    assert changes("a.py", "x = (a) <= b < (c)\n") == {
        ("comparison", "<=", "<"),
        ("comparison", "<", "<="),
    }


def test_changes_that_look_the_same_have_keys_of_their_own():
    keys = [m.key() for m in operators.mutants_of("a.py", "f()\nf()\nx = 0\n")]
    assert keys == [
        ("a.py", "statement", "f()", "pass"),
        ("a.py", "statement 2", "f()", "pass"),
        ("a.py", "constant", "x = 0", "x = 1"),
    ]


def test_a_seed_draws_the_same_again_and_more_begin_with_fewer():
    found = mutants.everything(None)
    assert set(found) == {"training", "checks", "review", "prompts", "score", "store"}
    drawn = mutants.draw(found, 300, 1)
    assert drawn == mutants.draw(mutants.everything(None), 300, 1)
    assert len(set(drawn)) == 300
    assert mutants.draw(found, 30, 1) == drawn[:30]
    assert mutants.draw(found, 300, 2) != drawn
    less = {area: of[1:] for area, of in found.items()}  # sources change a little
    assert len(set(mutants.draw(less, 300, 1)) & set(drawn)) >= 300 - len(found)


def test_only_narrows_the_draw_to_a_file_or_folder():
    found = mutants.everything("reclap/store/")
    assert {m.path for x in found.values() for m in x} >= {"reclap/store/writer.py"}
    assert not found["score"]
    (one,) = {m.path for x in mutants.everything("csrc/score/score.c").values() for m in x}
    assert one == "csrc/score/score.c"


def test_every_source_has_tests_that_exist():
    for found in mutants.everything(None).values():
        for path in {m.path for m in found}:
            tests = mutation_tests.tests_of(path)
            assert tests
            assert all((ROOT / test).is_file() for test in tests), path
    assert all((ROOT / p).exists() for p in mutation_tests.TESTS)


def test_every_equivalent_mutant_is_one_of_the_sources():
    keys = mutants.read_equivalent(mutants.EQUIVALENT.read_text())
    assert keys <= {m.key() for found in mutants.everything(None).values() for m in found}


def test_the_list_of_equivalent_mutants_is_read_block_by_block():
    block = "# about\n\na.py: constant 2\n- x = 0\n+ x = 1\nnobody reads x\n"
    assert mutants.read_equivalent(block) == {("a.py", "constant 2", "x = 0", "x = 1")}
    with pytest.raises(SystemExit, match=r"expected path, - line"):
        mutants.read_equivalent("a.py: constant\n- x = 0\n+ x = 1\n")  # without a reason


def test_a_log_gives_results_back_as_long_as_source_and_tests_stay(tmp_path, monkeypatch):
    log = tmp_path / "log"
    (mutant, *_) = mutants.everything("csrc/score/score.c")["score"]
    log.write_text(f'{{"stamp": "{mutants.stamp(mutant)}", "result": "killed"}}\n{{"stam')
    assert mutants.read_log(log) == {mutants.stamp(mutant): "killed"}
    before = mutants.stamp(mutant)
    monkeypatch.setattr(mutants, "tests_of", lambda path: ["tests/conftest.py"])
    assert mutants.stamp(mutant) != before


def test_the_rate_leaves_out_equivalent_ones_and_decides(capsys):
    drawn = mutants.draw(mutants.everything("reclap/store"), 30, 1)
    results = dict.fromkeys(drawn, "killed") | {drawn[0]: "survived", drawn[1]: "survived"}
    results |= {drawn[2]: "equivalent", drawn[3]: "invalid"}
    assert mutants.report(drawn, results) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [drawn[0].line(), drawn[1].line()]
    assert "26 killed, 2 survived (7.1%), 1 equivalent, 1 do not compile" in said[2]
    assert mutants.report(drawn, results | {drawn[4]: "survived"}) == 1
