"""Few measured layers adapt a model to other hardware: rates and watts by ridge, small trees on what is left, new intervals.

Every rate of the scaffold is shifted by what the measurements ask for, in three blocks (launch floor, traffic, compute), at
three levels (all layers, their group, their cell), each level drawn to the one above it (ridge; Gauss-Newton on the
scaffold's own answers), as strongly as layers that are left out in turn ask for. Watts are shifted alike, in all and per
consumer. Trees go on from the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..dataset import Measurement, checked
from ..dataset.labels import looped
from ..errors import InputError, check_seed
from ..features.columns import Array, Columns
from ..hardware import Hardware, find_hardware, known_hardware
from ..model import EnergyModel, load_model
from ..model.cells import cells, group_of_cell, groups, lenders
from ..model.cliffs import NONE
from ..model.folders import models_folder, shipped_models, user_models
from ..model.intervals import Conformal, LeftOut, correlation
from ..model.metadata import ASSUMED_POWER, Metadata
from ..model.power import PowerScaffold
from ..model.regressor import Regressor
from ..model.residual import Residual, model_features
from ..model.roofline import BLOCKS, RATES
from ..model.scaffold import Scaffold
from ..model.support import Support
from .folds import numbers, random_folds
from .left_out import median_ape, of_readings
from .recipe import Recipe, boost
from .rows import Rows, basis_of, campaigns, digest, merge, of_one_device
from .transfer import from_data_sheet

PRIOR_SD = {"*": 1.0, "group": 0.5, "cell": 0.4}
"""How far (standard deviation in log rate) each level is expected to lie from the one above it."""
PRIOR_SD_W = {"all": 0.6, "consumer": 0.4, "run": 0.6}
"""The same in log watts: of the whole board, of each consumer beside it, and of a campaign beside the reference."""
SHRINK = (0.1, 0.2, 0.4, 0.8)
SHRINK_RUNS = (0.1, 0.3, 1.0)
"""Shares of the prior deviations that a calibration chooses among, for rates and for campaigns: by how well each measured layer
is told by the others (leaving one out, in closed form). Few layers that agree with the model leave it nearly as it is."""
NOISE_SD = 0.12
"""Scatter of log time or log power around the scaffolds that the ridge reckons with; larger errors count less (Huber)."""

RECIPE = Recipe(rounds=120, learning_rate=0.05, copies=6, blur_octaves=0.35, max_depth=6, min_child_weight=5, subsample_frac=0.8)
"""Smaller trees than a model's own, on sizes blurred more: there are few rows."""
FEWEST_FOR_TREES = 20
FEWEST_FOR_TIME_TREES = 40
"""With fewer rows than this there are no trees on residuals of power, and of time (whose residuals scatter more)."""

MIN_LAYERS = 10
"""With fewer distinct layers too little is left to judge by where some are left out in turn: refused."""
_HUBER = 1.5
"""Deviations of noise from which an error weighs less (Huber 1964, Annals of Mathematical Statistics 35); a choice."""


@dataclass(frozen=True)
class _Adapted:
    """A regressor for the new hardware, the kinds that it knows and what was measured for it."""

    regressor: Regressor
    kinds: frozenset[str]
    support: Support


def calibrate(
    base: EnergyModel | str | Path,
    measurements: Sequence[Measurement],
    hardware: str | None = None,
    name: str | None = None,
    seed: int = 0,
) -> EnergyModel:
    """Return `base` adapted to the device that `measurements` are of; deterministic by `seed`.

    `base` is a loaded model, or the name of one or its file, which `start_from` loads. `hardware` picks one device where the rows
    are of several. Raises InputError for what `load_model` refuses, for fewer than `MIN_LAYERS` distinct layers, and
    for a `base` that was trained on these rows or calibrated for their device: its errors on rows left out would be false.
    """
    check_seed(seed)
    measurements = checked(measurements)
    base = base if isinstance(base, EnergyModel) else start_from(base, measurements)
    chosen = of_one_device(measurements, hardware, MIN_LAYERS, "calibrate with")
    _refuse_told(base, chosen)
    rows, device = merge(chosen), find_hardware(chosen[0].hardware)
    (error, distance), adapted = _cross_validate(base, rows, device, seed), adapt(base, rows, device, seed)
    groups, number = np.array([x.group for x in rows.layers]), numbers(rows)
    # few rows of few groups cannot show that errors have less in common than those of the base
    common = max(correlation(error, random_folds(rows, seed), groups, layer=number), base.metadata.conformal.correlation)
    single, place = of_readings(error, rows, np.arange(len(error)), Rows.of(chosen))
    left_out = LeftOut(single, groups[place], distance[place], place, number[place])
    metadata = _metadata(base, adapted, chosen, rows, base.metadata.conformal.moved(left_out, common), name, seed)
    return EnergyModel.of(replace(metadata, left_out_mdape_frac=median_ape(single)), adapted.regressor)


