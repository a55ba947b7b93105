"""The rules of this house that a machine can read."""

import ast
import importlib
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import needs
import pytest

from reclap.runtime.libraries import core

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "csrc").glob("*/*.[ch]"))
NAMES = [f"{p.parent.name}/{p.name}" for p in SOURCES]

# Folders are layers, from the bottom up: a file includes its own folder and those before it.
FOLDERS = (
    "base",  # status, memory, threads, random numbers
    "product",  # matrix products: oneDNN and our own
    "kernels",  # the mathematics, serial
    "audio",  # files to samples, samples to log-mel
    "layers",  # parameters, linear layers, blocks, heads, contexts
    "towers",  # HTS-AT, Cnn14, texts; both with their heads
    "train",  # loss, trainer
    "score",  # scores, rules, ranks
    "python",  # the binding
    "testing",  # kernels as plain functions: a module of its own
)
# Headers that only some files of their own folder share.
PRIVATE = {
    "product/dnn_inside.h": {"dnn.c", "engines.c", "matmul.h"},
    "product/matmul.h": {"dnn.c", "matmul.c", "packed.c"},
    "product/split_blocks.h": {"split.c", "split_blocks.c"},
    "layers/block_job.h": {"block.c", "block_forward.c", "block_backward.c"},
    "towers/cnn14_inside.h": {"cnn14.c", "cnn14_train.c"},
    "towers/htsat_inside.h": {"htsat.c", "htsat_plan.h"},
    "towers/htsat_plan.h": {"htsat_input.c", "htsat_run.c"},
    "towers/text_inside.h": {"text.c", "text_plan.h"},
    "towers/text_plan.h": {"text_back.c", "text_run.c"},
    "train/loss_inside.h": {
        "loss.c",
        "pair_tiles.c",
        "pair_sums.c",
        "contrastive.c",
        "sigmoid.c",
        "distillation.c",
        "token_loss.c",
    },
    "train/trainer_inside.h": {"calls.c", "step.c", "trainer.c", "update.c"},
    "python/py_train.h": {"py_pairs.c", "py_train.c", "py_trainer.c"},
}
FOREIGN = {
    "oneapi/dnnl/dnnl.h": {"product/dnn_inside.h"},
    "Python.h": {"python/py.h"},
    "numpy/arrayobject.h": {"python/py.h"},
    "xmmintrin.h": {"base/parallel.c"},
    "cpuid.h": {"product/split_blocks.c"},
    "immintrin.h": {"product/split_blocks.c"},
    "sys/syscall.h": {
        "product/split_blocks.c",
        "python/py_module.c",
    },  # tile registers; which thread this is
    "sndfile.h": set(),  # decode.c restates what it uses
    "dlfcn.h": {"audio/decode.c"},
    "pthread.h": {"audio/decode.c", "base/parallel.c"},
    "signal.h": {"base/parallel.c"},  # to keep signals off our threads
    "time.h": {"python/py_module.c"},  # to look for Ctrl-C five times a second
    "unistd.h": {
        "audio/decode.c",
        "base/guard.c",
        "base/parallel.c",
        "python/py_module.c",
        "product/split_blocks.c",
    },
}
C_LIBRARY = {
    "assert.h", "errno.h", "float.h", "limits.h", "math.h", "stdarg.h", "stdbool.h", "stddef.h",
    "stdatomic.h", "stdint.h", "stdio.h", "stdlib.h", "string.h",
}  # fmt: skip

# Every piece of memory that outlives a call and is not constant, and why it may.
MUTABLE = {
    ("product/split.c", "limit"): "what RECLAP_AMX rules out, for the whole process",
    ("product/split.c", "best"): "what the processor can do does not change",
    ("base/base.c", "message"): "thread-local: the reason of this thread's last failure",
    ("layers/params.c", "layouts"): "no two layouts of parameters in a process are equal",
    ("audio/decode.c", "opens"): "libsndfile keeps the reason of a failed open process-wide",
    ("audio/decode.c", "opens_once"): "whether a child of a fork will forget who held it",
    ("base/parallel.c", "library_lock"): "oneDNN's locks are the process's",
    ("base/parallel.c", "library_once"): "whether a fork will wait for it",
    ("base/parallel.c", "watch"): "thread-local: who may end this thread's call",
    ("base/parallel.c", "held_before"): "thread-local: signals that this thread held before",
    ("base/parallel.c", "region_of"): "thread-local: the pool that a worker belongs to",
}
LONGEST, LONGEST_HEADER = 450, 102


