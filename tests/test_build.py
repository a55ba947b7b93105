"""What setup.py keeps apart: objects of another compiler, other flags, another oneDNN."""

import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from needs import needs

from reclap.errors import BackendError
from reclap.runtime import libraries

setuptools = needs("setuptools", "test")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch):
    """Return what setup.py defines, without building anything."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    return runpy.run_path("setup.py")


def folder_of(script, headers, command=("gcc", "-O3")):
    build = script["BuildExt"](setuptools.Distribution({"ext_modules": script["extensions"]()}))
    build.extensions = build.distribution.ext_modules
    build.compiler = types.SimpleNamespace(compiler_so=list(command))
    return build.made_by(script["Dnnl"]([str(headers)], "lib", []))


def sources_of(extension, *folders):
    return {s for s in extension.sources if Path(s).parent.name in folders}


def test_both_modules_are_made_of_the_same_sources(script):
    core, kernels = script["extensions"]()
    assert not sources_of(core, "testing")
    assert sources_of(kernels, "testing")
    layers = {p.name for p in (ROOT / "csrc").iterdir()} - {"python", "testing"}
    assert sources_of(core, *layers) == sources_of(kernels, *layers)
    assert sources_of(kernels, "python") < sources_of(core, "python")
    for name in ("extra_compile_args", "extra_link_args", "include_dirs", "libraries"):
        assert getattr(core, name) == getattr(kernels, name)


@pytest.fixture
def built(script, tmp_path, monkeypatch):
    """Return a function: the modules that a build makes, after one that had both."""

    def names(command="BuildExt", **options):
        build = script[command](
            setuptools.Distribution({"ext_modules": script["extensions"](), "version": "1"})
        )
        build.ensure_finalized()
        build.build_lib = str(tmp_path)
        for name, value in options.items():
            setattr(build, name, value)
        build.stays = bool(build.inplace)
        found = []
        monkeypatch.setattr(
            script["build_ext"], "run", lambda self: found.extend(e.name for e in self.extensions)
        )
        build.run()
        return found, build

    return names


def test_wheels_do_not_carry_the_kernels(built, script, tmp_path, monkeypatch):
    core, kernels = script["CORE"], script["KERNELS"]
    assert built(inplace=True)[0] == [core, kernels]
    assert built(editable_mode=True)[0] == [core, kernels]
    _, build = built(editable_mode=True)
    stale = Path(build.get_ext_fullpath(kernels))
    assert stale.is_relative_to(tmp_path)
    stale.parent.mkdir()
    stale.touch()  # a wheel takes whatever lies there
    monkeypatch.setenv("RECLAP_KERNELS", "1")
    assert built()[0] == [core, kernels]
    assert stale.exists()
    monkeypatch.delenv("RECLAP_KERNELS")
    assert built()[0] == [core]
    assert not stale.exists()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert tools["exclude-package-data"]["reclap"] == ["_kernels.pyi"]
    assert "include reclap/_kernels.pyi\n" in (ROOT / "MANIFEST.in").read_text()


def test_kernels_are_built_for_an_installed_reclap_of_these_sources(
    built, script, tmp_path, monkeypatch
):
    code = script["BuildKernels"].run.__globals__
    digest = script["sources_digest"]()
    package = tmp_path / "site-packages" / "reclap"

    def installed(version, sources):
        return lambda: script["Installed"](package, version, sources)

    monkeypatch.setitem(code, "find_installed", installed("1", digest))
    found, build = built("BuildKernels")
    assert found == [script["KERNELS"]]
    assert Path(build.get_ext_fullpath(script["KERNELS"])).parent == package
    monkeypatch.setitem(code, "find_installed", installed("0.9", digest))
    with pytest.raises(SystemExit, match=r"reclap is of version 0\.9, csrc/ of 1"):
        built("BuildKernels")
    monkeypatch.setitem(code, "find_installed", installed("1", "another"))
    with pytest.raises(SystemExit, match="was built of other sources than csrc/ holds"):
        built("BuildKernels")


def test_the_installed_reclap_is_that_of_this_python(script, monkeypatch, tmp_path):
    (tmp_path / "reclap").mkdir()
    (tmp_path / "reclap" / "__init__.py").write_text("raise ImportError('nothing here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SystemExit, match="imports no installed reclap: ImportError: nothing here"):
        script["find_installed"]()


def test_objects_made_otherwise_lie_in_another_folder(script, tmp_path, monkeypatch):
    (tmp_path / "oneapi").mkdir()
    version = tmp_path / "oneapi" / "dnnl_version.h"
    version.write_text("#define DNNL_VERSION_MINOR 1\n")
    first = folder_of(script, tmp_path)
    assert folder_of(script, tmp_path) == first
    names = {first, folder_of(script, tmp_path, ("cc", "-O3"))}
    names.add(folder_of(script, tmp_path, ("gcc", "-O3", "-march=armv8-a")))
    version.write_text("#define DNNL_VERSION_MINOR 2\n")
    names.add(folder_of(script, tmp_path))
    monkeypatch.setenv("RECLAP_DEBUG", "1")
    names.add(folder_of(script, tmp_path))
    assert len(names) == 5


def test_objects_are_those_of_what_the_files_hold(script, tmp_path):
    """Whatever their times say: a file that is put back is older than the object."""
    folder = tmp_path / "csrc" / "base"
    folder.mkdir(parents=True)
    one, two, header = (folder / name for name in ("one.c", "two.c", "all.h"))
    for path in (one, two, header):
        path.write_text("1\n")
    build = script["BuildExt"](setuptools.Distribution())
    build.compile_in_parallel.__globals__["HERE"] = tmp_path
    compiled = []

    def compile_some(sources, **_):
        compiled.extend(sources)
        for source in sources:
            Path(source).with_suffix(".o").write_text(Path(source).read_text())
        return [str(Path(source).with_suffix(".o")) for source in sources]

    def remade():
        build.compiler = types.SimpleNamespace(
            compile=compile_some,
            object_filenames=lambda sources, **_: [str(Path(sources[0]).with_suffix(".o"))],
        )
        build.compile_in_parallel()
        compiled.clear()
        made = build.compiler.compile([str(one), str(two)])
        assert made == [str(one.with_suffix(".o")), str(two.with_suffix(".o"))]
        assert Path(made[0]).read_text() == one.read_text()
        return {Path(source).name for source in compiled}

    assert (remade(), remade()) == ({"one.c", "two.c"}, set())
    before = one.stat()
    one.write_text("2\n")
    assert remade() == {"one.c"}
    one.write_text("1\n")
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (remade(), remade()) == ({"one.c"}, set())
    one.with_suffix(".o").unlink()
    assert remade() == {"one.c"}
    header.write_text("2\n")
    assert remade() == {"one.c", "two.c"}


def collected(root, *arguments):
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only"]
    command += arguments or ["tests/test_a.py"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path):
    """Return a copy of this one with a single test."""
    tracked = ("reclap", "csrc", "tests")
    for name in tracked:
        skip = shutil.ignore_patterns("models", "__pycache__", "data")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "test_a.py").write_text("def test_a(): pass\n")
    return tmp_path


def test_core_of_other_sources_stops_the_tests(checkout):
    """And the core says of which it was built, whatever became of times and folders."""
    assert collected(checkout)[0] == 0
    source = checkout / "csrc" / "base" / "rng.c"
    text = source.read_text()
    source.write_text(text + "// another\n")
    status, out = collected(checkout)
    assert status == 3
    assert "python setup.py build_ext --inplace" in out
    assert "test_a" not in out
    source.write_text(text)
    assert collected(checkout)[0] == 0
    source.rename(source.with_name("random.c"))
    assert collected(checkout)[0] == 3


def test_kernels_that_are_not_there_stop_the_tests_of_a_checkout(checkout, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    # Not by removing the file: what an editable install finds would take its place.
    (checkout / "absent.py").write_text("import sys\nsys.modules['reclap._kernels'] = None\n")
    absent = ("-p", "absent")
    status, out = collected(checkout, "tests/test_a.py", *absent)
    assert status == 3
    assert "reclap._kernels is missing: in a checkout python setup.py build_ext" in out
    shutil.rmtree(checkout / "csrc")  # these are not the sources of the reclap that is tested
    (checkout / "tests" / "test_b.py").write_text("from needs import kernels\n")
    assert collected(checkout, "tests/test_a.py", *absent)[0] == 0
    status, out = collected(checkout, "tests/test_b.py", "-rs", *absent)
    assert "SKIPPED [1]" in out
    assert "for an installed reclap python setup.py build_kernels" in out
    monkeypatch.setenv("CI", "true")
    assert collected(checkout, "tests/test_a.py", *absent)[0] == 3


def test_kernels_of_other_sources_are_refused(monkeypatch):
    other = types.SimpleNamespace(sources="another")
    monkeypatch.setitem(sys.modules, "reclap._kernels", other)
    with pytest.raises(BackendError, match=r"_kernels is of other sources than reclap\._core"):
        libraries.load_kernels.__wrapped__()


def test_what_builds_the_core_comes_with_the_extra_of_developers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extra = {
        *project["project"]["optional-dependencies"]["dev"],
        *project["project"]["dependencies"],
    }
    missing = set(project["build-system"]["requires"]) - extra
    assert [line for line in missing if not line.startswith("numpy")] == []  # reclap needs it, too


def test_sanitizers_see_assertions_overflow_and_casts(script, monkeypatch):
    monkeypatch.setenv("RECLAP_SANITIZE", "1")
    compile_args, link_args = script["flags"]()
    assert {"-UNDEBUG", "-fno-wrapv"} <= set(compile_args)
    kinds = "-fsanitize=address,undefined,float-cast-overflow"
    assert kinds in compile_args
    assert kinds in link_args


def test_no_second_openmp_is_linked(script, monkeypatch):
    for switch in ("0", "1"):
        monkeypatch.setenv("RECLAP_OPENMP", switch)
        compile_args, link_args = script["flags"]()
        assert not [x for x in compile_args + link_args if "openmp" in x or "gomp" in x]
        assert ("-DRC_NO_OPENMP" in compile_args) == (switch == "0")


def test_at_most_one_openmp_runtime_is_loaded():
    script = (
        "from reclap.runtime.libraries import kernels\n"
        "import numpy as np\n"
        "kernels.linear_forward(np.ones((64, 64)), np.ones((64, 64)), None)\n"
        "paths = {line.split()[-1] for line in open('/proc/self/maps')}\n"
        "print(*(p for p in paths if 'omp' in p.rpartition('/')[2] and '.so' in p))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    assert len(done.stdout.split()) <= 1, done.stdout
