"""How far to believe a model: every figure with its split, its hardware, its number of rows and its baselines.

`given` takes the model as it is, on the rows it is shown (called `training rows` where it was trained on exactly these); every
other split (`splits`) trains the model's recipe anew each time, without what it is judged on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
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
from ..model import EnergyModel, Prediction, load_model
from ..train.folds import numbers
from ..train.networks import Progress, traced_networks
from ..train.rows import Rows, digest, merge
from .baselines import BASELINES
from .scores import Evaluation, Judged, Score, errors, sampled
from .splits import OF_NETWORKS, Fold, Groups, Networks, Unseen, check_splits, folds, layer_tasks, unseen_networks


@dataclass(frozen=True)
class _Answer:
    """What a predictor said of measured layers: energies [n] and, of wattlayer itself, all else."""

    energy_j: Array
    told: Prediction | None = None


@dataclass(frozen=True)
class _Sum:
    """What a predictor said of one pass of a network."""

    energy_j: float
    time_s: float = float("nan")
    interval_j: tuple[float, float] = (float("nan"), float("nan"))
    covered_frac: float = float("nan")
    extrapolated_frac: float = float("nan")


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
    judged: list[Judged] = []
    noise_frac = _scatter(own)
    floor = float(np.median([noise_frac[m] for m in own if m in noise_frac])) if noise_frac else None
    for split in (x for x in splits if own and x != "network"):
        progress(f"{split}: {model.hardware}")
        name = split
        if split == "given":
            trained_on = digest(own) == model.metadata.data_sha256
            name = "training rows" if trained_on else split
            parts, answers = [Fold("", own if trained_on else [], own)], {"wattlayer": _ask(model, own)}
        else:
            parts = list(folds(split, own, layer_tasks(own, networks) if split == "task" else families, seed))
            progress(f"{split}: {model.hardware}, without {', '.join(part.name for part in parts)} in turn")
            answers = _left_out(parts, baselines, seed)
        rows = [m for part in parts for m in part.outside]
        distinct = numbers(Rows.of(rows))
        for predictor, answer in answers.items():
            scores += _scores(name, model.hardware, predictor, rows, distinct, answer, floor)
        judged += _judged(name, parts, answers["wattlayer"], noise_frac)
    for split in [*(["given"] if networks and ("given" in splits or not anew) else []), *anew]:
        if split == "given":
            passes, sums = [Unseen("", networks, (), ())], {"wattlayer": _priced(networks, model)}
        else:
            passes = list(unseen_networks(split, measurements, networks))
            progress(f"{split}: {model.hardware}, without each of {', '.join(x.name for x in passes)} in turn")
            sums = _unseen_sums(passes, model.hardware, baselines, seed)
        pairs = [pair for part in passes for pair in part.passes]
        for predictor, told in sums.items():
            scores += _network_scores(split, model.hardware, pairs, predictor, told)
        judged += _judged_passes(split, passes, sums["wattlayer"])
    return Evaluation(model.name, model.sha256, tuple(scores), tuple(judged))


def _left_out(parts: Sequence[Fold], baselines: bool, seed: int) -> dict[str, _Answer]:
    """What each predictor, trained without it, says of each part in turn."""
    from joblib import Parallel, delayed

    # processes, as fitting a scaffold holds the interpreter; any backend of joblib.parallel_config spreads the folds
    answers = Parallel(n_jobs=-1)(delayed(_fold)(part.inside, part.outside, baselines, seed) for part in parts)
    return {predictor: _concatenate([x[predictor] for x in answers]) for predictor in answers[0]}


def _fold(inside: list[Measurement], outside: list[Measurement], baselines: bool, seed: int) -> dict[str, _Answer]:
    trained = EnergyModel.train(inside, seed=seed)
    ours = _ask(trained, outside)
    answers = {"wattlayer": ours}
    if baselines:
        train, test = merge(inside), Rows.of(outside)
        assert ours.told is not None
        answers["constant power x time"] = _Answer(float(np.median(train.power_w)) * ours.told.time_s)
        answers |= {name: _Answer(f(train, test, trained.hardware)) for name, f in BASELINES.items()}
    return answers


def _ask(model: EnergyModel, measurements: Sequence[Measurement]) -> _Answer:
    rows = Rows.of(measurements)
    told = model.predict(rows.layers, rows.runs, alone=True)
    return _Answer(told.energy_j, told)


def _concatenate(answers: Sequence[_Answer]) -> _Answer:
    energy_j, told = np.concatenate([a.energy_j for a in answers]), [a.told for a in answers if a.told is not None]
    if not told:
        return _Answer(energy_j)
    return _Answer(
        energy_j, Prediction(**{f.name: np.concatenate([getattr(x, f.name) for x in told]) for f in fields(Prediction)})
    )


def _scores(
    split: str, hardware: str, predictor: str, rows: Sequence[Measurement], distinct: NDArray[np.int64], answer: _Answer,
    floor: float | None,
) -> list[Score]:  # fmt: skip
    """Score all rows [n], of `distinct` layers [n], and, for wattlayer itself, each group of kinds."""
    group = np.array([m.layer.group for m in rows if m.layer is not None])
    subsets = {"all": np.ones(len(group), dtype=bool)}
    if predictor == "wattlayer":
        subsets |= {name: group == name for name in sorted(set(group))}
    return [_score(split, hardware, predictor, name, rows, distinct, answer, chosen, floor) for name, chosen in subsets.items()]


def _score(
    split: str, hardware: str, predictor: str, subset: str, rows: Sequence[Measurement], distinct: NDArray[np.int64],
    answer: _Answer, chosen: NDArray[np.bool_], floor: float | None,
) -> Score:  # fmt: skip
    measured, time_s = np.array([m.energy_j for m in rows])[chosen], np.array([m.time_s for m in rows])[chosen]
    predicted, inside, time_error = answer.energy_j[chosen], None, None
    if (told := answer.told) is not None:
        inside = ((told.energy_low_j[chosen] <= measured) & (measured <= told.energy_high_j[chosen])).astype(float)
        time_error = float(np.median(np.abs(told.time_s[chosen] / time_s - 1)))
    return Score("layer", split, hardware, predictor, subset, len(measured), **errors(measured, predicted),
                 noise_floor_frac=floor, coverage_frac=None if inside is None else float(np.mean(inside)),
                 time_mdape_frac=time_error, **sampled(measured, predicted, inside, distinct[chosen]))  # fmt: skip


def _judged(split: str, parts: Sequence[Fold], answer: _Answer, noise_frac: Mapping[Measurement, float]) -> Iterator[Judged]:
    """Yield the rows of `parts` in turn, each with what was said of it."""
    assert answer.told is not None
    p = answer.told
    columns = (p.energy_j, p.energy_low_j, p.energy_high_j, p.time_s, p.covered.astype(float), p.extrapolated.astype(float))
    figures = zip(*(x.tolist() for x in columns))
    for part in parts:
        known = Counter(layer.kind for layer in {m.layer for m in part.inside if m.layer is not None})
        for m in part.outside:
            assert m.layer is not None
            energy_j, low_j, high_j, time_s, covered_frac, extrapolated_frac = next(figures)
            yield Judged(
                split, part.name or None, m, m.layer.flop, tuple(x.shape for x in m.layer.inputs), energy_j, low_j, high_j,
                time_s, covered_frac, extrapolated_frac, known[m.layer.kind] if part.inside else None, noise_frac.get(m),
            )  # fmt: skip


def _judged_passes(split: str, parts: Sequence[Unseen], sums: Sequence[_Sum]) -> Iterator[Judged]:
    """Yield the passes of `parts` in turn, each with what was said of it."""
    for (name, m, trace), x in zip(((part.name, *pair) for part in parts for pair in part.passes), sums):
        yield Judged(
            split, name or None, m, trace.flop, trace.input_shapes, x.energy_j, *x.interval_j, x.time_s, x.covered_frac,
            x.extrapolated_frac,
        )  # fmt: skip


def _scatter(measurements: Sequence[Measurement]) -> dict[Measurement, float]:
    """How far each repeat of a layer in a campaign is from the mean of its others, as the scatter of one measurement."""
    repeats: dict[tuple[Layer | None, str], list[Measurement]] = defaultdict(list)
    for m in measurements:
        repeats[m.layer, m.run].append(m)
    found: dict[Measurement, float] = {}
    for rows in (x for x in repeats.values() if len(x) > 1):
        same = np.array([m.energy_j for m in rows])
        others = (same.sum() - same) / (len(same) - 1)
        # which err as well, by 1/sqrt(n - 1) of what one does
        found.update(zip(rows, (np.abs(same / others - 1) / np.sqrt(1 + 1 / (len(same) - 1))).tolist()))
    return found


def _unseen_sums(parts: Sequence[Unseen], hardware: str, baselines: bool, seed: int) -> dict[str, list[_Sum]]:
    """What models say of networks that know neither their layers nor a pass of their own name, or of their task."""
    from joblib import Parallel, delayed

    answers = Parallel(n_jobs=-1)(delayed(_without)(part, hardware, baselines, seed) for part in parts)
    return {predictor: [x for a in answers for x in a[predictor]] for predictor in answers[0]}


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
    return [_Sum(e.energy_j, e.time_s, e.interval_j, e.covered_frac, e.extrapolated_frac) for e in found]


def _network_scores(split: str, hardware: str, networks: Networks, predictor: str, sums: Sequence[_Sum]) -> list[Score]:
    """Score whole networks, energy and interval of the sum against the measured pass: all, and each launch mode."""
    modes = np.array([m.mode for m, _ in networks])
    subsets = {"all": np.ones(len(modes), bool)} | {
        str(mode): modes == mode for mode in sorted(set(modes)) if len(set(modes)) > 1
    }
    measured, predicted = np.array([m.energy_j for m, _ in networks]), np.array([x.energy_j for x in sums])
    inside = np.array([float(x.interval_j[0] <= m.energy_j <= x.interval_j[1]) for x, (m, _) in zip(sums, networks)])
    late = np.array([abs(x.time_s / m.time_s - 1) for x, (m, _) in zip(sums, networks)])
    ours, named = predictor == "wattlayer", np.unique([str(m.network) for m, _ in networks], return_inverse=True)[1]
    return [
        Score("network", split, hardware, predictor, name, int(chosen.sum()), **errors(measured[chosen], predicted[chosen]),
              noise_floor_frac=None, coverage_frac=float(np.mean(inside[chosen])) if ours else None,
              time_mdape_frac=float(np.median(late[chosen])) if ours else None,
              **sampled(measured[chosen], predicted[chosen], inside[chosen] if ours else None, named[chosen]))
        for name, chosen in subsets.items()
    ]  # fmt: skip
