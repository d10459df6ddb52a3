"""What is physical power worth for kinds never measured? `python models/check_power.py PATH_TO_TABLES`.

Each kind is left out in turn and its power, at its measured times, asked of watts that were fitted to all others. Prints, over
kinds of at least five layers, the mean of their median errors: as shipped, and without the two parts of `model/power.py` that
the energy roofline does not have. They were chosen by these figures.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np
from build import RECIPES, rows_of

from wattlayer.dataset.labels import labels
from wattlayer.features.columns import Array, Columns
from wattlayer.hardware import find_hardware
from wattlayer.model import load_model, power
from wattlayer.model.power import CONSUMERS, PowerScaffold, busy_frac
from wattlayer.model.scaffold import MIN_LAYERS, per_layer
from wattlayer.train.rows import Rows, merge

VARIANTS = {"as shipped": (), "never awake": ("awake",), "no exchange": ("exchange",), "neither": ("awake", "exchange")}


def main(tables: Path) -> None:
    """Print one line a device that measured more than one kind."""
    print(f"| hardware | kinds | {' | '.join(VARIANTS)} |\n|---|{'--:|' * (len(VARIANTS) + 1)}")
    for name in RECIPES:
        rows = merge([m for m in labels(rows_of(name, tables)) if m.layer is not None])
        told = load_model(name).metadata
        shift = np.array([told.run_power_shift[told.runs.index(run)] for run in rows.runs])
        kind = np.array([layer.kind for layer in rows.layers])
        kinds = [x for x in sorted(set(kind)) if len({rows.layers[i] for i in np.flatnonzero(kind == x)}) >= MIN_LAYERS]
        if len(kinds) > 1:
            errors = [np.mean([left_out(name, rows, shift, kind == x, parts) for x in kinds]) for parts in VARIANTS.values()]
            print(f"| {name} | {len(kinds)} | {' | '.join(f'{x:.1%}' for x in errors)} |", flush=True)


def left_out(hardware: str, rows: Rows, shift: Array, out: Array, parts: tuple[str, ...]) -> float:
    """Return the median error of log power of rows `out` [n_rows] by watts, but those of `parts`, fitted to all others."""
    kept = np.array([float(name not in parts) for name in CONSUMERS])
    with mock.patch.object(power, "busy_frac", lambda columns, time_s: kept * busy_frac(columns, time_s)):
        device, inside, outside = find_hardware(hardware), rows.take(~out), rows.take(out)
        known, asked = (Columns(x.layers, device) for x in (inside, outside))
        fitted = PowerScaffold.fit(known, inside.time_s, inside.power_w, shift[~out], per_layer(inside.layers))
        return float(np.median(np.abs(np.log(fitted.power_w(asked, outside.time_s, shift[out]) / outside.power_w))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
