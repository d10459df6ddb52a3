"""What each part of the model buys: `python models/ablate.py PATH_TO_TABLES` writes `models/ablations.md`.

Every variant is trained and judged on the same splits as the shipped recipe, on the table of the Heidelberg group (A30 and
RTX 2080 Ti). Nothing here chooses anything for the rows it is judged on: the shipped recipe is a row like the others, and the
nested variant chooses its hyper-parameters by folds of the rows it was trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from wattlayer.dataset import Measurement
from wattlayer.dataset.tables import read_table
from wattlayer.evaluate.families import families_of
from wattlayer.evaluate.splits import folds
from wattlayer.features import FEATURES_VERSION
from wattlayer.features.columns import Array, Columns
from wattlayer.hardware import find_hardware
from wattlayer.layer import Layer
from wattlayer.model.power import PowerScaffold
from wattlayer.model.regressor import Regressor
from wattlayer.model.residual import MODEL_FEATURES, Residual, model_features
from wattlayer.model.scaffold import Scaffold
from wattlayer.model.support import Support
from wattlayer.train.recipe import RECIPE, Recipe, boost, fit
from wattlayer.train.rows import Rows, merge

FOLDER = Path(__file__).parent
DEVICES = ("a30", "rtx2080ti")
SPLITS = ("layer", "family", "size")
QUANTISATION = (
    "k_aligned", "n_aligned", "m_filled_128", "n_filled_128", "n_filled_64", "log2_waves_128", "wave_fill_128", "wave_fill_64",
    "wave_fill_128x64",
)  # fmt: skip


@dataclass(frozen=True)
class NoScaffold(Scaffold):
    """Time is left to the trees alone."""

    def time_s(self, columns: Columns, run: Array | None = None) -> Array:
        return np.full(len(columns.alike), 1e-6)

    def taught(self, law: Mapping[str, Sequence[float]]) -> Scaffold:
        return self

    @staticmethod
    def fit(
        layers: Sequence[Layer], columns: Columns, time_s: Array, runs: tuple[str, ...] = (), run: Array | None = None,
        like: Scaffold | None = None,
    ) -> Scaffold:  # fmt: skip
        return NoScaffold({})


@dataclass(frozen=True)
class OneCampaign(Scaffold):
    """Rates are those of all campaigns together."""

    @staticmethod
    def fit(
        layers: Sequence[Layer], columns: Columns, time_s: Array, runs: tuple[str, ...] = (), run: Array | None = None,
        like: Scaffold | None = None,
    ) -> Scaffold:  # fmt: skip
        return Scaffold.fit(layers, columns, time_s)


@dataclass(frozen=True)
class NoPower(PowerScaffold):
    """Power is one number: all else is left to what learns."""

    def power_w(self, columns: Columns, time_s: Array, shift: Array) -> Array:
        return self.consumers_w[0] * np.exp(shift)

    def taught(self, consumers_w: Sequence[float], columns: Columns, time_s: Array) -> PowerScaffold:
        return self

    @staticmethod
    def fit(columns: Columns, time_s: Array, power_w: Array, shift: Array, weight: Array) -> PowerScaffold:
        return NoPower((float(np.exp(np.mean(np.log(power_w) - shift))),), float(power_w.max()))


def energy(regressor: Regressor, rows: Rows, train: Rows, learned: bool = True, fading: bool = True) -> Array:
    """Return predicted energies [n_rows] in joules by a regressor of the rows `train`, with its learned part or without."""
    device = find_hardware(regressor.hardware)
    columns, kinds = Columns(rows.layers, device), frozenset(x.kind for x in train.layers if learned)
    beyond = Support.of(Columns(train.layers, device)).beyond_octaves(columns) * fading
    codes = {name: float(i) for i, name in enumerate(regressor.runs)}
    run = np.array([codes.get(x, 0.0) for x in rows.runs])
    log_time, log_power = regressor.log_time_power(columns, kinds, run, beyond)
    result: Array = np.exp(log_time + log_power)
    return result


def alone(recipe: Recipe) -> Callable[[str, Rows, Rows, Rows], Array]:
    """A variant that trains one device by a recipe."""
    return lambda hardware, train, test, other: energy(fit(train, hardware, 0, recipe), test, train)


def scaffolds_only(hardware: str, train: Rows, test: Rows, other: Rows) -> Array:
    """No trees: both scaffolds as they are fitted."""
    return energy(fit(train, hardware, 0), test, train, learned=False)


def not_fading(hardware: str, train: Rows, test: Rows, other: Rows) -> Array:
    """The learned part of time counts in full however large a layer is."""
    return energy(fit(train, hardware, 0), test, train, fading=False)


def no_scaffold(hardware: str, train: Rows, test: Rows, other: Rows) -> Array:
    """Trees alone learn time; neighbours and cliffs, of small errors only, and fading, which returns to a scaffold, need one."""
    recipe = replace(RECIPE, scaffold=NoScaffold, neighbours=False, cliffs=False)
    return energy(fit(train, hardware, 0, recipe), test, train, fading=False)


def unfactored(hardware: str, train: Rows, test: Rows, other: Rows) -> Array:
    """Energy is learned as one number: time that costs 1 W."""
    joules = replace(train, time_s=train.time_s * train.power_w, power_w=np.ones(len(train.power_w)))
    return energy(fit(joules, hardware, 0, replace(RECIPE, power=NoPower)), test, train)


@dataclass(frozen=True)
class DeviceBooster:
    """A booster of several devices that answers for one: the device's code stands where the campaign's does."""

    booster: Any
    code: float

    def inplace_predict(self, rows: Array) -> Array:
        coded = rows.copy()
        coded[:, MODEL_FEATURES.index("run")] = self.code
        return self.booster.inplace_predict(coded)


def joint(hardware: str, train: Rows, test: Rows, other: Rows) -> Array:
    """One time booster for both devices, each on its own scaffold; the other device's rows of tested layers are left out."""
    second = next(name for name in DEVICES if name != hardware)
    unseen = {x.as_defined() for x in test.layers}
    rest = other.take(np.array([x.as_defined() not in unseen for x in other.layers]))
    own = fit(train, hardware, 0)
    tables, targets = [], []
    for code, (device, rows, fitted) in enumerate(((hardware, train, own), (second, rest, fit(rest, second, 0)))):
        columns = Columns(rows.layers, find_hardware(device))
        scaffold_s = fitted.scaffold.of_first_run().time_s(columns)
        tables.append(model_features(columns, scaffold_s, np.full(len(rows.layers), float(code))))
        targets.append(np.log(rows.time_s / scaffold_s))
    together = DeviceBooster(boost(np.vstack(tables), np.concatenate(targets), 0), code=0.0)
    return energy(replace(own, time=Residual(together)), test, train)


