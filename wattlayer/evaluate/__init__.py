"""How far to believe a model: every figure with its split, its hardware, its number of rows and its baselines.

`given` takes the model as it is, on the rows it is shown (called `training rows` where it was trained on exactly these); every
other split (`splits`) trains the model's recipe anew each time, without what it is judged on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataset import Measurement, checked
from ..dataset.labels import labels
from ..errors import InputError, check_seed
from ..estimate import estimate
from ..features.columns import Array
from ..layer import Layer
from ..model import EnergyModel, load_model
from ..train.networks import Progress, traced_networks
from ..train.rows import Rows, digest, merge
from .baselines import BASELINES
from .scores import Evaluation, Predicted, Score, errors
from .splits import OF_NETWORKS, Groups, Networks, Unseen, check_splits, folds, layer_tasks, unseen_networks


@dataclass(frozen=True)
class _Answer:
    """What a predictor said of measured rows."""

    rows: Rows
    energy_j: Array
    time_s: Array | None = None
    low_j: Array | None = None
    high_j: Array | None = None


@dataclass(frozen=True)
class _Sum:
    """What a predictor said of one pass of a network."""

    energy_j: float
    time_s: float = float("nan")
    interval_j: tuple[float, float] = (float("nan"), float("nan"))


def evaluate(
    model: EnergyModel | str | Path,
    measurements: Sequence[Measurement],
    networks: Sequence[Measurement] | Networks = (),
    splits: Sequence[str] = ("given",),
    families: Groups | None = None,
    baselines: bool = True,
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> Evaluation:
    """Score `model` (loaded, a name or a file) on measured layers of its hardware and on measured `networks`.

    A network is a measurement, which is traced by its name, or a pair of a measurement and its trace.

    `families` names the network families that each layer `as_defined` occurs in; the split `family` needs it, `network`
    and `task` need `networks`. Every split but `given` trains the model's recipe anew on a part of the rows. Raises InputError
    where there is nothing to score, for mixed meters, and where a split cannot be made.
    """
    check_splits(splits)
    check_seed(seed)
    model = load_model(model)
    given: list[Any] = list(networks)
    checked(x[0] if isinstance(x, tuple) and len(x) == 2 else x for x in given)
    measurements = [m for m in checked(measurements) if m.hardware == model.hardware]
    own = [m for m in labels(measurements) if m.layer is not None]
    named = [m for m in given if isinstance(m, Measurement) and m.hardware == model.hardware]
    networks = [*traced_networks(named, progress), *(x for x in given if not isinstance(x, Measurement))]
    if not own and not networks:
        if any(isinstance(m, Measurement) and m.hardware == model.hardware for m in given):
            raise InputError("none of the rows given as networks is of a whole network: give rows of layers as such")
        raise InputError(f"none of the rows is of {model.hardware}, the hardware of model {model.name!r}")
    if len({m.meter for m in own} | {m.meter for m, _ in networks}) > 1:
        raise InputError("measured and assumed-power rows are mixed: judge a model by one of them")
    if (anew := [x for x in splits if x in OF_NETWORKS]) and not (own and networks):
        raise InputError(f"split {anew[0]!r} needs rows of layers and of whole networks: give both --layers and --networks")
    scores: list[Score] = []
    predicted: list[Predicted] = []
    floor = _noise_floor(own)
    for split in (x for x in splits if own and x != "network"):
        progress(f"{split}: {model.hardware}")
        groups = layer_tasks(own, networks) if split == "task" else families
        answers = _answers(split, model, own, groups, baselines, seed, progress)
        name = "training rows" if split == "given" and digest(own) == model.metadata.data_sha256 else split
        for predictor, answer in answers.items():
            scores += _scores(name, model.hardware, predictor, answer, floor)
        predicted.append(_predicted(name, answers["wattlayer"]))
    if networks and ("given" in splits or not anew):
        scores += _network_scores("given", model.hardware, networks, "wattlayer", _priced(networks, model))
    for split in anew:
        scores += _unseen_networks(split, model.hardware, measurements, networks, baselines, seed, progress)
    return Evaluation(model.name, model.sha256, tuple(scores), tuple(predicted))


def _predicted(split: str, answer: _Answer) -> Predicted:
    layers, measured_j = answer.rows.layers, answer.rows.time_s * answer.rows.power_w
    return Predicted(
        split, tuple(x.group for x in layers), np.array([float(x.flop) for x in layers]), measured_j, answer.energy_j
    )


def _answers(
    split: str,
    model: EnergyModel,
    own: list[Measurement],
    groups: Groups | None,
    baselines: bool,
    seed: int,
    progress: Progress,
) -> dict[str, _Answer]:
    if split == "given":
        return {"wattlayer": _ask(model, Rows.of(own))}
    from joblib import Parallel, delayed

    parts = list(folds(split, own, groups, seed))
    progress(f"{split}: {model.hardware}, without {', '.join(part.name for part in parts)} in turn")
    # processes, as fitting a scaffold holds the interpreter; any backend of joblib.parallel_config spreads the folds
    answers = Parallel(n_jobs=-1)(delayed(_fold)(part.inside, part.outside, baselines, seed) for part in parts)
    return {predictor: _concatenate([x[predictor] for x in answers]) for predictor in answers[0]}


def _fold(inside: list[Measurement], outside: list[Measurement], baselines: bool, seed: int) -> dict[str, _Answer]:
    trained, test = EnergyModel.train(inside, seed=seed), Rows.of(outside)
    answers = {"wattlayer": _ask(trained, test)}
    if baselines:
        train = merge(inside)
        time_s = answers["wattlayer"].time_s
        assert time_s is not None
        answers["constant power x time"] = _Answer(test, float(np.median(train.power_w)) * time_s)
        answers |= {name: _Answer(test, f(train, test, trained.hardware)) for name, f in BASELINES.items()}
    return answers


def _ask(model: EnergyModel, rows: Rows) -> _Answer:
    p = model.predict(rows.layers, rows.runs, alone=True)
    return _Answer(rows, p.energy_j, p.time_s, p.energy_low_j, p.energy_high_j)


def _concatenate(answers: list[_Answer]) -> _Answer:
    def join(name: str) -> Array | None:
        parts = [getattr(a, name) for a in answers]
        return None if any(p is None for p in parts) else np.concatenate(parts)

    rows = [a.rows for a in answers]
    joined = Rows(
        tuple(x for r in rows for x in r.layers), tuple(x for r in rows for x in r.runs),
        np.concatenate([r.time_s for r in rows]), np.concatenate([r.power_w for r in rows]),
    )  # fmt: skip
    energy = np.concatenate([a.energy_j for a in answers])
    return _Answer(joined, energy, join("time_s"), join("low_j"), join("high_j"))


def _scores(split: str, hardware: str, predictor: str, answer: _Answer, floor: float | None) -> list[Score]:
    """Score all rows and, for wattlayer itself, each group of kinds."""
    group = np.array([x.group for x in answer.rows.layers])
    subsets = {"all": np.ones(len(group), dtype=bool)}
    if predictor == "wattlayer":
        subsets |= {name: group == name for name in sorted(set(group))}
    return [_score(split, hardware, predictor, name, answer, chosen, floor) for name, chosen in subsets.items()]


def _score(
    split: str, hardware: str, predictor: str, subset: str, answer: _Answer, chosen: NDArray[np.bool_], floor: float | None
) -> Score:
    measured = (answer.rows.time_s * answer.rows.power_w)[chosen]
    coverage = None
    if answer.low_j is not None and answer.high_j is not None:
        coverage = float(np.mean((answer.low_j[chosen] <= measured) & (measured <= answer.high_j[chosen])))
    time_error = None
    if predictor == "wattlayer" and answer.time_s is not None:
        time_error = float(np.median(np.abs(answer.time_s[chosen] / answer.rows.time_s[chosen] - 1)))
    return Score("layer", split, hardware, predictor, subset, len(measured), **errors(measured, answer.energy_j[chosen]),
                 noise_floor_frac=floor, coverage_frac=coverage, time_mdape_frac=time_error)  # fmt: skip


def _noise_floor(measurements: Sequence[Measurement]) -> float | None:
    repeats: dict[tuple[Layer | None, str], list[float]] = defaultdict(list)
    for m in measurements:
        repeats[m.layer, m.run].append(m.energy_j)
    scatter = []
    for same in (np.array(x) for x in repeats.values() if len(x) > 1):
        others = (same.sum() - same) / (len(same) - 1)
        # which err as well, by 1/sqrt(n - 1) of what one does
        scatter += (np.abs(same / others - 1) / np.sqrt(1 + 1 / (len(same) - 1))).tolist()
    return float(np.median(scatter)) if scatter else None


def _unseen_networks(
    split: str,
    hardware: str,
    measurements: Sequence[Measurement],
    networks: Networks,
    baselines: bool,
    seed: int,
    progress: Progress,
) -> list[Score]:
    """Score networks with models that know neither their layers nor a pass of their own name, or of their task."""
    from joblib import Parallel, delayed

    parts = list(unseen_networks(split, measurements, networks))
    progress(f"{split}: {hardware}, without each of {', '.join(x.name for x in parts)} in turn")
    answers = Parallel(n_jobs=-1)(delayed(_without)(part, hardware, baselines, seed) for part in parts)
    passes = [pair for part in parts for pair in part.passes]
    return [
        score
        for predictor in answers[0]
        for score in _network_scores(split, hardware, passes, predictor, [x for a in answers for x in a[predictor]])
    ]


def _without(part: Unseen, hardware: str, baselines: bool, seed: int) -> dict[str, list[_Sum]]:
    model = EnergyModel.train(part.rows, seed=seed, hardware=hardware, networks=part.known)
    answers = {"wattlayer": _priced(part.passes, model)}
    return answers | (_baseline_sums(part, answers["wattlayer"], model) if baselines else {})


def _baseline_sums(part: Unseen, ours: Sequence[_Sum], model: EnergyModel) -> dict[str, list[_Sum]]:
    """What the baselines say of whole passes: sums over layers, as none of them knows of a host."""
    train = merge(labels(part.rows))
    layers = tuple(dict.fromkeys(layer for _, trace in part.passes for layer in trace.unique()))
    unknown = np.full(len(layers), np.nan)
    test = Rows(layers, (model.metadata.runs[0],) * len(layers), unknown, unknown)
    power_w = float(np.median(train.power_w))
    answers = {"constant power x time": [_Sum(power_w * x.time_s, x.time_s) for x in ours]}
    for name, predict in BASELINES.items():
        energy_j = dict(zip(layers, predict(train, test, model.hardware)))
        answers[name] = [_Sum(sum(energy_j[x] * calls for x, calls in t.unique().items())) for _, t in part.passes]
    return answers


def _priced(networks: Networks, model: EnergyModel) -> list[_Sum]:
    """Estimate each pass in the board state of its campaign, or of the reference where the model does not know that one."""
    known = model.metadata.runs
    found = [estimate(trace, model, mode=m.mode, run=m.run if m.run in known else None) for m, trace in networks]
    return [_Sum(e.energy_j, e.time_s, e.interval_j) for e in found]


def _network_scores(split: str, hardware: str, networks: Networks, predictor: str, sums: Sequence[_Sum]) -> list[Score]:
    """Score whole networks, energy and interval of the sum against the measured pass: all, and each launch mode."""
    modes = np.array([m.mode for m, _ in networks])
    subsets = {"all": np.ones(len(modes), bool)} | {
        str(mode): modes == mode for mode in sorted(set(modes)) if len(set(modes)) > 1
    }
    measured, predicted = np.array([m.energy_j for m, _ in networks]), np.array([x.energy_j for x in sums])
    inside = np.array([x.interval_j[0] <= m.energy_j <= x.interval_j[1] for x, (m, _) in zip(sums, networks)])
    late = np.array([abs(x.time_s / m.time_s - 1) for x, (m, _) in zip(sums, networks)])
    ours = predictor == "wattlayer"
    return [
        Score("network", split, hardware, predictor, name, int(chosen.sum()), **errors(measured[chosen], predicted[chosen]),
              noise_floor_frac=None, coverage_frac=float(np.mean(inside[chosen])) if ours else None,
              time_mdape_frac=float(np.median(late[chosen])) if ours else None)
        for name, chosen in subsets.items()
    ]  # fmt: skip