def code(path):
    """Return the source without comments; of strings only the quotes are left."""
    text = re.sub(r"/\*.*?\*/", " ", path.read_text(), flags=re.DOTALL)
    lines = [x if x.lstrip().startswith("#include") else re.sub(r'"(\\.|[^"\\])*"', '""', x)
             for x in text.splitlines()]  # fmt: skip
    return "\n".join(re.sub(r"//.*", "", x) for x in lines)


CODE = {name: code(p) for name, p in zip(NAMES, SOURCES, strict=True)}


def included(name):
    return re.findall(r'#include "(.+?)"', CODE[name])


def test_the_sources_are_found():
    assert {name.split("/")[0] for name in NAMES} == set(FOLDERS)
    assert len(list((ROOT / "csrc").rglob("*.[ch]"))) == len(SOURCES) > 50


@pytest.mark.parametrize("name", NAMES)
def test_includes_point_downwards(name):
    folder, file = name.split("/")
    for header in included(name):
        assert header in CODE, f"{name}: {header} is not named from csrc/ on"
        below = FOLDERS[: FOLDERS.index(folder) + 1]
        assert header.split("/")[0] in below, f"{name} includes {header} of a layer above"
        assert file in PRIVATE.get(header, {file}), f"{name}: {header} is not for it"
    for foreign in re.findall(r"#include <(.+?)>", CODE[name]):
        assert foreign in C_LIBRARY or name in FOREIGN.get(foreign, ()), f"{name}: <{foreign}>"


def test_no_header_comes_back_to_itself():
    below = {name: set(included(name)) for name in NAMES}
    while any(below.values()):
        free = {name for name, rest in below.items() if not rest}
        assert free, f"a circle among {sorted(below)}"
        below = {n: rest - free for n, rest in below.items() if n not in free}


@pytest.mark.parametrize("name", NAMES)
def test_files_stay_short(name):
    most = LONGEST if name.endswith(".c") else LONGEST_HEADER
    assert len((ROOT / "csrc" / name).read_text().splitlines()) <= most


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith(".c")])
def test_a_file_begins_with_its_own_header(name):
    header = f"{name[:-1]}h"
    users = [h for h, files in PRIVATE.items() if name.split("/")[1] in files]
    own = {header, *users} & set(NAMES)
    expected = own or {f"python/{x}.h" for x in ("py", "py_model", "py_module")}
    if name.startswith("testing/"):
        expected = {"testing/testing.h"}
    assert included(name)[0] in expected


def test_the_interpreter_lock_is_released_in_one_place():
    lock = re.compile(r"ALLOW_THREADS|PyEval_\w+Thread|PyGILState")
    found = {n: lock.findall(c) for n, c in CODE.items() if lock.search(c)}
    kept, given = "PyEval_RestoreThread", "PyEval_SaveThread"
    assert found == {"python/py_module.c": [kept, given, given, kept]}  # to handle signals; to run


def test_threads_are_started_in_one_place():
    starts = re.compile(r"#pragma\s+omp|\bpthread_create\b")
    assert [n for n, c in CODE.items() if starts.search(c)] == ["base/parallel.c"]


@pytest.mark.parametrize("name", NAMES)
def test_c_neither_prints_nor_ends_nor_looks_around(name):
    forbidden = (
        r"\b(v?f?printf|puts|putchar|perror|exit|_exit|abort|quick_exit|raise|signal)\s*\(",
        r"\b(stderr|stdout)\b",
        r"\b(secure_)?getenv\s*\(",
        r"\b(fopen|open|freopen|tmpfile|popen|system)\s*\(",
        r"\b(time|clock|clock_gettime|gettimeofday|rand|srand|random)\s*\(",
    )
    text = CODE[name]
    if name == "python/py_module.c":  # how often a long call looks for Ctrl-C
        text = text.replace("clock_gettime(CLOCK_MONOTONIC, &t);", "", 1)
    for pattern in forbidden:
        found = re.search(pattern, text)
        assert found is None, f"{name}: {found.group()}"