GRID = (
    RECIPE, replace(RECIPE, copies=8, blur_octaves=0.25), replace(RECIPE, learning_rate=0.05, rounds=300),
    replace(RECIPE, max_depth=5), replace(RECIPE, max_depth=9, min_child_weight=8),
)  # fmt: skip
"""What the nested variant chooses from."""

INNER_FOLDS = 3


def nested(hardware: str, train: Rows, test: Rows, other: Rows) -> Array:
    """The recipe of GRID with the lowest error on folds of the training rows, all rows of a configuration in one fold.

    What is chosen is how trees learn, by trees alone and on one scaffold a fold.
    """
    keys = [x.as_defined() for x in train.layers]
    fold_of = {x: i % INNER_FOLDS for i, x in enumerate(sorted(set(keys), key=lambda x: x.digest()))}
    fold = np.array([fold_of[x] for x in keys])
    errors: list[list[Array]] = [[] for _ in GRID]
    for i in range(INNER_FOLDS):
        inner, left = train.take(fold != i), train.take(fold == i)
        like: Regressor | None = None
        for found, recipe in zip(errors, GRID):
            like = fit(inner, hardware, 0, replace(recipe, neighbours=False), like)
            found.append(np.abs(np.log(energy(like, left, inner) / (left.time_s * left.power_w))))
    best = min(range(len(GRID)), key=lambda i: float(np.median(np.concatenate(errors[i]))))
    return alone(GRID[best])(hardware, train, test, other)


VARIANTS: dict[str, Callable[[str, Rows, Rows, Rows], Array]] = {
    "as shipped": alone(RECIPE),
    "trees alone, no neighbours": alone(replace(RECIPE, neighbours=False)),
    "no cliffs": alone(replace(RECIPE, cliffs=False)),
    "no blurred copies": alone(replace(RECIPE, copies=1, blur_octaves=0.0)),
    "campaigns share the rates of the scaffold": alone(replace(RECIPE, scaffold=OneCampaign)),
    "the learned part of time does not fade beyond the largest layer": not_fading,
    "trees alone, no scaffold of time": no_scaffold,
    "no physical part of power": alone(replace(RECIPE, power=NoPower)),
    "not factored: energy as one number": unfactored,
    "no features of tiles and waves": alone(replace(RECIPE, unseen=QUANTISATION)),
    "not monotone: aligned sizes may take longer": alone(replace(RECIPE, falling=())),
    "time learned jointly on both devices, campaigns not told apart": joint,
    "scaffolds only, no trees": scaffolds_only,
    "trees' hyper-parameters chosen in each fold by nested cross-validation": nested,
}


def main(tables: Path) -> None:
    rows = read_table(tables / "heidelberg/layers.csv").measurements
    families = families_of(m.layer for m in rows if m.layer)
    lines = [
        "# What each part buys", "",
        "Written by `python models/ablate.py`: median (p90) absolute percentage error of energy on every row of the A30 and",
        f"RTX 2080 Ti tables ({len(rows)} rows), with features version {FEATURES_VERSION}, each split as on the cards.", "",
        f"| variant | {' | '.join(f'{d}, {s}' for d in DEVICES for s in SPLITS)} |",
        f"|---|{'--:|' * len(DEVICES) * len(SPLITS)}",
    ]  # fmt: skip
    for name, variant in VARIANTS.items():
        cells = [score(variant, rows, device, split, families) for device in DEVICES for split in SPLITS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        (FOLDER / "ablations.md").write_text("\n".join(lines) + "\n")


def score(
    variant: Callable[[str, Rows, Rows, Rows], Array], rows: Sequence[Measurement], device: str, split: str, families: object
) -> str:
    own = [m for m in rows if m.hardware == device]
    other = merge([m for m in rows if m.hardware != device])
    parts = Parallel(n_jobs=-1)(
        delayed(_errors)(variant, part.inside, part.outside, other, device) for part in folds(split, own, families, 0)
    )
    error = np.concatenate(parts)
    return f"{np.median(error):.1%} ({np.quantile(error, 0.9):.0%})"


def _errors(
    variant: Callable[[str, Rows, Rows, Rows], Array],
    inside: Sequence[Measurement],
    tested: Sequence[Measurement],
    other: Rows,
    device: str,
) -> Array:
    train = merge(inside)
    test = Rows(
        tuple(m.layer for m in tested if m.layer), tuple(m.run for m in tested),
        np.array([m.time_s for m in tested]), np.array([m.power_w for m in tested]),
    )  # fmt: skip
    result: Array = np.abs(variant(device, train, test, other) / (test.time_s * test.power_w) - 1)
    return result


if __name__ == "__main__":
    main(Path(sys.argv[1]))
