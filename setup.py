"""Build reclap._core; everything else about the package is in pyproject.toml.

Switches, read from the environment (1 turns one on):

RECLAP_SANITIZE   address and undefined-behaviour sanitizers ("thread": that of threads)
RECLAP_DEBUG      -O1 -g, frame pointers
RECLAP_COVERAGE   gcov counters
RECLAP_OPENMP=0   OpenMP's runtime, which oneDNN brings, is left alone
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
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
WHEELS = ("onednn-devel-cpu-gomp", "onednn-cpu-gomp")


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
    """Return a digest of csrc/, which the core carries: tests refuse one of other sources."""
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

    def build_extensions(self) -> None:
        dnnl = find_dnnl()  # not earlier: a source distribution needs no library
        (ext,) = self.extensions
        ext.include_dirs += [numpy.get_include(), *dnnl.include]
        ext.library_dirs.append(dnnl.lib)
        ext.runtime_library_dirs += dnnl.run_paths
        stays = self.stays or self.editable_mode
        if stays and Path(dnnl.lib).is_relative_to(Path(sys.prefix).resolve()):
            ext.runtime_library_dirs.append(dnnl.lib)  # a checkout lies beside no environment
        self.build_temp = str(Path(self.build_temp) / self.made_by(dnnl))
        self.compile_in_parallel()
        super().build_extensions()

    def made_by(self, dnnl: Dnnl) -> str:
        """Return a name for the folder of objects: those made otherwise must not meet there."""
        (ext,) = self.extensions
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
            if Path(source).name == "py_module.c":
                more = [*(options.get("extra_postargs") or []), sources]
                return compile_all([source], **options | {"extra_postargs": more})
            made = self.compiler.object_filenames([source], output_dir=out)
            total = common.copy()  # a file that is put back may be older than its object
            total.update(Path(source).read_bytes())
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
                return [
                    o for made in pool.map(lambda s: compile_one(s, options), sources) for o in made
                ]

        self.compiler.compile = compile_parallel


def extension() -> Extension:
    compile_args, link_args = flags()
    return Extension(
        "reclap._core",
        sources=sorted(str(p.relative_to(HERE)) for p in (HERE / "csrc").glob("*/*.c")),
        depends=sorted(str(p.relative_to(HERE)) for p in (HERE / "csrc").glob("*/*.h")),
        include_dirs=["csrc"],
        libraries=["dnnl", "m", "dl"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExt})
