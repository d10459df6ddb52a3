"""What a data sheet alone is worth on boards that were measured: `python models/check_data_sheet.py PATH_TO_TABLES [NAME...]`.

Each board is priced from its data sheet and the other boards (`train.transfer`), and judged on all of its own rows, none of which
taught that price. Intervals are as wide as those of shipped models, for which each board was left out, this one too; the curves
of `build_transfer.py` have widths that know nothing of the board.
"""

from __future__ import annotations

import sys
from pathlib import Path

from build import RECIPES, rows_of

from wattlayer.dataset.labels import looped
from wattlayer.evaluate import evaluate
from wattlayer.hardware import find_hardware
from wattlayer.train.networks import traced_networks
from wattlayer.train.transfer import device_class, from_data_sheet


def main(tables: str, *names: str) -> None:
    """Print the errors on all layers and on whole networks in each mode, a board after the other."""
    for name in names or [x for x in RECIPES if device_class(find_hardware(x)) == "board"]:
        rows = rows_of(name, Path(tables))
        model = from_data_sheet(name, looped=looped(rows))
        for s in evaluate(model, rows, traced_networks(rows)).scores:
            if s.unit == "network" or s.subset == "all":
                print(f"{name} {s.unit} {s.subset}: {s.rows} rows, "
                      f"energy {s.mdape_frac:.1%} (signed {s.signed_median_frac:+.1%}), time {s.time_mdape_frac:.1%}, "
                      f"{s.coverage_frac:.1%} in the interval", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
