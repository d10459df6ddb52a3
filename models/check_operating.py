"""What `--power-limit-w` is worth, on the one limit in the public tables: `python models/check_operating.py PATH_TO_TABLES`.

Most large layers of the A30 were measured at its limit of 165 W. The prediction is the data-sheet model of the A30 (learned from
the other boards) without any limit, once as it is and once held to 165 W by `whatif.operating`, which lowers the clock until the
limit holds and lets the rest of the time grow. Rows are split by measured power. The slope is that of the error in log time
without the limit on the slow-down that the limit is said to cost: 1 if the physics holds, 0 if it says nothing.

No board was measured at two limits or at a set clock, so lower limits and clocks remain physics alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from wattlayer.dataset.tables import read_table
from wattlayer.hardware import find_hardware
from wattlayer.model import EnergyModel
from wattlayer.train.rows import merge
from wattlayer.train.transfer import from_data_sheet
from wattlayer.whatif.operating import operated

DEVICE = "a30"
AT_LIMIT_FRAC = 0.98
"""Rows that draw at least this share of the limit count as held by it."""


def unlimited(model: EnergyModel) -> EnergyModel:
    """Return `model` without a power limit: what its parts would draw together."""
    return replace(model, regressor=replace(model.regressor, drawn=replace(model.regressor.drawn, limit_w=float("inf"))))


def main(arguments: Sequence[str]) -> None:
    table = read_table(Path(arguments[0]) / "heidelberg/layers.csv", skip_bad_rows=True)
    rows = merge([m for m in table.measurements if m.hardware == DEVICE])
    limit_w = find_hardware(DEVICE).max_w
    free = unlimited(from_data_sheet(DEVICE, looped=True))
    answers = {
        "no limit": free.predict(rows.layers),
        f"--power-limit-w {limit_w:g}": operated(free, limit_w).predict(rows.layers),
    }
    at_limit = rows.power_w >= AT_LIMIT_FRAC * limit_w
    low, high = np.quantile(rows.power_w[at_limit], [0.05, 0.95])
    print(f"{at_limit.sum()} of {len(at_limit)} rows at the limit: 90 % of them draw {low:.1f} to {high:.1f} W")
    print("| rows | prediction | median power | power error | time error, signed | time error | energy error |")
    print(f"|---|---|{'--:|' * 5}")
    for title, chosen in (("at the limit", at_limit), ("below", ~at_limit)):
        for name, answer in answers.items():
            time = answer.time_s[chosen] / rows.time_s[chosen] - 1
            power = answer.power_w[chosen] / rows.power_w[chosen] - 1
            energy = (1 + time) * (1 + power) - 1
            cells = [f"{np.median(answer.power_w[chosen]):.0f} W", f"{np.median(np.abs(power)):.1%}", f"{np.median(time):+.1%}"]
            cells += [f"{np.median(np.abs(x)):.1%}" for x in (time, energy)]
            print(f"| {title} | {name} | {' | '.join(cells)} |")
    plain, held = answers.values()
    slowdown = np.log(held.time_s / plain.time_s)[at_limit]
    late = np.log(rows.time_s / plain.time_s)[at_limit]
    slope, _ = np.polyfit(slowdown, late, 1)
    rank = spearmanr(slowdown, late).statistic  # most of the former are equal: none is foretold
    print(f"slow-down foretold at the limit: median {np.expm1(np.median(slowdown)):.1%}; slope {slope:.2f}, Spearman {rank:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
