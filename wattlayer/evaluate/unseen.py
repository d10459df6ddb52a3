"""How good predictions are on hardware that was never measured, and after a few layers were (`--split hardware`).

Each device is left out in turn: a data-sheet model is built from the others, judged on all its rows, then calibrated with
draws of its layers, at random and as `train.selection` picks them, and judged on the rest. Nothing is chosen by looking at the
device that is judged; the intervals of a left-out device come from leaving out the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataset import Measurement
from ..dataset.labels import looped
from ..errors import InputError
from ..features import FEATURES_VERSION
from ..features.columns import Array, Columns
from ..hardware import find_hardware
from ..layer import Layer
from ..model import EnergyModel
from ..train.calibration import calibrate
from ..train.lessons import by_device, learned_from, samples_of
from ..train.networks import Progress
from ..train.rows import Rows, merge
from ..train.selection import most_informative
from .baselines import BASELINES
from .scores import percentage_errors

COUNTS = (25, 50, 100, 200)

DRAWS = 10


@dataclass(frozen=True)
class Draw:
    """Errors on one device after one draw of `layers` measured layers (0: data sheet only), over its `rows` other rows."""

    hardware: str
    predictor: str
    layers: int
    draw: int
    rows: int
    mdape_frac: float
    p90_ape_frac: float
    signed_median_frac: float
    time_mdape_frac: float | None
    coverage_frac: float | None
    """Share of measured energies inside the interval (meant: `model.intervals.LEVEL`); None for baselines."""


def leave_one_out(
    measurements: Sequence[Measurement],
    counts: Sequence[int] = COUNTS,
    draws: int = DRAWS,
    seed: int = 0,
    n_jobs: int = -1,
    progress: Progress = lambda text: None,
    only: str | None = None,
) -> list[Draw]:
    """Judge each device of `measurements` unmeasured and after `counts` layers, `draws` times; needs two devices or more.

    `only` names the one device to judge, from all the others.

    Rows of a layer with and without TF32 are drawn, or judged, together; `n_jobs` calibrations run at once.
    Raises InputError for fewer than two devices.
    """
    samples = samples_of(measurements)
    if len(samples) < 2:
        raise InputError(f"only {', '.join(samples)} was measured: leaving hardware out needs rows of two devices or more")
    own = by_device(measurements)
    if only is not None and only not in own:
        raise InputError(f"none of the rows is of {only}; they are of {', '.join(own)}")
    results: list[Draw] = []
    for name, rows in own.items() if only is None else [(only, own[only])]:
        others = {key: rows for key, rows in own.items() if key != name}
        progress(f"hardware: without {name}")
        learned = learned_from({key: samples[key] for key in others})
        base = learned.model(find_hardware(name), looped=looped(rows))
        results += _unmeasured(base, rows, others)
        results += _few(base, rows, counts, draws, seed, n_jobs, progress)
    return results


def _unmeasured(base: EnergyModel, own: Sequence[Measurement], others: Mapping[str, Sequence[Measurement]]) -> list[Draw]:
    rows = Rows.of(own)
    roofline_s = Columns(rows.layers, find_hardware(base.hardware)).roofline_s()
    answer = base.predict(rows.layers, alone=True)
    share = np.median([m.power_w / find_hardware(m.hardware).max_w for other in others.values() for m in other])
    constant_w = float(share) * find_hardware(base.hardware).max_w
    tdp = BASELINES["TDP x roofline"](rows, rows, base.hardware)
    return [
        _scored(base, "wattlayer, data sheet only", 0, 0, rows),
        _score(base.hardware, "TDP x roofline", 0, 0, rows, tdp, roofline_s),
        _score(base.hardware, "constant power x roofline", 0, 0, rows, constant_w * roofline_s, roofline_s),
        _score(base.hardware, "constant power x predicted time", 0, 0, rows, constant_w * answer.time_s, answer.time_s),
    ]


def _few(
    base: EnergyModel, own: Sequence[Measurement], counts: Sequence[int], draws: int, seed: int, n_jobs: int, progress: Progress
) -> list[Draw]:
    by_shape: dict[Layer, list[Measurement]] = {}
    for m in own:
        assert m.layer is not None
        by_shape.setdefault(m.layer.with_tf32("none"), []).append(m)
    shapes, device = list(by_shape), find_hardware(base.hardware)
    tasks = [(count, draw) for count in counts if count <= len(shapes) // 2 for draw in range(draws)]

    def one(count: int, draw: int) -> list[Draw]:
        random = np.random.default_rng([seed, count, draw])
        order = random.permutation(len(shapes))[:count]
        rows = {x: by_shape[x][random.integers(len(by_shape[x]))] for x in shapes}
        telling = most_informative([m.layer for m in rows.values() if m.layer], count, base.regressor.scaffold, device)
        return [
            *_judged(base, "random layers", by_shape, {shapes[i]: rows[shapes[i]] for i in order}, count, draw),
            *_judged(base, "telling layers", by_shape, {shapes[i]: rows[shapes[i]] for i in telling}, count, draw),
        ]

    from joblib import Parallel, delayed

    results: list[Draw] = []
    for part in Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(delayed(one)(*job) for job in tasks):
        results += part
        progress(f"hardware: {base.hardware}, {part[0].layers} layers, draw {part[0].draw + 1}")
    return results


def _judged(
    base: EnergyModel, title: str, by_shape: Mapping[Layer, Sequence[Measurement]], seen: Mapping[Layer, Measurement],
    count: int, draw: int,
) -> list[Draw]:  # fmt: skip
    """Score `base` calibrated with `seen`, and the baseline fitted on the same rows, on all other shapes."""
    rest = Rows.of([m for shape, same in by_shape.items() if shape not in seen for m in same])
    scores = [_scored(calibrate(base, list(seen.values()), seed=draw), f"wattlayer, {title}", count, draw, rest)]
    if title == "random layers":
        raw = BASELINES["XGBoost, raw shapes"](merge(list(seen.values())), rest, base.hardware)
        scores.append(_score(base.hardware, "XGBoost, raw shapes", count, draw, rest, raw, None))
    return scores


def _scored(model: EnergyModel, predictor: str, layers: int, draw: int, rows: Rows) -> Draw:
    answer = model.predict(rows.layers, rows.runs, alone=True)
    measured = rows.time_s * rows.power_w
    inside: NDArray[np.bool_] = (answer.energy_low_j <= measured) & (measured <= answer.energy_high_j)
    return _score(model.hardware, predictor, layers, draw, rows, answer.energy_j, answer.time_s, float(inside.mean()))


def _score(
    hardware: str, predictor: str, layers: int, draw: int, rows: Rows, energy_j: Array, time_s: Array | None,
    coverage: float | None = None,
) -> Draw:  # fmt: skip
    time_error = None if time_s is None else float(np.median(np.abs(time_s / rows.time_s - 1)))
    told = percentage_errors(rows.time_s * rows.power_w, energy_j)
    return Draw(hardware, predictor, layers, draw, len(energy_j), **told, time_mdape_frac=time_error, coverage_frac=coverage)


@dataclass(frozen=True)
class Curve:
    """One point of a learning curve: median, least and most of the draws of one device, predictor and number of layers."""

    hardware: str
    predictor: str
    layers: int
    draws: int
    rows: int
    mdape_frac: float
    least_mdape_frac: float
    most_mdape_frac: float
    p90_ape_frac: float
    signed_median_frac: float
    time_mdape_frac: float | None
    coverage_frac: float | None


def curves(draws: Sequence[Draw]) -> list[Curve]:
    """Return the learning curves that `draws` make, in their order."""
    keys = list(dict.fromkeys((d.hardware, d.predictor, d.layers) for d in draws))
    return [_point([d for d in draws if (d.hardware, d.predictor, d.layers) == key]) for key in keys]


def _point(draws: Sequence[Draw]) -> Curve:
    def middle(name: str) -> Any:
        values = [getattr(d, name) for d in draws]
        return None if None in values else float(np.median(values))

    errors = [d.mdape_frac for d in draws]
    return Curve(
        draws[0].hardware, draws[0].predictor, draws[0].layers, len(draws), int(np.median([d.rows for d in draws])),
        middle("mdape_frac"), min(errors), max(errors), middle("p90_ape_frac"), middle("signed_median_frac"),
        middle("time_mdape_frac"), middle("coverage_frac"),
    )  # fmt: skip


def curves_table(points: Sequence[Curve]) -> str:
    """Return learning curves as a Markdown table."""
    head = [
        "| hardware | measured layers | predictor | rows | median error | least to most of the draws | p90 | signed median | "
        "time | in the interval |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    rows = [
        f"| {p.hardware} | {p.layers} | {p.predictor} | {p.rows} | {percent(p.mdape_frac)} | "
        + (f"{percent(p.least_mdape_frac)} to {percent(p.most_mdape_frac)}" if p.draws > 1 else "–")
        + f" | {percent(p.p90_ape_frac)} | {p.signed_median_frac:+.1%} | {percent(p.time_mdape_frac)} | "
        + f"{percent(p.coverage_frac)} |"
        for p in points
    ]
    return "\n".join([*head, *rows])


def older_features(version: int) -> list[str]:
    """Return the line to say beside curves measured with features `version`; none where that is today's."""
    told = f"The curves were measured with features version {version}, not with today's {FEATURES_VERSION}."
    return [] if version == FEATURES_VERSION else [told]
