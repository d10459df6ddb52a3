"""How well is a kind told that a device never showed? `python models/check_kinds.py PATH_TO_TABLES`.

Each kind of at least five layers is left out in turn and told by physics alone, fitted to all others of its device: groups that
are then unmeasured from the common start ("alone"), and by other devices or the device's own groups ("taught"). Prints the mean
over kinds, and over their rows, of mean absolute log errors of energy. That a device keeps its own host and latency, and which
of its groups tell, was chosen by these figures.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from build import RECIPES, rows_of
from joblib import Parallel, delayed

from wattlayer.dataset.labels import labels
from wattlayer.features.columns import Array, Columns
from wattlayer.hardware import find_hardware
from wattlayer.model.scaffold import MIN_LAYERS
from wattlayer.train.recipe import RECIPE, fit
from wattlayer.train.rows import Rows, merge

PHYSICS = replace(RECIPE, rounds=1, neighbours=False, cliffs=False)
"""What is learned says nothing of a kind that was not measured."""


def main(tables: Path) -> None:
    """Print one line a device that measured more than one kind."""
    print("| hardware | kinds | rows | alone | taught | alone, by rows | taught, by rows |\n|---|--:|--:|--:|--:|--:|--:|")
    for name in RECIPES:
        rows = merge([m for m in labels(rows_of(name, tables)) if m.layer is not None])
        kind = np.array([layer.kind for layer in rows.layers])
        kinds = [x for x in sorted(set(kind)) if len({rows.layers[i] for i in np.flatnonzero(kind == x)}) >= MIN_LAYERS]
        if len(kinds) > 1:
            told = Parallel(n_jobs=-1)(
                delayed(left_out)(name, rows, kind == x, taught) for x in kinds for taught in (False, True)
            )
            count = [int(np.count_nonzero(kind == x)) for x in kinds]
            means = np.array([np.mean(error) for error in told]).reshape(-1, 2)
            cells = [f"{x:.1%}" for x in (*means.mean(axis=0), *np.average(means, axis=0, weights=count))]
            print(f"| {name} | {len(kinds)} | {sum(count)} | {' | '.join(cells)} |", flush=True)


def left_out(hardware: str, rows: Rows, out: Array, taught: bool) -> Array:
    """Return the absolute log errors of energy of rows `out` [n_rows], a kind, told by physics fitted to all others."""
    inside, outside = rows.take(~out), rows.take(out)
    fitted = fit(inside, hardware, 0, replace(PHYSICS, taught=taught))
    run = np.array([float(fitted.runs.index(x)) if x in fitted.runs else 0.0 for x in outside.runs])
    columns = Columns(outside.layers, find_hardware(hardware))
    log_time, log_power = fitted.log_time_power(columns, frozenset(), run, np.zeros(len(run)))
    error: Array = np.abs(log_time + log_power - np.log(outside.time_s * outside.power_w))
    return error


if __name__ == "__main__":
    main(Path(sys.argv[1]))
