"""How far to believe a model: every figure with its split, its hardware, its number of rows and its baselines.

Splits, from easy to honest: `given` (the model as it is, on the rows it is shown; called `training rows` where it was
trained on exactly these), and with the model's recipe trained
anew each time: `layer` (grouped by distinct layer), `family` (a whole network family left out, with every layer that
occurs in it), `campaign` (the same for a campaign, which in some tables is a network), `size` (trained on the smaller 80 %
by FLOP, tested on the rest), `network` (whole networks in graph and in eager mode, each without the rows of its own layers
and without the passes of its own name).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .baselines import BASELINES
from .dataset import Measurement
from .errors import InputError
from .estimate import Estimate, estimate
from .features import Array
from .intervals import LEVEL
from .labels import labels, networks_of
from .layer import Layer
from .model import EnergyModel
from .predict import load_measured, trace_network
from .training import LARGEST_FRAC, Rows, digest, merge, tell_launches

if TYPE_CHECKING:
    from .trace import Trace

SPLITS = ("given", "layer", "family", "campaign", "size", "network")
FOLDS = 5
MIN_FAMILY_LAYERS = 8
"""Families with fewer measured layers say little and are not left out on their own."""

Families = Mapping[Layer, frozenset[str]]
"""Network families by layer configuration."""
Networks = Sequence[tuple[Measurement, "Trace"]]
"""Measured passes of whole networks, each with the trace of its network."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Score:
    """Errors of one predictor on one split; `_frac` values are shares, ape = |predicted / measured − 1|."""

    unit: str
    split: str
    hardware: str
    predictor: str
    subset: str
    """"all" rows, or those of one group of kinds."""
    rows: int
    mdape_frac: float
    p90_ape_frac: float
    signed_median_frac: float
    spearman: float | None
    kendall: float | None
    noise_floor_frac: float | None
    """Median scatter of repeats of one layer in one campaign around their own median; None without repeats."""
    coverage_frac: float | None
    """Share of measured energies inside the interval (meant: `intervals.LEVEL`); None for baselines."""
    time_mdape_frac: float | None = None


@dataclass(frozen=True)
class Predicted:
    """wattlayer's predictions of one split beside what was measured; arrays are [n_rows]. What plots are drawn from."""

    split: str
    groups: tuple[str, ...]
    flop: Array
    measured_j: Array
    predicted_j: Array