def _refuse_told(base: EnergyModel, chosen: Sequence[Measurement]) -> None:
    """Raise InputError where `base` knows the rows that are to be left out in turn."""
    facts, device = base.metadata, chosen[0].hardware
    if facts.calibrated and base.hardware == device:
        raise InputError(
            f"model {base.name!r} was calibrated for {device} already: start from what it came from ({facts.source}), "
            "with old and new rows together"
        )
    if facts.data_sha256 == digest(chosen):
        raise InputError(f"model {base.name!r} was trained on these very rows: calibrate with others, or use it as it is")


def start_from(name: str | Path, measurements: Sequence[Measurement]) -> EnergyModel:
    """Return the model called `name` to calibrate with `measurements`; raise InputError as `load_model` does.

    The name of a device whose own model was calibrated, or is the user's and may have learned from these rows of it, means what
    is known of it without: the shipped model or the data sheet. Where it rests on a data sheet and all rows were measured in
    eager mode it launches as such loops do, not as graphs.
    """
    model = load_model(name)
    own = str(name)
    learned = own in user_models() and any(m.hardware == own for m in measurements)
    if own in known_hardware() and (model.metadata.calibrated or learned):
        model = EnergyModel.load(models_folder() / f"{own}.json") if own in shipped_models() else from_data_sheet(own)
    loops = model.metadata.basis == "data sheet" and looped(measurements)
    return from_data_sheet(model.hardware, looped=True) if loops else model


def _metadata(
    base: EnergyModel, adapted: _Adapted, chosen: Sequence[Measurement], rows: Rows, conformal: Conformal, name: str | None,
    seed: int,
) -> Metadata:  # fmt: skip
    regressor, launches = adapted.regressor, base.metadata.launches
    stated = ASSUMED_POWER in (base.metadata.basis, basis_of(chosen))
    if launches and regressor.hardware != base.hardware:
        launches = launches.elsewhere(find_hardware(regressor.hardware).idle_w)
    return replace(
        base.metadata, launches=launches, name=name or regressor.hardware, hardware=regressor.hardware,
        rows=len(chosen), layers=len(set(rows.layers)),
        kinds=tuple(sorted(adapted.kinds)), data_sha256=digest(chosen), runs=regressor.runs,
        run_power_shift=regressor.run_power_shift, consumers_w=regressor.drawn.consumers_w, limit_w=regressor.drawn.limit_w,
        log_rates=regressor.scaffold.log_rates, support=adapted.support.points, seed=seed,
        basis=ASSUMED_POWER if stated else "calibrated",
        taught_by=regressor.taught_by, own_support=Support.of(Columns(rows.layers, find_hardware(regressor.hardware))).points,
        conformal=conformal, looped=base.metadata.looped or looped(m for m in chosen if m.run == regressor.runs[0]),
        source=f"{base.name} ({base.metadata.basis}), calibrated with {len(set(rows.layers))} layers of {regressor.hardware}",
    )  # fmt: skip


def _cross_validate(base: EnergyModel, rows: Rows, device: Hardware, seed: int) -> tuple[Array, Array]:
    """Return log-energy errors [n], each row predicted without its fold, and how far [n] it lies from the others in octaves."""
    error, distance, folds = np.zeros(len(rows.layers)), np.zeros(len(rows.layers)), random_folds(rows, seed)
    for fold in np.unique(folds):
        out = folds == fold
        inside, outside = rows.take(~out), rows.take(out)
        error[out] = _error(adapt(base, inside, device, seed), outside, device)
        support = Support.of(Columns(inside.layers, device))
        distance[out] = support.distance_octaves(Columns(outside.layers, device))
    return error, distance