def file_scope(text):
    """Return what stands outside all braces, whose content is replaced by nothing."""
    depth, out = 0, []
    for ch in text:
        depth -= ch == "}"
        if depth == 0:
            out.append(ch)
        depth += ch == "{"
    return "".join(out)


def declared(line):
    return [re.search(r"\w+$", one.split("=")[0].strip()).group() for one in line.split(",")]


def variables(text):
    """Yield the file-scope variables that are not constant, and every static one of a function."""
    text = re.sub(r"^\s*#(?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    # A definition ends in "}" without ";": put one there, so that each piece is one declaration.
    outside = re.sub(r"\)\s*\{\}", ");", file_scope(text))
    for piece in outside.split(";"):
        piece = " ".join(re.sub(r"\{\}|RC_CLONES|\[.*?\]", " ", piece).split())
        head = piece.split("=")[0].strip()
        skipped = r"typedef|enum|struct \w+$|union \w+$|extern|(static )?const|_Static_assert"
        if head and "(" not in head and not re.match(rf"({skipped})\b", head):
            yield from declared(piece)
    for line in re.findall(r"^[ \t]+static\s+(?!inline\b|const\b)([^;({]*)", text, re.MULTILINE):
        yield from declared(re.sub(r"\[.*?\]", " ", line))


PYTHON_TABLES = re.compile(r"\w+_(methods|slots|spec)$|rc_py_module$|names$")


@pytest.mark.parametrize("name", NAMES)
def test_no_mutable_state_outlives_a_call(name):
    # Method tables, slots, specs and lists of keywords are not const in Python's own interface.
    found = {v for v in variables(CODE[name]) if not PYTHON_TABLES.match(v)}
    assert found == {v for n, v in MUTABLE if n == name}


def test_the_search_for_state_finds_it():
    text = """
    static int counter;
    int shared[3] = {1, 2, 3};
    static const int fine = 1;
    typedef struct { int x; } thing;
    struct forward;
    int f(int a) { static int hidden = 0; static const char ok[] = ""; return hidden + a; }
    static thing *last = NULL, *first;
    """
    dedented = "\n".join(x.removeprefix("    ") for x in text.splitlines())
    dedented = dedented.replace("{ static", "{\n    static").replace("; static", ";\n    static")
    assert set(variables(dedented)) == {"counter", "shared", "hidden", "last", "first"}


def test_the_list_of_mutable_state_is_not_out_of_date():
    for name, variable in MUTABLE:
        assert re.search(rf"^static .*\b{variable}\b", CODE[name], re.MULTILINE)


def test_build_flags_leave_arithmetic_and_machines_alone():
    lines = (ROOT / "setup.py").read_text().splitlines()
    flags = [line.split("#")[0] for line in lines]
    assert not [x for x in flags if re.search(r"-ffast-math|-Ofast|-march=native", x)]


def test_public_c_names_have_our_prefix():
    for header in (n for n in NAMES if n.endswith(".h")):
        for name in re.findall(r"^\w[\w \*]*?\b(\w+)\(", CODE[header], re.MULTILINE):
            assert name.startswith("rc_") or name in {"__attribute__"}, f"{header}: {name}"


# ---- Python --------------------------------------------------------------------------------------


PYTHON = sorted((ROOT / "reclap").rglob("*.py"))
INSIDE = {p: p.relative_to(ROOT / "reclap").as_posix() for p in PYTHON}