@dataclass(frozen=True)
class Evaluation:
    """All scores of one call of `evaluate`, and the predictions of layers that they were taken from."""

    model: str
    model_sha256: str
    scores: tuple[Score, ...]
    predicted: tuple[Predicted, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON types."""
        return {
            "schema": 1, "model": {"name": self.model, "sha256": self.model_sha256}, "interval_frac": LEVEL,
            "scores": [asdict(score) for score in self.scores],
        }  # fmt: skip

    def find(self, split: str, predictor: str = "wattlayer", subset: str = "all", unit: str = "layer") -> Score:
        """Return one score; raise InputError where it was not evaluated."""
        wanted = (unit, split, predictor, subset)
        for score in self.scores:
            if (score.unit, score.split, score.predictor, score.subset) == wanted:
                return score
        raise InputError(f"no score for {' / '.join(wanted)}")


@dataclass(frozen=True)
class _Answer:
    """What a predictor said of measured rows."""

    rows: Rows
    energy_j: Array
    time_s: Array | None = None
    low_j: Array | None = None
    high_j: Array | None = None


def evaluate(
    model: EnergyModel,
    measurements: Sequence[Measurement],
    networks: Sequence[Measurement] | Networks = (),
    splits: Sequence[str] = ("given",),
    families: Families | None = None,
    baselines: bool = True,
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> Evaluation:
    """Score `model` on measured layers of its hardware and on measured `networks`, each with its trace or traced by its name.

    `families` names the network families that each `configuration` occurs in; the split `family` needs it. Every split but
    `given` trains the model's recipe anew on a part of the rows. Raises InputError where there is nothing to score.
    """
    own = [m for m in labels(measurements) if m.layer is not None and m.hardware == model.hardware]
    named = [m for m in networks if isinstance(m, Measurement) and m.hardware == model.hardware]
    networks = [*traced_networks(named, progress), *(x for x in networks if not isinstance(x, Measurement))]
    if not own and not networks:
        raise InputError(f"none of the rows is of {model.hardware}, the hardware of model {model.name!r}")
    scores: list[Score] = []
    predicted: list[Predicted] = []
    for split in (x for x in splits if own and x != "network"):
        progress(f"{split}: {model.hardware}")
        answers = _answers(split, model, own, families, baselines, seed, progress)
        name = "training rows" if split == "given" and digest(own) == model.metadata.data_sha256 else split
        for predictor, answer in answers.items():
            scores += _scores(name, model.hardware, predictor, answer, _noise_floor(own))
        predicted.append(_predicted(name, answers["wattlayer"]))
    if "network" in splits and networks:
        scores += _unseen_networks(model.hardware, measurements, networks, seed, progress)
    elif networks:
        scores += _network_scores("network", model.hardware, networks, _priced(networks, model))
    return Evaluation(model.name, model.sha256, tuple(scores), tuple(predicted))


def _predicted(split: str, answer: _Answer) -> Predicted:
    layers, measured_j = answer.rows.layers, answer.rows.time_s * answer.rows.power_w
    return Predicted(
        split, tuple(x.group for x in layers), np.array([float(x.flop) for x in layers]), measured_j, answer.energy_j
    )


class Tracer:
    """Traces each measured network once, on the inputs that it was measured on."""

    def __init__(self, progress: Progress = lambda text: None) -> None:
        self._progress = progress
        self._traces: dict[object, Trace | InputError] = {}

    def __call__(self, m: Measurement) -> Trace:
        """Return the trace of the pass that `m` measured; raise InputError where there is none of its name and its inputs."""
        assert m.network is not None
        key = (m.network, m.input_shapes, m.dtype, m.tf32)
        if key not in self._traces:
            self._progress(f"tracing {m.network}")
            try:
                self._traces[key] = trace_network(load_measured(m.network, m.input_shapes, m.dtype), m.tf32)
            except InputError as error:
                self._traces[key] = error
        found = self._traces[key]
        if isinstance(found, InputError):
            raise found
        return found


def traced_networks(
    measurements: Sequence[Measurement], progress: Progress = lambda text: None, tracer: Tracer | None = None
) -> list[tuple[Measurement, Trace]]:
    """Return the measured networks of `measurements`, each with the trace of the call that was measured."""
    trace_of = tracer or Tracer(progress)
    return [(m, trace_of(m)) for m in networks_of(measurements)]


def configuration(layer: Layer) -> Layer:
    """Return the layer as a network defines it, however it ran: TF32 or not, train or eval mode.

    Splits keep all rows of one configuration on one side.
    """
    arguments = tuple((name, value) for name, value in layer.arguments if name != "training")
    return replace(layer, arguments=arguments).with_tf32("none")


def _answers(
    split: str,
    model: EnergyModel,
    own: list[Measurement],
    families: Families | None,
    baselines: bool,
    seed: int,
    progress: Progress,
) -> dict[str, _Answer]:
    if split == "given":
        return {"wattlayer": _ask(model, _every(own))}
    from joblib import Parallel, delayed

    chosen = list(folds(split, own, families, seed))
    progress(f"{split}: {model.hardware}, without {', '.join(name for name, _ in chosen)} in turn")
    # processes, as fitting a scaffold holds the interpreter; any backend of joblib.parallel_config spreads the folds
    answers = Parallel(n_jobs=-1)(delayed(_fold)(*_parted(own, out), baselines, seed) for _, out in chosen)
    return {predictor: _concatenate([x[predictor] for x in answers]) for predictor in answers[0]}


def _parted(own: Sequence[Measurement], out: NDArray[np.bool_]) -> tuple[list[Measurement], list[Measurement]]:
    """What stays inside and what is left out."""
    return [m for m, chosen in zip(own, out) if not chosen], [m for m, chosen in zip(own, out) if chosen]


def _fold(inside: list[Measurement], outside: list[Measurement], baselines: bool, seed: int) -> dict[str, _Answer]:
    trained, test = EnergyModel.train(inside, seed=seed), _every(outside)
    answers = {"wattlayer": _ask(trained, test)}
    if baselines:
        train = merge(inside)
        time_s = answers["wattlayer"].time_s
        assert time_s is not None
        answers["constant power x time"] = _Answer(test, float(np.median(train.power_w)) * time_s)
        answers |= {name: _Answer(test, f(train, test, trained.hardware)) for name, f in BASELINES.items()}
    return answers


def _every(measurements: Sequence[Measurement]) -> Rows:
    """All rows as they were measured, repeats included."""
    chosen = [m for m in measurements if m.layer is not None]
    return Rows(
        tuple(m.layer for m in chosen if m.layer is not None), tuple(m.run for m in chosen),
        np.array([m.time_s for m in chosen]), np.array([m.power_w for m in chosen]),
    )  # fmt: skip


def _ask(model: EnergyModel, rows: Rows) -> _Answer:
    p = model.predict(rows.layers, rows.runs, alone=True)
    return _Answer(rows, p.energy_j, p.time_s, p.energy_low_j, p.energy_high_j)


def folds(split: str, own: list[Measurement], families: Families | None, seed: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield what is left out and its rows [n_own], fold by fold; raise InputError where a split cannot be made."""
    layers = [configuration(m.layer) for m in own if m.layer is not None]
    distinct = sorted(set(layers), key=lambda x: x.digest())
    if split == "layer":
        folds = np.random.default_rng(seed).permutation(len(distinct)) % FOLDS
        for fold in range(FOLDS):
            out = {x for x, f in zip(distinct, folds) if f == fold}
            yield f"fold {fold + 1} of {FOLDS}", np.array([x in out for x in layers])
    elif split == "size":
        order = sorted(distinct, key=lambda x: x.flop)
        out = set(order[round(len(order) * (1 - LARGEST_FRAC)) :])
        yield "the largest 20 % by FLOP", np.array([x in out for x in layers])
    elif split == "family":
        yield from _families_left_out(layers, distinct, families)
    elif split == "campaign":
        yield from _families_left_out(layers, distinct, _campaigns(own))
    else:
        raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}")