def _error(adapted: _Adapted, rows: Rows, device: Hardware) -> Array:
    regressor = adapted.regressor
    run, columns = regressor.run_codes(rows.runs), Columns(rows.layers, device)
    log_time, log_power = regressor.log_time_power(columns, adapted.kinds, run, adapted.support.beyond_octaves(columns))
    result: Array = log_time + log_power - np.log(rows.time_s * rows.power_w)
    return result


def adapt(base: EnergyModel, rows: Rows, device: Hardware, seed: int) -> _Adapted:
    """Return `base`'s regressor fitted to `rows` of `device`: rates, then watts, then trees on what these leave."""
    columns = Columns(rows.layers, device)
    kinds = frozenset(base.metadata.kinds) | {x.kind for x in rows.layers}
    runs = campaigns(rows)
    run = np.array([float(runs.index(x)) for x in rows.runs])
    limit_w = max(device.max_w, float(rows.power_w.max()))
    share = np.array(base.regressor.drawn.consumers_w) / find_hardware(base.hardware).max_w
    # trees carry over from device to device; neighbours' own measurements and the cliffs of one library do not
    time, power = Residual(base.regressor.time.trees), Residual(base.regressor.power.trees)
    moved = replace(
        base.regressor, hardware=device.name, time=time, power=power, cliffs=NONE, taught_by=(),
        drawn=PowerScaffold(tuple(share * device.max_w), limit_w), runs=runs, run_power_shift=(0.0,) * len(runs),
        scaffold=base.regressor.scaffold.of_first_run(),
    )  # fmt: skip
    moved = _fit_rates(moved, rows, columns, kinds, run)
    moved = _fit_watts(moved, rows, columns, run)
    fitted = _fit_trees(moved, rows, columns, run, seed) if len(run) >= FEWEST_FOR_TREES else moved
    return _Adapted(fitted, kinds, Support(base.metadata.support).joined(Support.of(columns)))


def _fit_rates(regressor: Regressor, rows: Rows, columns: Columns, kinds: frozenset[str], run: Array) -> Regressor:
    """Shift the rates of the scaffold, in blocks and levels, until times fit."""
    target: Array = np.log(rows.time_s)
    members = _members(columns)
    start = dict(regressor.scaffold.log_rates)
    for name in members:
        if name not in start:
            level, _, own = name.partition(":")
            known = lenders(group_of_cell(own), own) if level == "cell" else lenders(own)
            start[name] = next(start[x] for x in known if x in start)
    shift: Array = np.zeros((len(members), len(BLOCKS)))
    for _ in range(4):
        rates = _shifted(start, dict(zip(members, shift)))
        trial = replace(regressor, scaffold=Scaffold(rates))
        log_time, _ = trial.log_time_power(columns, kinds, run, np.zeros(len(run)))
        design, sd = rate_design(rates, columns)
        shift = _ridge(design, target - log_time + design @ shift.ravel(), [x * sd for x in SHRINK]).reshape(shift.shape)
    return replace(regressor, scaffold=Scaffold(_shifted(start, dict(zip(members, shift)))))


def rate_design(rates: Mapping[str, tuple[float, ...]], columns: Columns) -> tuple[Array, Array]:
    """Return how log time [n, shifts] follows each shift of the scaffold's rates, and the shifts' prior deviations [shifts]."""
    slopes, members = _elasticities(rates, columns), _members(columns)
    design = np.column_stack([slopes[:, j] * rows_in for rows_in in members.values() for j in range(len(BLOCKS))])
    return design, np.repeat([PRIOR_SD[name.split(":")[0]] for name in members], len(BLOCKS))


def _members(columns: Columns) -> dict[str, Array]:
    """Which rows [n] each name of the scaffold's rates has: all, those of a group, those of a cell."""
    of_group, of_cell = np.array(groups(columns)), np.array(cells(columns))
    result = {"*": np.ones(len(of_cell))}
    result |= {f"group:{x}": (of_group == x).astype(float) for x in sorted(set(of_group))}
    return result | {f"cell:{x}": (of_cell == x).astype(float) for x in sorted(set(of_cell))}


