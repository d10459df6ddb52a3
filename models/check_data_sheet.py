"""What a data sheet alone is worth on a device that was measured later: `python models/check_data_sheet.py [NAME]`.

The rows are those of `data/NAME` (default h200-sxm), none of which the data-sheet model has seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

from wattlayer.dataset import read_measurements
from wattlayer.evaluate import evaluate, traced_networks
from wattlayer.transfer import from_data_sheet

DATA = Path(__file__).parents[1] / "data"


def main(name: str = "h200-sxm") -> None:
    """Print the errors on all layers and on whole networks in each mode."""
    rows = [m for path in sorted((DATA / name).glob("*.jsonl")) for m in read_measurements(path)]
    for s in evaluate(from_data_sheet(name), rows, traced_networks(rows)).scores:
        if s.unit == "network" or s.subset == "all":
            print(f"{s.unit} {s.subset}: {s.rows} rows, energy {s.mdape_frac:.1%} (signed {s.signed_median_frac:+.1%}), "
                  f"time {s.time_mdape_frac:.1%}, {s.coverage_frac:.1%} in the interval")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:2])
