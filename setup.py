"""Build the extensions; everything else about the package is in pyproject.toml.

reclap._core is the C core. reclap._kernels, kernels as plain functions for tests and benchmarks, is
made of the same objects: a checkout has both, wheels do not carry it, and

    python setup.py build_kernels

builds it for the reclap that is installed for this Python, when that is of these sources.

Switches, read from the environment (1 turns one on):

RECLAP_SANITIZE   address and undefined-behaviour sanitizers ("thread": that of threads)
RECLAP_DEBUG      -O1 -g, frame pointers
RECLAP_COVERAGE   gcov counters
RECLAP_OPENMP=0   OpenMP's runtime, which oneDNN brings, is left alone
RECLAP_KERNELS    reclap._kernels becomes part of wheels too
RECLAP_WERROR     together with CI: warnings are errors
RECLAP_TARGET     x86-64, x86-64-v3 or x86-64-v4: hot loops for this processor instead of all three
DNNLROOT          (or DNNL_ROOT) folder with include/ and lib/ of oneDNN 3.x
"""

import hashlib
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if int(setuptools.__version__.partition(".")[0]) < 77:  # pyproject.toml's form of the licence
    sys.exit(
        "reclap: setup.py: expected setuptools 77 or newer, this environment has "
        f"{setuptools.__version__}: pip install -e '.[dev]'"
    )

HERE = Path(__file__).parent
WHEELS = ("onednn-devel-cpu-gomp", "onednn-cpu-gomp")
CORE, KERNELS = "reclap._core", "reclap._kernels"
BINDING_OF_BOTH = ("py_module.c", "py_array.c", "py_products.c")


class Dnnl(NamedTuple):
    """Where oneDNN is: header folders, the library's folder, what the loader should look at."""

    include: list[str]
    lib: str
    run_paths: list[str]


def switch(name: str, default: str = "0") -> bool:
    return os.environ.get(name, default).lower() not in ("", "0", "no", "off")


def library_in(root: Path) -> Path | None:
    """Return the folder below `root` that holds libdnnl, as lib or lib64."""
    return next((root / d for d in ("lib", "lib64") if (root / d / "libdnnl.so").exists()), None)


def dnnl_from_environment() -> Dnnl | None:
    value = os.environ.get("DNNLROOT") or os.environ.get("DNNL_ROOT")
    if not value:
        return None
    root = Path(value).resolve()
    lib = library_in(root)
    if lib is None or not any((root / "include").glob("**/dnnl.h")):
        sys.exit(f"reclap: DNNLROOT={value} has no include/dnnl.h with lib/libdnnl.so beside it")
    return Dnnl([str(root / "include")], str(lib), [str(lib)])