def _campaigns(measurements: Sequence[Measurement]) -> Families:
    """The campaigns that each configuration was measured in."""
    runs: dict[Layer, set[str]] = defaultdict(set)
    for m in measurements:
        if m.layer is not None:
            runs[configuration(m.layer)].add(m.run)
    return {layer: frozenset(names) for layer, names in runs.items()}


def _families_left_out(
    layers: list[Layer], distinct: list[Layer], families: Families | None
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    members: dict[str, set[Layer]] = defaultdict(set)
    for layer in distinct:
        for family in (families or {}).get(layer, ()):
            members[family].add(layer)
    chosen = {name: out for name, out in sorted(members.items()) if len(out) >= MIN_FAMILY_LAYERS}
    if not chosen:
        raise InputError("the split 'family' needs layers that occur in known networks; too few of these rows do")
    if any(len(out) == len(distinct) for out in chosen.values()):
        raise InputError("there is only one campaign or family: leaving it out leaves nothing to train on")
    for name, out in chosen.items():
        yield name, np.array([x in out for x in layers])


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


def errors(measured: Array, predicted: Array) -> dict[str, Any]:
    """Return median and 90th-percentile absolute percentage error, signed median, and rank correlations."""
    from scipy.stats import kendalltau, spearmanr

    ratio = predicted / measured - 1
    ranked = len(measured) > 2 and len(set(measured)) > 1 and len(set(predicted)) > 1
    return {
        "mdape_frac": float(np.median(np.abs(ratio))),
        "p90_ape_frac": float(np.quantile(np.abs(ratio), 0.9)),
        "signed_median_frac": float(np.median(ratio)),
        "spearman": float(spearmanr(measured, predicted).statistic) if ranked else None,
        "kendall": float(kendalltau(measured, predicted).statistic) if ranked else None,
    }


def _noise_floor(measurements: Sequence[Measurement]) -> float | None:
    repeats: dict[tuple[Layer | None, str], list[float]] = defaultdict(list)
    for m in measurements:
        repeats[m.layer, m.run].append(m.energy_j)
    scatter = [abs(e / float(np.median(same)) - 1) for same in repeats.values() if len(same) > 1 for e in same]
    return float(np.median(scatter)) if scatter else None


def _unseen_networks(
    hardware: str, measurements: Sequence[Measurement], networks: Networks, seed: int, progress: Progress
) -> list[Score]:
    """Score each network with a model that knows neither its layers nor a pass of its own name."""
    from joblib import Parallel, delayed

    names = sorted({str(m.network) for m, _ in networks})
    progress(f"network: {hardware}, without each of {len(names)} in turn")
    parts = Parallel(n_jobs=-1)(delayed(_without)(name, hardware, measurements, networks, seed) for name in names)
    asked = [pair for name in names for pair in networks if pair[0].network == name]
    return _network_scores("unseen network", hardware, asked, [x for part in parts for x in part])


def _without(name: str, hardware: str, measurements: Sequence[Measurement], networks: Networks, seed: int) -> list[Estimate]:
    own, others = ([(m, t) for m, t in networks if (m.network == name) is same] for same in (True, False))
    out = {configuration(layer) for _, trace in own for layer in trace.unique()}
    inside = [m for m in measurements if m.layer is not None and configuration(m.layer) not in out]
    model = tell_launches(EnergyModel.train(inside, seed=seed, hardware=hardware), others, inside)
    return _priced(own, model)


def _priced(networks: Networks, model: EnergyModel) -> list[Estimate]:
    """Estimate each pass in the board state of its campaign, or of the reference where the model does not know that one."""
    known = model.metadata.runs
    return [estimate(trace, model, mode=m.mode, run=m.run if m.run in known else None) for m, trace in networks]


def _network_scores(split: str, hardware: str, networks: Networks, estimates: Sequence[Estimate]) -> list[Score]:
    """Score whole networks, energy and interval of the sum against the measured pass: all, and each launch mode."""
    modes = np.array([m.mode for m, _ in networks])
    subsets = {"all": np.ones(len(modes), bool)} | {
        str(mode): modes == mode for mode in sorted(set(modes)) if len(set(modes)) > 1
    }
    measured, predicted = np.array([m.energy_j for m, _ in networks]), np.array([e.energy_j for e in estimates])
    inside = np.array([e.interval_j[0] <= m.energy_j <= e.interval_j[1] for e, (m, _) in zip(estimates, networks)])
    late = np.array([abs(e.time_s / m.time_s - 1) for e, (m, _) in zip(estimates, networks)])
    return [
        Score("network", split, hardware, "wattlayer", name, int(chosen.sum()), **errors(measured[chosen], predicted[chosen]),
              noise_floor_frac=None, coverage_frac=float(np.mean(inside[chosen])), time_mdape_frac=float(np.median(late[chosen])))
        for name, chosen in subsets.items()
    ]  # fmt: skip
