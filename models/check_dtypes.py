"""How well is a number format told in which a device was never measured? `python models/check_dtypes.py PATH_TO_TABLES`.

Formats of the H200's rows are left out in turn, of all kinds and of one kind after the other. Times are told by physics alone,
and by what was learned of the same kinds in the formats that are left as well. Prints medians of absolute errors of energy over
all rows that were left out. That the largest layer of a kind stands in for that of its own format (`Support.beyond_octaves`) was
chosen by these figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from build import rows_of
from joblib import Parallel, delayed

from wattlayer.dataset.labels import labels
from wattlayer.features.columns import Array, Columns
from wattlayer.hardware import find_hardware
from wattlayer.model.scaffold import MIN_LAYERS
from wattlayer.model.support import NEVER_OCTAVES, Support
from wattlayer.train.recipe import fit
from wattlayer.train.rows import Rows, merge

HARDWARE = "h200-sxm"
"""The only device that was measured in more than one format."""
HALVES, FULL = ("float16", "bfloat16"), ("float32",)


def main(tables: Path) -> None:
    """Print one line for each set of formats left out."""
    rows = merge([m for m in labels(rows_of(HARDWARE, tables)) if m.layer is not None])
    kind, dtype = (np.array([getattr(layer, name) for layer in rows.layers]) for name in ("kind", "dtype"))
    print("| left out | of | layers | time by physics alone | and by what was learned in other formats |\n|---|---|--:|--:|--:|")
    for formats in (*((name,) for name in HALVES), HALVES, FULL):
        out = np.isin(dtype, formats)
        line(" and ".join(formats), "all kinds", [left_out(rows, out)])
    for formats in (HALVES, FULL):
        own = np.isin(dtype, formats)
        chosen = [x for x in sorted(set(kind)) if min(np.bincount(own[kind == x], minlength=2)) >= MIN_LAYERS]
        told = Parallel(n_jobs=-1)(delayed(left_out)(rows, own & (kind == x)) for x in chosen)
        line(" and ".join(formats), f"each of {len(chosen)} kinds", told)


def line(formats: str, of: str, told: list[Array]) -> None:
    """Print the medians of `told`, relative errors [2, n_rows] each."""
    alone, taught = np.median(np.concatenate(told, axis=1), axis=1)
    print(f"| {formats} | {of} | {sum(x.shape[1] for x in told)} | {alone:.1%} | {taught:.1%} |", flush=True)


def left_out(rows: Rows, out: Array) -> Array:
    """Return absolute relative errors of energy [2, n_left_out]: with time by physics alone, and as learned of the rest."""
    inside, outside = rows.take(~out), rows.take(out)
    fitted, device = fit(inside, HARDWARE, 0), find_hardware(HARDWARE)
    columns, run = Columns(outside.layers, device), np.zeros(len(outside.layers))
    kinds = frozenset(layer.kind for layer in inside.layers)
    beyond = Support.of(Columns(inside.layers, device)).beyond_octaves(columns)
    energy_j = outside.time_s * outside.power_w
    told = [np.exp(sum(fitted.log_time_power(columns, kinds, run, x))) for x in (np.full(len(run), NEVER_OCTAVES), beyond)]
    return np.array([np.abs(x / energy_j - 1.0) for x in told])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
