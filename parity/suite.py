"""Compare whole models with the packages that they come from; `parity/run` says how."""

import argparse
import functools
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().with_name("results.json")
PACKAGES = ("torch", "transformers", "laion_clap", "msclap", "torchaudio", "torchvision",
            "torchlibrosa", "librosa", "soxr", "numpy", "reclap")  # fmt: skip

# Row: module of the oracle and its arguments. A reduced run leaves out what differs in size only.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "hub-tiny": ("hub", {"size": "tiny", "fused": False}),
    "hub-tiny-fused": ("hub", {"size": "tiny", "fused": True}),
    "hub-base": ("hub", {"size": "base", "fused": False}),
    "hub-base-fused": ("hub", {"size": "base", "fused": True}),
    "laion-tiny": ("laion", {"audio": "HTSAT-tiny", "fused": False}),
    "laion-tiny-compat": (
        "laion",
        {"audio": "HTSAT-tiny", "fused": False, "compat": "upstream"},
    ),
    "laion-tiny-fused": ("laion", {"audio": "HTSAT-tiny", "fused": True}),
    "laion-tiny-fused-compat": (
        "laion",
        {"audio": "HTSAT-tiny", "fused": True, "compat": "upstream"},
    ),
    "laion-base": ("laion", {"audio": "HTSAT-base", "fused": False}),
    "laion-base-fused": ("laion", {"audio": "HTSAT-base", "fused": True}),
    "laion-pann": ("laion", {"audio": "PANN-14", "fused": False}),
    "compa": ("laion", {"audio": "HTSAT-tiny", "fused": True, "text": "t5"}),
    "reclap": ("laion", {"audio": "HTSAT-base", "fused": True, "text": "t5"}),
    "ms-2023": ("microsoft", {"version": "2023"}),
    "ms-2023-compat": ("microsoft", {"version": "2023", "compat": "upstream"}),
    "ms-2022": ("microsoft", {"version": "2022"}),
    "ms-2022-compat": ("microsoft", {"version": "2022", "compat": "upstream"}),
}
REDUCED = (
    "hub-tiny",
    "hub-tiny-fused",
    "laion-tiny-compat",
    "laion-tiny-fused-compat",
    "compa",
    "ms-2023",
    "ms-2022-compat",
)

# Largest allowed figures. By default ours does not read files as MS-CLAP, nor whole seconds to the
# lengths of librosa and torchaudio: docs/parity.md.
FILES = ("files", "resampled", "stereo", "whole")
LIMITS = {
    "mel_db": 1e-3,
    "mel_exact_db": 1e-3,
    **dict.fromkeys(("audio", *FILES, "text"), 2e-5),
    **dict.fromkeys(("batch", "batch_text", "alone_text", "logit_scale"), 1e-6),
}


# Columns of the tables in docs/parity.md.
COLUMNS = {
    "sound": "audio",
    "file": "files",
    "at 48 kHz": "resampled",
    "stereo": "stereo",
    "whole seconds": "whole",
    "text": "text",
    "probability": "probability",
    "batch": "batch",
    "captions": "batch_text",
    "alone": "alone_text",
    "apart": "apart",
}
MEL_COLUMNS = {
    "tensors": "tensors",
    "parameters": "parameters",
    "within 60 dB": "mel_db",
    "all bands": "mel_all_db",
    "ours, float64": "mel_exact_db",
    "theirs, float64": "theirs_exact_db",
}


def main() -> None:
    """Run rows one after the other, each in a process; record and print their figures."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--reduced", action="store_true", help="fewer layers, sounds and texts")
    p.add_argument("--rows", nargs="+", choices=ROWS, help="only these")
    p.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.one:
        print(json.dumps(row(options.one, reduced=options.reduced)))
        return
    results = {}
    for name in options.rows or (REDUCED if options.reduced else ROWS):
        results[name] = _in_a_process(name, reduced=options.reduced)
        print(f"{name}: {results[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
        if not options.reduced:
            _record(name, results[name])
    print(table(results, COLUMNS), table(results, MEL_COLUMNS), sep="\n\n")
    if broken := [line for name, found in results.items() for line in beyond(name, found)]:
        raise SystemExit("\n".join(broken))


def row(name: str, *, reduced: bool) -> dict[str, Any]:
    """Return the figures of one row; the files of its model are deleted afterwards."""
    import compare
    import loading

    module, arguments = ROWS[name]
    with tempfile.TemporaryDirectory(prefix="reclap-parity-") as folder:
        make = functools.partial(importlib.import_module(module).Oracle, Path(folder), **arguments)
        found = compare.figures(make, reduced=reduced)
        if name == "reclap" and not reduced:
            [file] = Path(folder).glob("*.pt")
            found |= loading.measure(file)
        return found


def beyond(name: str, found: Mapping[str, float]) -> list[str]:
    """Return what is wrong with the figures of a row, in words."""
    wrong = {k: limit for k, limit in limits(name).items() if not found[k] <= limit}
    return [f"{name}: {k} is {found[k]:.2g}, allowed {limit:.0e}" for k, limit in wrong.items()]


def limits(name: str) -> dict[str, float]:
    """Return the largest allowed figures of a row."""
    if name.endswith("-compat"):
        return LIMITS
    free = ("whole", "resampled", "stereo") if name.startswith("ms-") else ("whole",)
    return {k: v for k, v in LIMITS.items() if k not in free}


def table(results: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return figures as a table in Markdown."""
    lines = [["row", *columns], ["---"] * (1 + len(columns))]
    lines += [
        [name, *(_cell(found[k]) for k in columns.values())] for name, found in results.items()
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(x: float) -> str:
    return f"{x:,}".replace(",", " ") if isinstance(x, int) else f"{x:.1e}" if x else "0"


def _in_a_process(name: str, *, reduced: bool) -> dict[str, Any]:
    began = time.perf_counter()
    command = [sys.executable, __file__, "--one", name, *["--reduced"] * reduced]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{name} ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds": time.perf_counter() - began}


def _record(name: str, found: dict[str, Any]) -> None:
    """Put a row into results.json, beside those of earlier runs."""
    old = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    rows = {n: r for n in ROWS if (r := found if n == name else old.get(n))}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    whole = {"versions": versions | {"python": platform.python_version()}, "rows": rows}
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
