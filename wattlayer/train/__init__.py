"""Fitting an EnergyModel: scaffold, efficiency and power by gradient boosting, intervals from out-of-fold errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..dataset import Measurement
from ..errors import InputError, check_seed
from ..estimate import estimate_many
from ..features import FEATURES_VERSION
from ..features.columns import Array, Columns
from ..hardware import find_hardware
from ..labels import looped, operators_s
from ..layer import Layer
from ..model import EnergyModel
from ..model.cliffs import NONE, find_cliffs
from ..model.intervals import EXTRAPOLATED_OCTAVES, Conformal, LeftOut, Where, correlation, never_half_width
from ..model.kriging import Kriging, krige
from ..model.launches import Launches, Pass, fit_launches
from ..model.metadata import ASSUMED_POWER, Metadata
from ..model.power import PowerScaffold
from ..model.regressor import Regressor
from ..model.residual import MODEL_FEATURES, NOBODY, Residual, model_features
from ..model.scaffold import Scaffold, per_layer
from ..model.support import Support
from .folds import leaving_out, numbers
from .rows import Rows, basis_of, campaigns, digest, line_of, merge, of_one_device
from .transfer import from_data_sheet, teachers

if TYPE_CHECKING:
    import xgboost

    from ..trace import Trace


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

MANY_ROWS = 500
"""From here on folds are worth processes of their own, which take seconds to start; threads share the interpreter."""

CAPPED_FRAC = 0.93
"""Rows above this share of the highest power seen sit on the board's limit."""


def train(measurements: list[Measurement], seed: int, hardware: str | None, name: str | None, source: str) -> EnergyModel:
    """Fit a model of one device; see `EnergyModel.train`."""
    check_seed(seed)
    chosen = of_one_device(measurements, hardware)
    rows = merge(chosen)
    columns = Columns(rows.layers, find_hardware(chosen[0].hardware))
    regressor = fit(rows, columns.hardware.name, seed)
    conformal, left_out_mdape_frac = _judged(rows, Rows.of(chosen), columns, seed, regressor)
    metadata = Metadata(
        name=name or regressor.hardware, hardware=regressor.hardware, features=FEATURES_VERSION, feature_names=MODEL_FEATURES,
        rows=len(chosen), layers=len(set(rows.layers)), kinds=tuple(sorted({x.kind for x in rows.layers})),
        data_sha256=digest(chosen), source=source, runs=regressor.runs, run_power_shift=regressor.run_power_shift,
        consumers_w=regressor.drawn.consumers_w, limit_w=regressor.drawn.limit_w, log_rates=regressor.scaffold.log_rates,
        support=Support.of(columns).points, conformal=conformal, seed=seed,
        taught_by=regressor.taught_by, basis=basis_of(chosen), left_out_mdape_frac=left_out_mdape_frac,
    )  # fmt: skip
    return EnergyModel.of(metadata, regressor)


def tell_launches(
    model: EnergyModel, networks: Sequence[tuple[Measurement, Trace]], measurements: Sequence[Measurement]
) -> EnergyModel:
    """Return `model` with what measured `networks` tell of launches, and what layers measured eagerly tell of operators.

    Too few networks leave the host to that of measured boards, where layers were measured in graphs, without one.
    """
    alone = model.with_launches(Launches(idle_w=find_hardware(model.hardware).idle_w))
    # sums and least squares end otherwise in another order, if only in their last digits
    own = sorted(((m, trace) for m, trace in networks if m.hardware == model.hardware), key=lambda x: line_of(x[0]))
    measurements = sorted(measurements, key=line_of) if own else measurements
    if own and (basis_of(m for m, _ in own) == ASSUMED_POWER) != (model.metadata.basis == ASSUMED_POWER):
        raise InputError("measured and assumed-power rows are mixed: train on one of them")
    sums = estimate_many([trace for _, trace in own], alone) if own else []
    passes = []
    for (m, trace), e in zip(own, sums):
        cached = Columns(trace.layers, find_hardware(model.hardware)).cached
        cached_s, cached_j = (float(x[cached].sum()) for x in (e.layer_time_s, e.layer_energy_j))
        passes.append(
            Pass(
                str(m.network), m.mode, trace.layers, m.time_s, m.energy_j, e.time_s, e.energy_j, cached_s, cached_j,
                layers_spread_frac=e.interval_j[1] / e.energy_j - 1,
            )
        )  # fmt: skip
    operators = operators_s([m for m in measurements if m.hardware == model.hardware])
    launches = fit_launches(passes, operators, alone.launches.idle_w)
    if launches.basis == "assumed" and not looped(m for m in measurements if m.layer and m.hardware == model.hardware):
        launches = launches.hosted_as(from_data_sheet(model.hardware).launches)
    return model if launches == alone.launches else model.with_launches(launches)


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


