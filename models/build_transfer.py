"""What is to be expected on hardware that nobody measured: `python models/build_transfer.py PATH_TO_TABLES [--learned] [JOBS]`.

Writes `transfer/hardware.json` beside this file: what each class of measured devices teaches about the next one, the
intervals that predictions from a data sheet get, and, leaving each board out in turn, learning curves, which it prints and
writes into docs/hardware.md; `build.py --curves` puts them on the cards. `--learned` keeps the curves as they are; `--docs`
only writes the page and needs no tables. wattlayer reads the file; the measured rows are not part of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wattlayer.dataset import read_measurements
from wattlayer.dataset.labels import labels
from wattlayer.dataset.tables import read_table
from wattlayer.evaluate.unseen import curves, curves_table, leave_one_out, older_features
from wattlayer.features import FEATURES_VERSION
from wattlayer.model.roofline import RATES
from wattlayer.train.lessons import learned_classes
from wattlayer.train.transfer import SCHEMA

BOARDS = ("heidelberg/layers.csv", "irene/ops.csv.gz")
"""Tables of the boards that learning curves leave out in turn."""
OTHERS = ("getzner/layers_cpu.csv", "neurstruc/conv2d_layers.csv")
CAMPAIGNS = Path(__file__).parents[1] / "data"
OWN = ("h200-sxm",)
"""Campaigns of this project: the only boards measured in half precision, and in graphs."""
OUTPUT = Path(__file__).parent / "transfer" / "hardware.json"
PAGE = Path(__file__).parents[1] / "docs" / "hardware.md"
NAMES = ("a30", "rtx2080ti", "gtx1080ti", "gtx1070")


def main(arguments: list[str]) -> None:
    if "--docs" in arguments:
        record = json.loads(OUTPUT.read_text())
        return write_page(record["curves"], record["curves_features"])
    folder, *rest = [a for a in arguments if not a.startswith("--")]
    boards, others = ([m for x in names for m in read_table(Path(folder) / x, True).measurements] for names in (BOARDS, OTHERS))
    own = labels([m for name in OWN for path in sorted((CAMPAIGNS / name).glob("*.jsonl")) for m in read_measurements(path)])
    learned = {title: x.to_json() for title, x in learned_classes([*boards, *own, *others]).items()}
    if "--learned" in arguments:
        before = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"curves": [], "curves_features": FEATURES_VERSION}
        points, version = before["curves"], before["curves_features"]
    else:
        version = FEATURES_VERSION
        draws = leave_one_out(
            boards, n_jobs=int(rest[0]) if rest else -1, progress=lambda x: print(x, file=sys.stderr, flush=True)
        )
        points = [asdict(point) for point in curves(draws)]
        print(curves_table(curves(draws)))
    OUTPUT.parent.mkdir(exist_ok=True)
    record = {"schema": SCHEMA, "features": FEATURES_VERSION, "rates": RATES, "classes": learned, "curves": points,
              "curves_features": version}  # fmt: skip
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")
    write_page(points, version)


def write_page(points: Sequence[Mapping[str, Any]], version: int) -> None:
    """Write learning curves between their marks in the page on other hardware."""
    before, rest = PAGE.read_text().split("<!-- curves -->")
    PAGE.write_text(f"{before}<!-- curves -->\n{tables(points, version)}<!-- /curves -->{rest.split('<!-- /curves -->')[1]}")


def tables(points: Sequence[Mapping[str, Any]], version: int) -> str:
    """Return learning curves as two Markdown tables, a column a device: nothing measured there, and few layers."""
    found = {(p["predictor"], p["layers"], p["hardware"]): p for p in points}
    rows = list(dict.fromkeys((p["layers"], p["predictor"]) for p in points if p["hardware"] == NAMES[0]))
    line = f"{' | '.join(NAMES)} |"
    unmeasured = [f"| {p} | " + " | ".join(_cell(found[p, 0, n]) for n in NAMES) + " |" for layers, p in rows if layers == 0]
    few = [f"| {k} | {p} | " + " | ".join(_cell(found[p, k, n]) for n in NAMES) + " |" for k, p in rows if k]
    counts = " | ".join(f"{found[rows[0][1], 0, n]['rows']:,}" for n in NAMES)
    return "\n".join([
        *older_features(version), "", "Nothing measured there, median error (and share inside the interval):", "",
        f"| predictor | {line}", "|---|--:|--:|--:|--:|", *unmeasured, f"| rows | {counts} |", "",
        "After so many measured layers, median of 10 draws (least to most; share inside the interval):", "",
        f"| layers | predictor | {line}", "|--:|---|--:|--:|--:|--:|", *few, "", "",
    ])  # fmt: skip


def _cell(p: Mapping[str, Any]) -> str:
    told = [f"{100 * p['least_mdape_frac']:.1f} to {100 * p['most_mdape_frac']:.1f}"] if p["draws"] > 1 else []
    told += [f"{p['coverage_frac']:.0%}"] if p["coverage_frac"] is not None else []
    return f"{p['mdape_frac']:.1%}" + (f" ({'; '.join(told)})" if told else "")


if __name__ == "__main__":
    main(sys.argv[1:])