# Packages and modules beside them are layers too, from the bottom up: a file imports from its own
# package and those before it, at the top of the file or within a function.
PACKAGES = (
    "errors",  # exceptions, and how messages show what they name
    "_types",  # types of arrays
    "_lazy",  # public names at their first use
    "_moved",  # old names, for pickles
    "io",  # small files, manifests, records, checked settings
    "runtime",  # the core, threads, prefetching, bars
    "audio",  # sounds to log-mel
    "config",  # what a model is made of
    "text",  # texts to token ids
    "pickles",  # checkpoints of torch.save
    "checkpoints",  # model folders, files of tensors, the hub
    "checkpoints/families",  # checkpoints of other projects
    "prompts",  # banks, strategies, rules
    "store",  # stores of embeddings
    "retrieval",  # files of embeddings, the nearest
    "model",  # loading, embedding, zero-shot classification
    "checks",  # on what a language model writes
    "datasets",  # checks, audits and counts of recordings
    "llm",  # language models
    "review",  # by a person
    "training",
    "plotting",  # timelines, training runs, similarity matrices
    "tasks",  # training, describing, rewriting as single calls
    "",  # reclap itself: the public names
    "cli",
    "__main__",
)


def package_of(module):
    """Return the row of PACKAGES that a module belongs to."""
    path = "/".join(module.split(".")[1:])
    rows = [p for p in PACKAGES if p and (path == p or path.startswith(f"{p}/"))]
    return max(rows, key=len, default="")


def modules_imported(tree):
    """Yield the modules of the package that a file imports when it runs, and the lines."""
    for node in typing_free(tree):
        if isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name.startswith("reclap"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reclap"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                path = ROOT / name.replace(".", "/")
                is_module = path.is_dir() or path.with_suffix(".py").exists()
                yield name if is_module else node.module, node.lineno


def in_a_package(path):
    """Return whether a file lies in a package below the command line."""
    return INSIDE[path].count("/") > 0 and not INSIDE[path].startswith("cli/")


def test_every_file_of_the_package_has_a_layer():
    folders = {p.parent.relative_to(ROOT / "reclap").as_posix() for p in PYTHON} - {"."}
    modules = {p.stem for p in (ROOT / "reclap").glob("*.py")} - {"__init__"}
    assert folders | modules | {""} == set(PACKAGES)


@pytest.mark.parametrize("path", PYTHON, ids=INSIDE.get)
def test_packages_import_their_own_and_those_below(path):
    name = f"reclap.{INSIDE[path].removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"
    own = "" if INSIDE[path] == "__init__.py" else package_of(name)
    for module, line in modules_imported(ast.parse(path.read_text())):
        if module not in ("reclap._core", "reclap._kernels"):  # a rule of its own, below
            rows = PACKAGES.index(package_of(module)), PACKAGES.index(own)
            assert rows[0] <= rows[1], f"line {line}: {module}"


@pytest.mark.parametrize("path", [p for p in PYTHON if in_a_package(p)], ids=INSIDE.get)
def test_no_package_imports_from_the_top(path):
    """A name from ``reclap`` itself would be an import of all that it hands on."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert (node.module, node.level) != ("reclap", 0), f"line {node.lineno}"


LAZY = sorted(p for p in PYTHON if p.name == "__init__.py" and "_HOMES" in p.read_text())


@pytest.mark.parametrize("path", LAZY, ids=INSIDE.get)
def test_public_names_of_a_package_have_one_home(path):
    name = ".".join(path.parent.relative_to(ROOT).parts)
    package = importlib.import_module(name)
    tree = ast.parse(path.read_text())
    (typing,) = [x for x in tree.body if isinstance(x, ast.If)]
    for_typing = {a.name: x.module for x in typing.body for a in x.names}
    assert for_typing == package._HOMES
    assert {x for x in package.__all__ if x not in vars(package)} == set(package._HOMES)
    for public_name, home in package._HOMES.items():
        assert home.startswith(f"{name}.")
        assert getattr(package, public_name) is getattr(importlib.import_module(home), public_name)
        assert public_name in dir(package)
        assert not (path.parent / f"{public_name}.py").exists()  # it would hide the name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def aliases(tree):
    """Yield the names and the types of a file's aliases."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            is_type = isinstance(node.value, ast.Subscript | ast.BinOp) or (
                isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias"
            )
            value = ast.unparse(node.value) if is_type else ""
            is_range = value.startswith("Annotated")  # of one setting, as it happens that of others
            if is_type and not is_range and re.fullmatch(r"_?[A-Z][a-z]\w*", ast.unparse(target)):
                yield target.id, value


