"""Write manifest.csv: every clip of ESC-10 with the captions of its label.

    python recipes/mini/make_manifest.py ../shared/audio/esc10/esc10.csv

Training draws one of the label's captions for a clip at every use, see `reclap.io.manifest`.
"""

import argparse
import csv
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="esc10.csv: columns path, fold, label")
    listed = parser.parse_args().clips
    if not listed.is_file():
        parser.error(
            f"{listed}: no such file; it lists the clips of ESC-10, which are not in a clone"
        )
    with listed.open(encoding="utf-8", newline="") as f:
        clips = sorted(csv.DictReader(f), key=lambda clip: clip["path"])
    with (HERE / "manifest.csv").open("w", encoding="utf-8", newline="") as f:
        table = csv.writer(f, lineterminator="\n")
        table.writerow(["path", "fold", "label", "captions"])
        for clip in clips:
            reference = f"captions.json#{clip['label']}"
            table.writerow([clip["path"], clip["fold"], clip["label"], reference])


if __name__ == "__main__":
    main()
