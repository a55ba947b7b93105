"""Loading of shared libraries: oneDNN for the C core, libsndfile for decoding.

A wheel's library lies where no loader looks: in ``lib`` of a virtual environment or of a user
installation. The package metadata knows the path in all of them.
Nothing is loaded before the first use of `core`, `kernels` or `sndfile`.
"""

import ctypes
import functools
import importlib
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclap.errors import BackendError

if TYPE_CHECKING:
    import reclap._core as core
    import reclap._kernels as kernels
    from reclap._core import SndFile

__all__ = ["core", "describe", "kernels", "load_core", "load_kernels", "sndfile", "sndfile_path"]

_DNNL_WHEEL = "onednn-cpu-gomp"
_DNNL_FILE = "libdnnl.so.3"


def __getattr__(name: str) -> Any:
    """Load the C core at ``from reclap.runtime.libraries import core``, `kernels` likewise."""
    if name == "core":
        return load_core()
    if name == "kernels":
        return load_kernels()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def load_core() -> Any:
    """Import ``reclap._core``, helping the loader to find oneDNN where it must be helped.

    Returns
    -------
    module
        ``reclap._core``.

    Raises
    ------
    BackendError
        If the extension was not built, or oneDNN 3.x is not found.
    """
    found = _import_core()
    if os.environ.get("RECLAP_AMX") == "0":  # our kernel on AMX's tiles is then never chosen
        found.split_kind("avx512")
    return found


@functools.cache
def load_kernels() -> Any:
    """Import ``reclap._kernels``: kernels as plain functions, for tests and benchmarks.

    Returns
    -------
    module
        ``reclap._kernels``, made of the same objects as the core; its products run on the same
        instructions.

    Raises
    ------
    BackendError
        If it was not built, as wheels do not carry it, or was built of other sources than the core.
    """
    built_by = (
        "in a checkout python setup.py build_ext --inplace builds it, for an installed reclap "
        "python setup.py build_kernels among the sources of its version"
    )
    name, core = "reclap._kernels", load_core()  # which finds oneDNN for both
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise BackendError(f"{name} is missing: {built_by}") from error
    if found.sources != core.sources:
        raise BackendError(f"{name} is of other sources than {core.__name__}: {built_by}")
    found.split_kind(core.split_kind())  # the choice is a module's own
    return found


def _import_core() -> Any:
    name = "reclap._core"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise BackendError(
            "the C core of reclap is not built: pip install reclap, or in a checkout "
            f"python setup.py build_ext --inplace{_shadowed()}"
        ) from error
    except ImportError as error:
        if "libdnnl" not in str(error):
            raise BackendError(f"the C core of reclap cannot be loaded: {error}") from error
    _preload_dnnl()
    return importlib.import_module(name)


def _shadowed() -> str:
    """Return what to do where this folder hides an installed package; empty where it does not."""
    here = Path(__file__).parents[2]
    others = [Path(p) / "reclap" for p in sys.path if p and Path(p) != here]
    built = [other for other in others if any(other.glob("_core.*.so"))]
    if not built:
        return ""
    return (
        f"; {here} hides the package that is installed at {built[0]}: run python in another "
        "folder, or with -P"
    )


def _preload_dnnl() -> None:
    """Load oneDNN for the process; the loader then matches the core's need by name."""
    path = _dnnl_path()
    if path is None:
        raise BackendError(
            f"oneDNN ({_DNNL_FILE}) was not found: pip install {_DNNL_WHEEL}==2023.2.0 (without "
            "--target, which leaves the library out), or set DNNLROOT to the folder of a oneDNN 3.x"
        )
    try:
        ctypes.CDLL(str(path))  # not its symbols: other libraries would take them for their own
    except OSError as error:
        raise BackendError(f"oneDNN cannot be loaded: {error}") from error


def _dnnl_path() -> Path | None:
    """Return oneDNN below DNNLROOT, as the build takes it, or among an installed wheel's files."""
    from importlib import metadata  # here, because it takes 20 ms, and is not needed everywhere

    root = os.environ.get("DNNLROOT") or os.environ.get("DNNL_ROOT")
    found = [Path(root) / lib / _DNNL_FILE for lib in ("lib", "lib64")] if root else []
    for wheel in metadata.distributions(name=_DNNL_WHEEL):  # all: a first one may lack the file
        found += [
            Path(str(wheel.locate_file(f))) for f in wheel.files or [] if f.name == _DNNL_FILE
        ]
    return next((path.resolve() for path in found if path.exists()), None)


def sndfile_path() -> str:
    """Return what to load as libsndfile.

    Returns
    -------
    str
        The environment's ``RECLAP_SNDFILE``; otherwise the library inside the ``soundfile``
        wheel, whose Python code is not imported; otherwise the system library's name.
    """
    chosen = os.environ.get("RECLAP_SNDFILE")
    if chosen:
        return chosen
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    spec = importlib.util.find_spec("_soundfile_data")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for name in (f"libsndfile_{_machine()}{suffix}", f"libsndfile{suffix}"):
            if (path := Path(folder) / name).exists():
                return str(path)
    return "libsndfile.1.dylib" if sys.platform == "darwin" else "libsndfile.so.1"


def _machine() -> str:
    """Return the processor as the wheel's file names spell it."""
    machine = platform.machine().lower()
    return {"aarch64": "arm64", "amd64": "x86_64"}.get(machine, machine)


@functools.cache
def sndfile() -> "SndFile":
    """Return libsndfile, loaded at the first call.

    Raises
    ------
    BackendError
        If it cannot be loaded; the message says from where it was tried.
    """
    path = sndfile_path()
    try:
        library: SndFile = load_core().SndFile(path)
    except BackendError as error:
        raise BackendError(
            f"{error} (tried {path}; pip install soundfile, or set RECLAP_SNDFILE)"
        ) from None
    return library


def describe() -> dict[str, Any]:
    """Return what the core runs on: oneDNN's version, the processor's maker and its features."""
    load_core()
    return {"onednn": _dnnl_version()} | _processor()


class _DnnlVersion(ctypes.Structure):
    """The head of oneDNN's ``dnnl_version_t``."""

    _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int))


def _dnnl_version() -> str:
    version = ctypes.CDLL(_DNNL_FILE).dnnl_version  # loaded already: found by name
    version.restype = ctypes.POINTER(_DnnlVersion)
    found = version().contents
    return f"{found.major}.{found.minor}.{found.patch}"


def _processor() -> dict[str, Any]:
    """Return the maker and which of the instruction sets that decide over speed there are."""
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd")
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    fields = dict(line.split("\t", 1) for line in reversed(lines) if "\t" in line)
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    vendor = fields.get("vendor_id", "").strip(" :\t")
    return {"vendor": vendor, "cpu": [name for name in known if name in flags]}