def _shifted(start: Mapping[str, tuple[float, ...]], shift: Mapping[str, Array]) -> dict[str, tuple[float, ...]]:
    """Return all rates, each moved by the shifts of its own name, its group and of all."""
    result = {}
    for name, rates in start.items():
        own = [name] if name == "*" else ["*", name]
        if name.startswith("cell:"):
            own.insert(1, f"group:{group_of_cell(name[5:])}")
        total = sum((shift[x] for x in own if x in shift), np.zeros(len(BLOCKS)))
        moved = np.array(rates)
        for block, names in enumerate(BLOCKS.values()):
            moved[[RATES.index(x) for x in names]] += total[block]
        result[name] = tuple(float(x) for x in moved)
    return result


def _elasticities(rates: Mapping[str, tuple[float, ...]], columns: Columns) -> Array:
    """How log time [n, blocks] follows the rates of each block."""
    slopes = Scaffold(rates).slopes(columns)
    return np.column_stack([slopes[:, [RATES.index(x) for x in names]].sum(axis=1) for names in BLOCKS.values()])


def _fit_watts(regressor: Regressor, rows: Rows, columns: Columns, run: Array) -> Regressor:
    """Shift the watts of all consumers, of each, and of each campaign but the first, until powers at measured times fit."""
    start, limit_w = np.log(np.array(regressor.drawn.consumers_w)), regressor.drawn.limit_w
    campaigns = np.column_stack([run == i for i in range(1, len(regressor.runs))] or [np.zeros(len(run))]).astype(float)
    target, count = np.log(rows.power_w), len(start)
    own_sd = [PRIOR_SD_W["all"]] + [PRIOR_SD_W["consumer"]] * count
    priors = [np.array(own_sd + [x * PRIOR_SD_W["run"]] * campaigns.shape[1]) for x in SHRINK_RUNS]
    shift: Array = np.zeros(len(priors[0]))

    def log_power(moved: Array) -> Array:
        drawn = PowerScaffold(tuple(np.exp(start + moved[0] + moved[1 : count + 1])), limit_w)
        return np.log(drawn.power_w(columns, rows.time_s, campaigns @ moved[count + 1 :]))

    for _ in range(4):
        now = log_power(shift)
        design = np.column_stack([(log_power(shift + step) - now) / 0.05 for step in 0.05 * np.eye(len(shift))])
        shift = _ridge(design, target - now + design @ shift, priors)
    watts = tuple(float(x) for x in np.exp(start + shift[0] + shift[1 : count + 1]))
    own = (0.0, *(float(x) for x in shift[count + 1 :]))[: len(regressor.runs)]
    return replace(regressor, drawn=PowerScaffold(watts, limit_w), run_power_shift=own)


def _ridge(design: Array, target: Array, priors: Sequence[Array]) -> Array:
    """Robust ridge regression with those prior deviations, of `priors`, that leave the least error when one row is left out."""
    found = [_ridge_with(design, target, sd) for sd in priors]
    return min(found, key=lambda x: float(np.abs(x[1]).mean()))[0]


def _ridge_with(design: Array, target: Array, sd: Array) -> tuple[Array, Array]:
    """Ridge regression whose prior has deviations `sd`, robust by Huber's weights, and its errors on rows left out singly."""
    weight: Array = np.ones(len(target))
    for _ in range(5):
        weighted = design * weight[:, None]
        spread = np.linalg.inv(design.T @ weighted + np.diag((NOISE_SD / sd) ** 2))
        error = target - design @ (solution := spread @ (weighted.T @ target))
        leverage = np.einsum("ij,jk,ik->i", weighted, spread, design)
        weight = np.minimum(1.0, _HUBER * NOISE_SD / np.maximum(np.abs(error), 1e-9))
    return solution, error / np.maximum(1.0 - leverage, 1e-3)


def _fit_trees(regressor: Regressor, rows: Rows, columns: Columns, run: Array, seed: int) -> Regressor:
    """Go on from the model's trees with small ones for time and for power."""
    scaffold_s = regressor.scaffold.time_s(columns)
    table = model_features(columns, scaffold_s, run)
    physical_w = regressor.drawn.power_w(columns, rows.time_s, np.array(regressor.run_power_shift)[run.astype(int)])
    time = regressor.time
    if len(run) >= FEWEST_FOR_TIME_TREES:
        time = Residual(boost(table, np.log(rows.time_s / scaffold_s), seed, RECIPE, time.trees))
    wide = np.column_stack([table, np.log2(physical_w)])
    power = Residual(boost(wide, np.log(rows.power_w / physical_w), seed, RECIPE, regressor.power.trees))
    return replace(regressor, time=time, power=power)
