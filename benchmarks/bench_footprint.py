"""How much does installing it take, and what it needs?

    python benchmarks/bench_footprint.py [--json]

Bytes of the files of each package and of all that it requires, extras aside, as installed here;
for reclap those of the checkout, bundled model, prompt banks and word lists included.
"""

import json
import tomllib
from importlib import metadata

import common

SETS = {  # what people install to name sounds
    "transformers pipeline": ("torch", "transformers", "soundfile", "soxr"),
    "OpenVINO": ("openvino", "transformers", "soundfile", "soxr"),
    "ONNX Runtime": ("onnxruntime", "transformers", "soundfile", "soxr"),
}


def closure(names: tuple[str, ...]) -> set[str]:
    """Return distributions with all that they require."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found or not common.installed(name):
            continue
        found.add(name)
        required = map(Requirement, metadata.requires(name) or [])
        todo += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def size(name: str) -> int:
    """Return the bytes of one distribution's files."""
    paths = [f.locate() for f in metadata.distribution(name).files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())


def ours() -> tuple[int, set[str]]:
    """Return the bytes of the package itself, and what it requires."""
    files = [p for p in (common.ROOT / "reclap").rglob("*") if "__pycache__" not in p.parts]
    data = tomllib.loads((common.ROOT / "pyproject.toml").read_text("utf-8"))
    names = [line.split(">")[0].split("=")[0] for line in data["project"]["dependencies"]]
    return sum(p.stat().st_size for p in files if p.is_file()), closure(tuple(names))


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=1, threads=1, about=__doc__)
    common.header(args)
    own, needs = ours()
    rows = {"reclap": (own + sum(map(size, needs)), needs)}
    for name, packages in SETS.items():
        if not common.lacks(name, packages, args):
            found = closure(packages)
            rows[name] = (sum(map(size, found)), found)
    for name, (total, found) in rows.items():
        row = {"name": f"installed: {name}", "mb": total / 1e6, "packages": len(found)}
        row["ratio"] = rows["reclap"][0] / total
        print(
            json.dumps(row)
            if args.json
            else f"{row['name']:34s} {row['mb']:8.0f} MB   {len(found)} packages besides   "
            f"reclap's is {row['ratio']:.2f} of it"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