def _judged(rows: Rows, readings: Rows, columns: Columns, seed: int, whole: Regressor) -> tuple[Conformal, float]:
    """Return intervals calibrated on layers that were left out, singly, with everything like them, and the largest together, and
    the median error of those left out singly.

    Errors are those of each of the `readings` that were merged to `rows`: an interval is to hold what is read once. How far is
    near, and where the search for rates starts, are those of the `whole`: finding them anew in each fold would take longer than
    all the rest.
    """
    from joblib import Parallel, delayed

    folds = list(leaving_out(rows, columns, seed))
    prefer = "processes" if len(rows.layers) > MANY_ROWS else "threads"
    parts = Parallel(n_jobs=-1, prefer=prefer)(delayed(_left_out)(rows, fold, seed, whole) for _, fold in folds)
    chosen = np.concatenate([np.flatnonzero(fold) for _, fold in folds])
    how, block = (np.repeat(x, [fold.sum() for _, fold in folds]) for x in ([how for how, _ in folds], range(len(folds))))
    error, distance, beyond, time_s = (np.concatenate([part[i] for part in parts]) for i in range(4))
    groups, number = np.array([x.group for x in rows.layers])[chosen], numbers(rows)[chosen]
    alike, largest = how == "alike", how == "largest"
    # a layer whose like are all left out tells of what is far; its nearest neighbours lie at the block's edge
    told = ~largest & (~alike | (distance > EXTRAPOLATED_OCTAVES))
    never = never_half_width(_kinds_left_out(rows, columns, whole))
    # a network repeats layers of one group and about one size: what such have in common stays in its sum
    common = correlation(error[alike], block[alike], groups[alike], layer=number[alike])
    single, place = of_readings(error, rows, chosen, readings)
    left_out = LeftOut(single, groups[place], distance[place], place, number[place])
    conformal = Conformal.fit(left_out.take(told[place]), common, never)
    every, where = (told | largest)[place], Where(distance, beyond, time_s).take(place)
    conformal = conformal.parted(left_out.take(every), where.take(every), float(np.median(rows.time_s)))
    return conformal, median_ape(single[(how == "singly")[place]])


def median_ape(error: Array) -> float:
    """Return the median absolute percentage error, as a fraction, of log errors [n] of predictions."""
    return float(np.median(np.abs(np.expm1(error))))


def of_readings(error: Array, rows: Rows, chosen: NDArray[np.intp], readings: Rows) -> tuple[Array, NDArray[np.intp]]:
    """Return the log-energy errors of single `readings` where those of the merged rows `chosen` are `error` [n_chosen], and the
    place in `chosen` that each of them comes from."""
    energies_j: dict[tuple[Layer, str], list[float]] = defaultdict(list)
    for layer, run, energy_j in zip(readings.layers, readings.runs, readings.time_s * readings.power_w):
        energies_j[layer, run].append(energy_j)
    own_j = [np.array(energies_j[rows.layers[i], rows.runs[i]]) for i in chosen]
    merged_j = (rows.time_s * rows.power_w)[chosen]
    place = np.repeat(np.arange(len(chosen)), [len(x) for x in own_j])
    return error[place] + np.log(merged_j[place] / np.concatenate(own_j)), place


def _left_out(rows: Rows, fold: NDArray[np.bool_], seed: int, whole: Regressor) -> tuple[Array, Array, Array, Array]:
    """Train without `fold`; return its log-energy errors, distances from the rest, octaves beyond it and predicted times."""
    inside, outside = rows.take(~fold), rows.take(fold)
    regressor, device = fit(inside, whole.hardware, seed, like=whole), find_hardware(whole.hardware)
    columns = Columns(outside.layers, device)
    kinds = frozenset(x.kind for x in inside.layers)
    support = Support.of(Columns(inside.layers, device))
    beyond = support.beyond_octaves(columns)
    log_time, log_power = regressor.log_time_power(columns, kinds, regressor.run_codes(outside.runs), beyond)
    error = log_time + log_power - np.log(outside.time_s * outside.power_w)
    return error, support.distance_octaves(columns), beyond, np.exp(log_time)


def _kinds_left_out(rows: Rows, columns: Columns, whole: Regressor) -> list[Array]:
    """Return log-energy errors on each kind as they would be had it not been measured: nothing is learned of such kinds."""
    kinds, law = np.array([x.kind for x in rows.layers]), teachers(columns.hardware)
    found = []
    for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else ():
        own = rows.take(kinds == kind)
        its = Columns(own.layers, columns.hardware)
        scaffold = whole.scaffold.without(kind, rows.layers, columns, rows.time_s)
        time_s = scaffold.taught(law.log_rates if law else {}).time_s(its)
        shift = np.array([whole.run_power_shift[whole.runs.index(run)] for run in own.runs])
        found.append(np.log(time_s * whole.drawn.power_w(its, time_s, shift)) - np.log(own.time_s * own.power_w))
    return found
