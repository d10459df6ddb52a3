"""Do intervals hold for layers larger than any seen? `python models/check_sizes.py PATH_TO_TABLES`.

The split "size" of the cards leaves out the largest fifth of the layers once. Here, of the layers below it the largest fifth is
left out, and once more of those below that. Prints median errors and the share inside the 90 % interval, also without the factors
of classes of layers (`Conformal.factors`), which were chosen by these shares and those of the cards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from build import RECIPES, rows_of
from joblib import Parallel, delayed

from wattlayer.dataset import Measurement
from wattlayer.dataset.labels import labels
from wattlayer.evaluate.scores import errors
from wattlayer.evaluate.splits import folds
from wattlayer.model import EnergyModel
from wattlayer.model.intervals import CLASSES
from wattlayer.train.folds import LARGEST_FRAC

LEVELS = 2


def main(tables: Path) -> None:
    """Print one line a device and level, and the mean shares."""
    print("| hardware | trained on the smallest | rows left out | median error | in the interval | without factors |")
    print("|---|--:|--:|--:|--:|--:|")
    shares = []
    for name in RECIPES:
        splits = list(nested([m for m in labels(rows_of(name, tables)) if m.layer is not None]))
        for level, judged in enumerate(Parallel(n_jobs=-1)(delayed(judge)(*split) for split in splits)):
            rows, error, *inside = judged
            shares.append(inside)
            cells = [f"{(1 - LARGEST_FRAC) ** (level + 2):.0%}", str(rows), *(f"{x:.1%}" for x in (error, *inside))]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("mean share inside {:.1%}, without factors {:.1%}".format(*np.mean(shares, axis=0)))


def nested(rows: list[Measurement]) -> Iterator[tuple[list[Measurement], list[Measurement]]]:
    """Yield what lies below the largest fifth, and that fifth, of the rows without theirs, level by level."""
    inside, _ = largest_out(rows)
    for _ in range(LEVELS):
        inside, outside = largest_out(inside)
        yield inside, outside


def largest_out(rows: list[Measurement]) -> tuple[list[Measurement], list[Measurement]]:
    (part,) = folds("size", rows, None, 0)
    return part.inside, part.outside


def judge(train: list[Measurement], test: Sequence[Measurement]) -> tuple[int, float, float, float]:
    """Return how many rows are judged, their median error and the share inside, with the factors of classes and without."""
    model = EnergyModel.train(train)
    metadata = replace(model.metadata, conformal=replace(model.metadata.conformal, factors=(1.0,) * CLASSES))
    measured = np.array([m.energy_j for m in test])
    asked = [m.layer for m in test if m.layer is not None], [m.run for m in test]
    answers = [x.predict(*asked, alone=True) for x in (model, replace(model, metadata=metadata))]
    inside = [float(np.mean((p.energy_low_j <= measured) & (measured <= p.energy_high_j))) for p in answers]
    return len(test), errors(measured, answers[0].energy_j)["mdape_frac"], inside[0], inside[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