def test_a_type_has_one_alias():
    found = [a for path in PYTHON for a in aliases(ast.parse(path.read_text()))]
    assert ("Floats", "npt.NDArray[np.float32]") in found
    types = [type for name, type in found]
    assert not {(name, type) for name, type in found if types.count(type) > 1}
    for path in PYTHON:
        parts = [ast.unparse(x) for x in ast.walk(ast.parse(path.read_text()))
                 if isinstance(x, ast.Subscript | ast.BinOp)]  # fmt: skip
        for name, type in (("Floats", "npt.NDArray[np.float32]"), ("Array", "npt.NDArray[Any]"),
                           ("StrPath", "str | os.PathLike[str]")):  # fmt: skip
            is_home = INSIDE[path] in ("_types.py", "io/files.py")
            assert type not in parts or is_home, f"{INSIDE[path]}: {type} is called {name}"


SCRIPTS = sorted(p for d in ("benchmarks", "fuzz", "parity") for p in (ROOT / d).glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_import_what_the_package_has(path):
    for node in ast.walk(ast.parse(path.read_text())):  # most of it within functions
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reclap"):
            module = importlib.import_module(node.module)
            known = {*dir(module), *getattr(module, "__all__", ())}  # some are made when asked for
            for name in {a.name for a in node.names} - known:
                assert importlib.util.find_spec(f"{node.module}.{name}"), f"line {node.lineno}"


def is_call_of(node, name):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


# Files outside cli/ that talk to a person, and how.
TALKS = {
    "runtime/progress.py": "bars on stderr",
}


@pytest.mark.parametrize("path", PYTHON, ids=INSIDE.get)
def test_only_the_command_line_prints(path):
    if INSIDE[path].startswith("cli/") or INSIDE[path] in TALKS:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        assert not is_call_of(node, "print"), f"line {node.lineno}"
        streams = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
        assert not (streams and ast.unparse(node).startswith("sys.")), f"line {node.lineno}"


@pytest.mark.parametrize("path", PYTHON, ids=INSIDE.get)
def test_the_core_is_imported_through_libraries_only(path):
    if INSIDE[path] in ("runtime/libraries.py", "__init__.py"):
        return
    for node in typing_free(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "reclap":
            assert not {"_core", "_kernels"} & {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            assert not {"reclap._core", "reclap._kernels"} & {*names}, f"line {node.lineno}"


def typing_free(tree):
    """Yield the nodes that run: not those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from typing_free(node)


def tracked():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = [git, "ls-files"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return [ROOT / line for line in run.stdout.splitlines()]


def test_no_tracked_file_names_a_place_on_one_machine():
    home = re.compile(r"/(?:home|root|Users|work)/\w")
    for path in tracked():
        if path == Path(__file__) or not path.is_file() or path.suffix in {".ogg", ".wav", ".png"}:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found = home.search(text)
        assert found is None, (
            f"{path.relative_to(ROOT)}: {text[found.start() : found.start() + 40]}"
        )


def stub_names(body):
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        if isinstance(node, ast.AnnAssign):
            yield node.target.id


def public(thing):
    return {n for n in dir(thing) if not n.startswith("_")}


MODULES = {"_core": lambda: core, "_kernels": lambda: needs.kernels}


@pytest.mark.parametrize("name", MODULES)
def test_stubs_name_what_the_modules_have(name):
    module, tree = MODULES[name](), ast.parse((ROOT / "reclap" / f"{name}.pyi").read_text())
    assert {n for n in stub_names(tree.body) if not n.startswith("_")} == public(module)
    for node in tree.body:
        if (
            isinstance(node, ast.ClassDef)
            and not node.name.startswith("_")
            and hasattr(module, node.name)
        ):
            names = {n for n in stub_names(node.body) if not n.startswith("_")}
            assert names == public(getattr(module, node.name)), node.name


@pytest.mark.parametrize("name", MODULES)
def test_every_function_of_the_modules_has_a_docstring(name):
    module = MODULES[name]()
    for function in public(module):
        assert getattr(module, function).__doc__, function


def test_the_core_has_no_kernel_as_a_plain_function():
    shared = {"sources", "split_kind", "int8_weight"}  # choices that each module makes
    assert public(core) & public(needs.kernels) == shared
