"""The operators of mutants.py: small changes of a Python or a C source, one at a time.

comparison  < and <=, > and >=, == and !=, in and not in, is and is not take each other's place
constant    an integer grows by one, a float doubles (0.0 becomes 1.0), a truth value is flipped
statement   a call whose value nobody uses, or an augmented assignment, is dropped
argument    the first two positional arguments of a call change places

Texts stay as they are, and so do raise statements, calls of a logger, annotations, decorators and
`__all__`. Arguments of minimum and maximum may change places without effect, so they do not.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

OTHER = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==",
    "in": "not in", "not in": "in", "is": "is not", "is not": "is",
}  # fmt: skip
COMPARED = re.compile(r"<=|>=|==|!=|<|>|\bnot\s+in\b|\bin\b|\bis\s+not\b|\bis\b")
SYMMETRIC = {"min", "max", "minimum", "maximum", "rc_min", "rc_max"}
LOGGERS = {"log", "logger", "logging", "warnings"}
Change = tuple[int, int, str, str]  # offsets from and to, what replaces it, operator


@dataclass(frozen=True)
class Mutant:
    """One change of one source: `old` at offset `at` becomes `new`."""

    path: str
    operator: str
    at: int
    old: str
    new: str
    number: int  # line
    before: str  # the whole lines that the change touches
    after: str
    nth: int  # among changes of this file that look the same

    def apply(self, text: str) -> str:
        """Return the source with the change in it."""
        assert text[self.at : self.at + len(self.old)] == self.old  # noqa: S101
        return text[: self.at] + self.new + text[self.at + len(self.old) :]

    def line(self) -> str:
        """Return the change as one line."""
        return f"{self.path}:{self.number}: {self.operator}: {self.before} -> {self.after}"

    def key(self) -> tuple[str, str, str, str]:
        """Return what names the change in a list and outlives changes elsewhere in the file."""
        operator = self.operator if self.nth == 1 else f"{self.operator} {self.nth}"
        return self.path, operator, self.before, self.after


def mutants_of(path: str, text: str) -> list[Mutant]:
    """Return all mutants of a source, in its order."""
    changes = _python(text) if path.endswith(".py") else _c(text)
    seen: Counter[tuple[str, ...]] = Counter()
    mutants = []
    for start, end, new, operator in sorted(set(changes)):
        first = text.rfind("\n", 0, start) + 1
        last = text.find("\n", end)
        last = len(text) if last < 0 else last
        before = " ".join(text[first:last].split())
        after = " ".join((text[first:start] + new + text[end:last]).split())
        seen[operator, before, after] += 1
        number = text.count("\n", 0, start) + 1
        nth = seen[operator, before, after]
        mutants.append(
            Mutant(path, operator, start, text[start:end], new, number, before, after, nth)
        )
    return mutants


# ---- Python ----------------------------------------------------------------------------------


def _python(text: str) -> Iterator[Change]:
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(number: int, column: int) -> int:  # of bytes, which is what syntax trees count
        return starts[number - 1] + len(lines[number - 1].encode()[:column].decode())

    def span(node: ast.AST) -> tuple[int, int]:
        return offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)

    for node in _mutable(ast.parse(text)):
        if isinstance(node, ast.Compare):
            operands = [span(x) for x in (node.left, *node.comparators)]
            for (_, after), (until, _) in pairwise(operands):
                found = COMPARED.search(text, after, until)
                yield (*found.span(), OTHER[" ".join(found.group().split())], "comparison")
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            yield (*span(node), _other_value(node.value), "constant")
        elif isinstance(node, ast.AugAssign) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            yield (*span(node), "pass", "statement")
        if isinstance(node, ast.Call) and len(node.args) >= 2:
            yield from _swapped(text, *map(span, node.args[:2]), node)


def _mutable(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below `node` that operators may touch."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_alone(child):
                yield child
                yield from _mutable(child)


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        node = node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return isinstance(owner, ast.Name) and owner.id in LOGGERS
    return isinstance(node, ast.Raise | ast.JoinedStr)


def _other_value(value: float) -> str:
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    return repr(value * 2 or 1.0)


def _swapped(
    text: str, first: tuple[int, int], second: tuple[int, int], node: ast.Call
) -> Iterator[Change]:
    name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
    one, other = text[slice(*first)], text[slice(*second)]
    starred = any(isinstance(x, ast.Starred | ast.GeneratorExp) for x in node.args[:2])
    if not starred and one != other and name not in SYMMETRIC:
        between = text[first[1] : second[0]]
        yield first[0], second[1], other + between + one, "argument"


# ---- C ---------------------------------------------------------------------------------------

NO_CODE = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|^#[^\n]*|\brc_fail\(.*?(?=;)', re.S | re.M
)
C_COMPARED = re.compile(r"(?<= )(?:<=|>=|==|!=|<|>)(?= )")
C_NUMBER = re.compile(r"(?<![\w.])\d+(\.\d*)?(?:[eE][-+]?\d+)?(f?)(?![\w.])")
C_TRUTH = re.compile(r"\b(?:true|false)\b")
C_STATEMENT = re.compile(
    r"(?<=[;{})])\s*\n +(?!(?:return|for|if|while|switch|sizeof)\b)"
    r"(\w+\([^;\n]*\);|[^;=\n]+ [-+*/|&]= [^;\n]*;|[^;=\n()]+(?:\+\+|--);)(?=\n)"
)
C_CALL = re.compile(r"\b(\w+)\(([^(),\n]+), ([^(),\n]+)(?=[,)])")


def _c(text: str) -> Iterator[Change]:
    # What is no code becomes blank, so that offsets stay.
    code = NO_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    for found in C_COMPARED.finditer(code):
        yield (*found.span(), OTHER[found.group()], "comparison")
    for found in C_NUMBER.finditer(code):
        number, fraction, suffix = found.group(), found[1], found[2]
        if fraction is None and "e" not in number.lower():
            new = str(int(number) + 1)
        else:
            new = repr(float(number.removesuffix("f")) * 2 or 1.0) + suffix
        yield (*found.span(), new, "constant")
    for found in C_TRUTH.finditer(code):
        yield (*found.span(), "false" if found.group() == "true" else "true", "constant")
    for found in C_STATEMENT.finditer(code):
        yield (*found.span(1), ";", "statement")
    for found in C_CALL.finditer(code):
        name, one, other = found.groups()
        inside = code[code.rfind("\n", 0, found.start()) + 1] == " "  # no definition
        if inside and one != other and name not in SYMMETRIC | {"for", "if", "while", "switch"}:
            yield found.start(2), found.end(3), f"{other}, {one}", "argument"
