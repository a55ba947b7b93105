"""Write manifest.jsonl: every clip of ESC-10 with all captions of its label.

    python recipes/mini/make_manifest.py ../shared/audio/esc10/esc10.csv

Training draws one of the label's captions for a clip at every use, see `reclap.manifest`.
"""

import csv
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run the script."""
    captions = json.loads((HERE / "captions.json").read_text("utf-8"))
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as f:
        clips = sorted(csv.DictReader(f), key=lambda clip: clip["path"])
    with (HERE / "manifest.jsonl").open("w", encoding="utf-8") as out:
        for clip in clips:
            row = {key: clip[key] for key in ("path", "fold", "label")}
            row["captions"] = captions[clip["label"]]
            out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
