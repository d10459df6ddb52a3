"""What is to be expected on hardware that nobody measured: `python models/build_transfer.py PATH_TO_TABLES [--learned] [JOBS]`.

Writes `transfer/hardware.json` beside this file: what each class of measured devices teaches about the next one, the
intervals that predictions from a data sheet get, and, leaving each board out in turn, learning curves, which it prints.
`--learned` keeps the curves as they are. wattlayer reads that file; the measured rows are not part of it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from wattlayer.features import FEATURES_VERSION
from wattlayer.scaffold import TERMS
from wattlayer.tables import read_table
from wattlayer.transfer import SCHEMA
from wattlayer.unseen import curves, curves_table, learned_classes, leave_one_out

BOARDS = ("heidelberg/layers.csv", "irene/ops.csv.gz")
OTHERS = ("getzner/layers_cpu.csv", "neurstruc/conv2d_layers.csv")
OUTPUT = Path(__file__).parent / "transfer" / "hardware.json"


def main(arguments: list[str]) -> None:
    folder, *rest = [a for a in arguments if not a.startswith("--")]
    boards, others = ([m for x in names for m in read_table(Path(folder) / x, True).measurements] for names in (BOARDS, OTHERS))
    learned = {title: x.to_json() for title, x in learned_classes([*boards, *others]).items()}
    if "--learned" in arguments:
        points = json.loads(OUTPUT.read_text())["curves"] if OUTPUT.exists() else []
    else:
        draws = leave_one_out(boards, jobs=int(rest[0]) if rest else -1, progress=lambda x: print(x, file=sys.stderr, flush=True))
        points = [asdict(point) for point in curves(draws)]
        print(curves_table(curves(draws)))
    OUTPUT.parent.mkdir(exist_ok=True)
    record = {"schema": SCHEMA, "features": FEATURES_VERSION, "terms": TERMS, "classes": learned, "curves": points}
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