def dnnl_from_pkg_config() -> Dnnl | None:
    def ask(*query: str) -> str:
        done = subprocess.run(["pkg-config", *query, "dnnl"], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not ask("--modversion").startswith("3."):  # Debian 12 has 2.6, another API
            return None
        lib = ask("--variable=libdir")
        return Dnnl([ask("--variable=includedir")], lib, [lib])
    except OSError:  # no pkg-config
        return None


def wheel_files(distribution: str) -> Iterator[Path]:
    """Yield the installed files of a wheel; metadata knows them wherever pip has put them."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        yield Path(str(file.locate())).resolve()


def dnnl_from_wheels() -> Dnnl | None:
    found = [p for name in WHEELS for p in wheel_files(name) if p.exists()]
    header = next((p for p in found if p.name == "dnnl.h" and p.parent.name == "include"), None)
    library = next((p for p in found if p.name == "libdnnl.so"), None)
    if header is None or library is None:
        return None
    # From site-packages/reclap that is the environment's lib, where the runtime wheel lies too.
    return Dnnl([str(header.parent)], str(library.parent), ["$ORIGIN/../../.."])


def find_dnnl() -> Dnnl:
    found = dnnl_from_environment() or dnnl_from_pkg_config() or dnnl_from_wheels()
    if found is None:
        sys.exit(
            "reclap: oneDNN 3.x was not found. Either\n"
            f"  pip install {' '.join(f'{name}==2023.2.0' for name in WHEELS)}\n"
            "or set DNNLROOT to a folder with its include/ and lib/, or put its dnnl.pc on\n"
            "PKG_CONFIG_PATH."
        )
    return found


def flags() -> tuple[list[str], list[str]]:
    """Return the compiler's and the linker's flags."""
    # No -ffast-math and no -march=native: the first changes arithmetic for the whole process, the
    # second makes a wheel that runs on one machine. Hot loops carry target_clones instead.
    compile_args = [
        "-std=c11",
        "-O3",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=fast",
    ]
    compile_args += ["-fvisibility=hidden", "-Wall", "-Wextra", "-Wshadow", "-Wvla"]
    compile_args += ["-Wstrict-prototypes", "-Wmissing-prototypes"]
    compile_args.append("-pthread")
    link_args = ["-pthread"]
    thread_sanitizer = os.environ.get("RECLAP_SANITIZE") == "thread"
    if not switch("RECLAP_OPENMP", "1") or thread_sanitizer:  # which cannot follow libgomp
        compile_args.append("-DRC_NO_OPENMP")
    if switch("CI") and switch("RECLAP_WERROR"):
        compile_args.append("-Werror")
    if target := os.environ.get("RECLAP_TARGET"):
        compile_args.append(f'-DRC_TARGET="arch={target}"')
    if switch("RECLAP_DEBUG"):
        compile_args += ["-O1", "-g", "-fno-omit-frame-pointer"]
    if switch("RECLAP_COVERAGE"):
        compile_args += ["-O1", "-g", "--coverage"]
        link_args.append("--coverage")
    if switch("RECLAP_SANITIZE"):
        kinds = "thread" if thread_sanitizer else "address,undefined,float-cast-overflow"
        compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={kinds}"]
        # Python's own flags, which come first, rule assertions out and define overflow away.
        compile_args += ["-UNDEBUG", "-fno-wrapv"]
        link_args.append(f"-fsanitize={kinds}")
    return compile_args, link_args


def compiler_version(command: str) -> str:
    try:
        return subprocess.run([command, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return ""  # compiling will say so


def sources_digest() -> str:
    """Return a digest of csrc/, which both modules carry: tests refuse those of other sources."""
    total = hashlib.sha256()
    for path in sorted((HERE / "csrc").glob("*/*.[ch]")):
        name = f"{path.parent.name}/{path.name}"
        total.update(name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


class BuildExt(build_ext):
    """Finds oneDNN; compiles sources side by side and only those whose object is out of date."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.stays = bool(self.inplace)  # run() clears inplace while it builds
        self.force = True  # compile_in_parallel decides what is out of date, flags included

    def run(self) -> None:
        if not (self.stays or self.editable_mode or switch("RECLAP_KERNELS")):
            self.extensions = [ext for ext in self.extensions if ext.name == CORE]
            Path(self.get_ext_fullpath(KERNELS)).unlink(missing_ok=True)  # of a build that had it
        super().run()

    def build_extensions(self) -> None:
        dnnl = find_dnnl()  # not earlier: a source distribution needs no library
        stays = self.stays or self.editable_mode
        for ext in self.extensions:
            ext.include_dirs += [numpy.get_include(), *dnnl.include]
            ext.library_dirs.append(dnnl.lib)
            ext.runtime_library_dirs += dnnl.run_paths
            if stays and Path(dnnl.lib).is_relative_to(Path(sys.prefix).resolve()):
                ext.runtime_library_dirs.append(dnnl.lib)  # a checkout lies beside no environment
        self.build_temp = str(Path(self.build_temp) / self.made_by(dnnl))
        self.compile_in_parallel()
        super().build_extensions()

    def made_by(self, dnnl: Dnnl) -> str:
        """Return a name for the folder of objects: those made otherwise must not meet there."""
        ext = self.extensions[0]  # all have the same flags
        command = [*self.compiler.compiler_so, *ext.extra_compile_args, *ext.include_dirs]
        version = [p.read_text() for d in dnnl.include for p in Path(d).glob("**/dnnl_version.h")]
        texts = [numpy.__version__, compiler_version(command[0]), *command, *version]
        return f"{zlib.crc32(' '.join(texts).encode()):08x}"

    def compile_in_parallel(self) -> None:
        compile_all = self.compiler.compile
        common = hashlib.sha256()
        for path in [*sorted(HERE.glob("csrc/*/*.h")), Path(__file__)]:
            common.update(path.read_bytes())
        sources = f'-DRC_SOURCES="{sources_digest()}"'  # of all files, in one object

        def compile_one(source: str, options: dict[str, Any]) -> list[str]:
            out = options.get("output_dir") or ""
            made = self.compiler.object_filenames([source], output_dir=out)
            total = common.copy()  # a file that is put back may be older than its object
            total.update(Path(source).read_bytes())
            if Path(source).name == "py_module.c":
                options |= {"extra_postargs": [*(options.get("extra_postargs") or []), sources]}
                total.update(sources.encode())
            known = Path(f"{made[0]}.sha256")
            known_digest = known.read_text() if known.exists() else ""
            if known_digest == total.hexdigest() and Path(made[0]).exists():
                return made
            known.unlink(missing_ok=True)
            compile_all([source], **options)
            known.write_text(total.hexdigest())
            return made

        def compile_parallel(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                done = pool.map(lambda s: compile_one(s, dict(options)), sources)
                return [o for made in done for o in made]

        self.compiler.compile = compile_parallel


class Installed(NamedTuple):
    """A reclap that this Python imports: its folder, version, the digest of its sources."""

    package: Path
    version: str
    sources: str


def find_installed() -> Installed:
    code = (
        "from importlib.metadata import version\n"
        "from reclap.runtime.libraries import core\n"
        "print(core.__file__, version('reclap'), core.sources, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        why = done.stderr.strip().rpartition("\n")[2]
        sys.exit(f"reclap: {sys.executable} imports no installed reclap: {why}")
    path, version, sources = done.stdout.splitlines()
    return Installed(Path(path).resolve().parent, version, sources)


class BuildKernels(BuildExt):
    """Builds reclap._kernels alone, into the reclap that is installed."""

    description = "build the kernels as plain functions for an installed reclap, to test it"

    def run(self) -> None:
        found, own = find_installed(), self.distribution.get_version()
        if found.version != own:
            sys.exit(f"reclap: {found.package} is of version {found.version}, csrc/ of {own}")
        if found.sources != sources_digest():
            sys.exit(f"reclap: {found.package} was built of other sources than csrc/ holds")
        self.extensions = [ext for ext in self.extensions if ext.name == KERNELS]
        self.stays = found.package == HERE / "reclap"
        self.build_lib = str(found.package.parent)
        build_ext.run(self)


def extensions() -> list[Extension]:
    compile_args, link_args = flags()
    paths = sorted(p.relative_to(HERE) for p in (HERE / "csrc").glob("*/*.c"))
    core = [p for p in paths if p.parent.name != "testing"]
    kernels = [p for p in paths if p.parent.name != "python" or p.name in BINDING_OF_BOTH]
    return [
        Extension(
            name,
            sources=[str(p) for p in sources],
            depends=sorted(str(p.relative_to(HERE)) for p in (HERE / "csrc").glob("*/*.h")),
            include_dirs=["csrc"],
            libraries=["dnnl", "m", "dl"],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for name, sources in ((CORE, core), (KERNELS, kernels))
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt, "build_kernels": BuildKernels})
