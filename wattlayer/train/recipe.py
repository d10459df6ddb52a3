"""Fitting the parts of a model: scaffold, power, and what is learned beside them, by one recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..features.columns import Array, Columns
from ..hardware import find_hardware
from ..model.cliffs import NONE, find_cliffs
from ..model.kriging import Kriging, krige
from ..model.power import PowerScaffold
from ..model.regressor import Regressor
from ..model.residual import MODEL_FEATURES, NOBODY, Residual, model_features
from ..model.scaffold import Scaffold, per_layer
from .rows import Rows, campaigns
from .transfer import teachers

if TYPE_CHECKING:
    import xgboost


ALIGNMENT = ("k_aligned", "n_aligned")
"""Features of whole vectors: a product of such sizes never takes longer. Tiles and waves the scaffold charges in full, of which
trees may give something back."""


@dataclass(frozen=True)
class Recipe:
    """What is fitted, and how the boosters are trained; every variant of `models/ablate.py` is another recipe."""

    scaffold: type[Scaffold] = Scaffold
    power: type[PowerScaffold] = PowerScaffold
    rounds: int = 150
    copies: int = 3
    most_shown: int = 10_000
    """No more rows than these are shown, in whole copies: many rows need fewer."""
    blur_octaves: float = 0.1
    """Each row is shown to the boosters `copies` times with its sizes blurred: training with noise is smoothing (Bishop, Neural
    Computation 1995), and trees need it, because the step between two measured sizes could lie anywhere in between."""
    learning_rate: float = 0.1
    max_depth: int = 7
    min_child_weight: int = 3
    subsample_frac: float = 0.7
    neighbours: bool = True
    """Whether neighbours answer beside the trees."""
    cliffs: bool = True
    """Whether both are told where a library takes another algorithm."""
    taught: bool = True
    """Whether what these rows show nothing of is told by other devices and by all that they show."""
    falling: tuple[str, ...] = ALIGNMENT
    """Features along which what trees learn of time may only fall."""
    unseen: tuple[str, ...] = ()
    """Features that the boosters must do without."""

    def parameters(self, names: Sequence[str], seed: int) -> dict[str, Any]:
        """Return XGBoost's parameters for a table with the columns `names`, of which power's has its physical answer as well."""
        falling = () if MODEL_FEATURES[-1] in names else self.falling
        signs = ",".join("-1" if name in falling else "0" for name in names)
        # 64 bins take 40 % less time than 256; one thread: sums in another order would make another model, and parallel
        # work is done over folds
        return {
            "objective": "reg:squarederror", "tree_method": "hist", "max_bin": 64, "learning_rate": self.learning_rate,
            "max_depth": self.max_depth, "min_child_weight": self.min_child_weight, "subsample": self.subsample_frac,
            "colsample_bytree": 0.5, "reg_lambda": 1.0, "nthread": 1, "seed": seed, "monotone_constraints": f"({signs})",
        }  # fmt: skip


RECIPE = Recipe()

CAPPED_FRAC = 0.93
"""Rows above this share of the highest power seen sit on the board's limit."""


def fit(rows: Rows, hardware: str, seed: int, recipe: Recipe = RECIPE, like: Regressor | None = None) -> Regressor:
    """Fit scaffold, time and power on distinct rows of one device; what is near is taken from `like` where it is given."""
    columns = Columns(rows.layers, find_hardware(hardware))
    runs = campaigns(rows)
    code = np.array([float(runs.index(run)) for run in rows.runs])
    law = teachers(columns.hardware) if recipe.taught else None
    scaffold = recipe.scaffold.fit(rows.layers, columns, rows.time_s, runs, code, like.scaffold if like else None)
    fitted = set(scaffold.log_rates)
    if recipe.taught:
        scaffold = scaffold.taught(law.log_rates if law else {})
    taught_by = law.hardware if law and set(scaffold.log_rates) > fitted else ()
    scaffold_s = scaffold.time_s(columns, code)
    log_time = np.log(rows.time_s / scaffold_s)
    table = model_features(columns, scaffold_s, code)
    cliffs = find_cliffs(table, MODEL_FEATURES[:-1], log_time, seed) if recipe.cliffs else NONE
    table = model_features(columns, scaffold_s, code, cliffs)
    cap_w = float(rows.power_w.max())
    shift = _power_shift(rows, runs, cap_w)
    own = shift[code.astype(int)]
    drawn = recipe.power.fit(columns, rows.time_s, rows.power_w, own, per_layer(rows.layers))
    if law:
        drawn = drawn.taught(law.drawn(columns.hardware).consumers_w, columns, rows.time_s)
    physical_w = drawn.power_w(columns, rows.time_s, own)
    time = learn(table, log_time, seed, recipe, like.time.neighbours if like else None)
    wide = np.column_stack([table, np.log2(physical_w)])
    power = learn(wide, np.log(rows.power_w / physical_w), seed, recipe, like.power.neighbours if like else None)
    return Regressor(hardware, scaffold, drawn, time, power, runs, tuple(float(x) for x in shift), cliffs, taught_by)


def _power_shift(rows: Rows, runs: tuple[str, ...], cap_w: float) -> Array:
    """Median log power ratio of each campaign to the first over layers that both measured below the limit."""
    free = rows.power_w < CAPPED_FRAC * cap_w
    power = {(x, run): p for x, run, p, ok in zip(rows.layers, rows.runs, np.log(rows.power_w), free) if ok}
    shifts = [0.0]
    for run in runs[1:]:
        ratios = [p - power[x, runs[0]] for (x, own), p in power.items() if own == run and (x, runs[0]) in power]
        # with few shared layers the ratio is drawn to 1: three pseudo-layers that agree
        shifts.append(float(np.median(ratios)) * len(ratios) / (len(ratios) + 3) if ratios else 0.0)
    return np.array(shifts)


def learn(table: Array, target: Array, seed: int, recipe: Recipe, like: Kriging | None = None) -> Residual:
    """Learn log `target` [n] by trees and by neighbours from `table` [n, n_features], the first of `MODEL_FEATURES`."""
    neighbours = krige(table, MODEL_FEATURES[: table.shape[1]], target, seed, like) if recipe.neighbours else NOBODY
    return Residual(boost(table, target, seed, recipe), neighbours)


def boost(
    table: Array, target: Array, seed: int, recipe: Recipe = RECIPE, booster: xgboost.Booster | None = None
) -> xgboost.Booster:
    """Train a booster on `table` [n, n_features] (the first of `MODEL_FEATURES`) and log `target` [n], or `booster` further."""
    import xgboost

    random, names = np.random.default_rng(seed), list(MODEL_FEATURES[: table.shape[1]])
    octaves = np.array([recipe.blur_octaves if name.startswith("log2_") else 0.0 for name in names])
    copies = max(1, min(recipe.copies, recipe.most_shown // len(table)))
    blurred = np.vstack([table + octaves * random.standard_normal(table.shape) for _ in range(copies)])
    blurred[:, [name in recipe.unseen for name in names]] = 0.0
    data = xgboost.DMatrix(blurred, np.tile(target, copies))
    # of a booster XGBoost takes over where its random numbers stand as well, which moves on with every use
    before = None if booster is None else booster.save_raw("json")
    return xgboost.train(recipe.parameters(names, seed), data, recipe.rounds, xgb_model=before)
