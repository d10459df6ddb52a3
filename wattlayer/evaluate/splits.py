"""What a model must not have seen to be judged on it: layers, sizes, network families, campaigns, whole networks, tasks.

From easy to honest: `layer` (grouped by distinct layer), `family` (a whole network family left out, with every layer that
occurs in it), `campaign` (the same for a campaign, which in some tables is a network), `size` (trained on the smaller 80 %
by FLOP), `network` (each network that was measured whole, with its layers and every pass of its name), `task` (trained on
rows of what occurs in vision networks alone, judged on language networks and their layers, and the other way round).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..dataset import Measurement
from ..errors import InputError
from ..layer import Layer
from ..train.folds import LARGEST_FRAC, together
from ..train.rows import MIN_LAYERS, Rows

if TYPE_CHECKING:
    from ..trace import Trace

SPLITS = ("given", "layer", "family", "campaign", "size", "network", "task")
"""`given` leaves nothing out: the model as it is."""
OF_NETWORKS = ("network", "task")
"""Splits that leave whole networks out."""
FOLDS = 5
MIN_GROUP_LAYERS = 8
"""Families, campaigns and tasks with fewer measured layers say little and are not left out on their own."""
LANGUAGE, VISION, OTHER = "language", "vision", "other"
GENERATING = "llm:"
"""What the sources of layers begin with that a campaign took from language models by their sizes alone."""

_NEEDS = {
    "family": "give layers that occur in networks of torchvision",
    "campaign": "give rows of larger campaigns",
    "task": "give measured networks that they occur in (--networks)",
}
"""What a split that leaves groups out asks for where there is none."""

Groups = Mapping[Layer, frozenset[str]]
"""The network families, campaigns or tasks that a layer `as_defined`, whose rows stay on one side, occurs in."""
Networks = Sequence[tuple[Measurement, "Trace"]]
"""Measured passes of whole networks, each with the trace of its network."""


@dataclass(frozen=True)
class Fold:
    """The rows of one training and those that judge it."""

    name: str
    inside: list[Measurement]
    outside: list[Measurement]


@dataclass(frozen=True)
class Unseen:
    """Passes that judge a model which was trained on `rows` and told of the passes of other `known` networks."""

    name: str
    passes: Networks
    known: Networks
    rows: Sequence[Measurement]


def check_splits(splits: Iterable[str]) -> None:
    """Raise InputError for a name that is no split."""
    for split in splits:
        if split not in SPLITS:
            raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}")


def folds(split: str, own: Sequence[Measurement], groups: Groups | None, seed: int) -> Iterator[Fold]:
    """Yield what the rows of layers `own` are parted into; raise InputError where a split cannot be made.

    `groups` are those that `family` and `task` leave out.
    """
    distinct = sorted({m.layer.as_defined() for m in own if m.layer is not None}, key=lambda x: x.digest())
    groups = groups or {}
    if split == "layer":
        place = {x: i for i, x in enumerate(distinct)}
        rows = Rows.of(sorted((m for m in own if m.layer is not None), key=lambda m: place[m.layer.as_defined()]))  # type: ignore[union-attr]
        shapes = [x.as_defined() for x in rows.layers]
        part = together(shapes, rows.time_s, rows.power_w)
        if not part.any():
            raise InputError("the split 'layer' needs rows of two layers that do not carry one reading")
        fold_of = dict(zip(shapes, (np.random.default_rng(seed).permutation(part.max() + 1) % FOLDS)[part]))
        for fold in sorted(set(fold_of.values())):
            yield _fold(f"fold {fold + 1} of {FOLDS}", own, {x for x, f in fold_of.items() if f == fold})
    elif split == "size":
        order = sorted(distinct, key=lambda x: x.flop)
        yield _fold("the largest 20 % by FLOP", own, set(order[round(len(order) * (1 - LARGEST_FRAC)) :]))
    elif split == "family":
        yield from _left_out(split, own, groups)
    elif split == "campaign":
        yield from _left_out(split, own, _campaigns(own))
    else:
        assert split == "task", split
        # what occurs in no network was drawn from those of all tasks, and would tell of the one that is left out
        yield from _left_out(split, [m for m in own if m.layer is not None and groups.get(m.layer.as_defined())], groups)


def _fold(name: str, own: Sequence[Measurement], out: set[Layer]) -> Fold:
    fold = Fold(name, [], [])
    for m in own:
        (fold.outside if m.layer is not None and m.layer.as_defined() in out else fold.inside).append(m)
    return fold


def _left_out(split: str, own: Sequence[Measurement], groups: Groups) -> Iterator[Fold]:
    """Leave out each group in turn, with every layer that occurs in it."""
    members: dict[str, set[Layer]] = defaultdict(set)
    for layer in {m.layer.as_defined() for m in own if m.layer is not None}:
        for name in groups.get(layer, ()):
            members[name].add(layer)
    chosen = {name: out for name, out in sorted(members.items()) if len(out) >= MIN_GROUP_LAYERS}
    if not chosen:
        raise InputError(f"the split {split!r} needs a {split} of at least {MIN_GROUP_LAYERS} of these layers; {_NEEDS[split]}")
    for name, out in chosen.items():
        fold = _fold(name, own, out)
        if not fold.inside:
            raise InputError(
                f"every layer of these rows is of the {split} {name}: leaving it out leaves none to train on; add others"
            )
        yield fold


def _campaigns(measurements: Iterable[Measurement]) -> Groups:
    """The campaigns that each layer, as defined, was measured in."""
    runs: dict[Layer, set[str]] = defaultdict(set)
    for m in measurements:
        if m.layer is not None:
            runs[m.layer.as_defined()].add(m.run)
    return {layer: frozenset(names) for layer, names in runs.items()}


def feasible(split: str, own: Sequence[Measurement], groups: Groups | None, networks: Networks) -> bool:
    """Return whether a split leaves enough to train on, each time, of the rows of layers `own` and of measured `networks`."""
    try:
        left = [] if split == "network" else [part.inside for part in folds(split, own, groups, 0)]
        left += [list(part.rows) for part in unseen_networks(split, own, networks)] if split in OF_NETWORKS else []
    except InputError:
        return False
    return all(len({m.layer for m in rows}) >= MIN_LAYERS for rows in left)


def tasks_of(trace: Trace) -> frozenset[str]:
    """Return what a network is for by its inputs: language by token ids [batch, tokens], vision by images, "other" by neither."""
    language = any(x.dtype in ("int32", "int64") and len(x.shape) >= 2 for x in trace.inputs)
    vision = any("float" in x.dtype and len(x.shape) >= 4 for x in trace.inputs)
    return frozenset(name for name, given in ((LANGUAGE, language), (VISION, vision)) if given) or frozenset({OTHER})


def layer_tasks(measurements: Iterable[Measurement], networks: Networks) -> Groups:
    """Return the tasks of each layer, as defined: those of the measured `networks` that it occurs in or was taken from."""
    tasks: dict[Layer, set[str]] = defaultdict(set)
    for _, trace in networks:
        for layer in trace.unique():
            tasks[layer.as_defined()] |= tasks_of(trace)
    of_source = {str(m.network): tasks_of(trace) for m, trace in networks}
    for m in measurements:
        if m.layer is not None and m.source is not None:
            generating = m.source.startswith(GENERATING)
            tasks[m.layer.as_defined()] |= {LANGUAGE} if generating else of_source.get(m.source, frozenset())
    return {layer: frozenset(names) for layer, names in tasks.items()}


def unseen_networks(split: str, measurements: Sequence[Measurement], networks: Networks) -> Iterator[Unseen]:
    """Yield measured networks that no model knows: not their layers, and no pass of their own name or of their own task.

    Raises InputError without networks, or where these are all of one task.
    """
    if not networks:
        raise InputError(f"the split {split!r} needs measured networks beside layers (--networks)")
    layers = [m for m in measurements if m.layer is not None]
    names = [frozenset({str(m.network)}) if split == "network" else tasks_of(trace) for m, trace in networks]
    every = sorted(frozenset[str]().union(*names))
    if split == "task" and len(every) < 2:
        raise InputError(f"the split 'task' needs networks of two tasks: these are all of {every[0]}; measure one of another")
    tasks = layer_tasks(layers, networks)
    for name in every:
        own, known = ([pair for pair, its in zip(networks, names) if (name in its) is same] for same in (True, False))
        if split == "network":
            out = {layer.as_defined() for _, trace in own for layer in trace.unique()}
            rows = [m for m in layers if m.layer.as_defined() not in out]  # type: ignore[union-attr]
        else:
            rows = [m for m in layers if (its := tasks.get(m.layer.as_defined())) and name not in its]  # type: ignore[union-attr]
        yield Unseen(name, own, known, rows)
