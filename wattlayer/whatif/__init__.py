"""What a change to a network or to how it runs does to its energy, with the interval of the difference.

Before and after are priced by one model, so most of what it gets wrong it gets wrong in both. The rule, for the energy
per sample, in joules, with d_i = (calls after - calls before) x energy of distinct layer i:

- a layer that runs as often as before cancels: d_i = 0;
- of an error's variance the model's `correlation` is shared, by all layers or by those of one group of kinds alone, whichever
  is wider: groups that err apart do not cancel. Up to the narrower of the two mean relative half-widths (of what was added, of
  what was removed) it moves both sides alike: it counts as that width x |Σ d_i|. What the wider side has beyond that is its own
  and counts in full;
- the rest of the variance is each layer's own and adds in quadrature;
- sums of layers, where networks measured whole told of them, may be off by one share before and after, which counts on Σ d_i;
- between graph and eager mode a pass may change by another share of it, which counts on the dearer of the two;
- the host's time may be off by another share, which counts on what it adds to launch gaps or takes from them where the host is as
  much too slow before as after. That of a measured host was told by what networks differ in: of operators that the two do not
  have in common each side's gaps are unsure for themselves as well. All of these add in quadrature.

Half-widths are taken up and down apart (e^w - 1 and 1 - e^-w), because intervals of energy are symmetric in its logarithm.
That the narrower width is common to both sides is an assumption, tested on errors drawn by it and not on measured pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_line
from ..estimate import VERSION, Estimate, estimate
from ..features.columns import Array
from ..layer import Layer
from ..model import EnergyModel, load_model
from ..model.folders import shipped_models
from ..model.intervals import LEVEL
from ..model.metadata import Metadata
from .subject import UNCHANGED, Edit, Setting, Subject

if TYPE_CHECKING:
    from torch import nn


Tell = Callable[[str, int, int], None]
"""Hears what is being priced, how many are done and how many there are."""


@dataclass(frozen=True)
class Change:
    """Two estimates of one model and what lies between them; energies in joules per sample."""

    edit: Edit
    before: Estimate
    after: Estimate
    interval_j: tuple[float, float]
    """Of `change_j`, at level `model.intervals.LEVEL`."""

    @property
    def change_j(self) -> float:
        """Energy per sample after less before: negative where the change saves."""
        return self.after.energy_per_sample_j - self.before.energy_per_sample_j

    @property
    def change_frac(self) -> float:
        """The change as a share of the energy before."""
        return self.change_j / self.before.energy_per_sample_j

    @property
    def certain(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.interval_j[1] < 0 or self.interval_j[0] > 0

    @property
    def unchanged(self) -> bool:
        """Whether the same layers run in the same way before and after."""
        before, after = self.before, self.after
        return before.trace.layers == after.trace.layers and before.mode == after.mode

    @property
    def measured_frac(self) -> float:
        """Share of the energy afterwards in kinds that were measured and layers near what was."""
        sound = self.after.covered & ~self.after.extrapolated
        return float(self.after.layer_energy_j[sound].sum() / max(float(self.after.layer_energy_j.sum()), 1e-300))

    def to_json(self) -> dict[str, Any]:
        """Return the change as JSON types, schema 1; energies per sample, pairs before and after."""
        (low, high), pair, model = self.interval_j, (self.before, self.after), self.before.model
        return {
            "schema": 1, "wattlayer": VERSION, "network": self.before.trace.network, "hardware": model.hardware,
            "model": model.name, "model_sha256": self.before.model_sha256, "basis": model.basis, "edit": self.edit.describe(),
            "batch": [x.trace.batch for x in pair], "dtype": [x.trace.dtype for x in pair],
            "tf32": [x.trace.tf32 for x in pair], "mode": [x.mode for x in pair],
            "interval_frac": LEVEL, "conditions": model.conditions,
            "before_per_sample_j": self.before.energy_per_sample_j, "after_per_sample_j": self.after.energy_per_sample_j,
            "change_per_sample_j": self.change_j, "change_low_j": low, "change_high_j": high, "change_frac": self.change_frac,
            "measured_frac": self.measured_frac,
            "time_s": [x.time_s for x in pair],
        }  # fmt: skip

    def __str__(self) -> str:
        low, high = self.interval_j
        return (
            f"{self.before.trace.network} on {self.before.model.hardware}, {self.edit.describe() or 'no change'}: "
            f"{self.before.energy_per_sample_j:.4g} to {self.after.energy_per_sample_j:.4g} J a sample, change "
            f"{self.change_j:+.4g} J ({low:+.4g} to {high:+.4g} J), {self.change_frac:+.1%}; "
            f"{self.measured_frac:.0%} of what remains is like what was measured"
        )


def change(before: Estimate, after: Estimate, edit: Edit = UNCHANGED) -> Change:
    """Return the change from one estimate to another of the same model; raise InputError for two models, or one under two
    conditions, such as power limits."""
    if before.model_sha256 != after.model_sha256:
        raise InputError(f"the estimates are of two models ({before.model.name}, {after.model.name}): price both with one")
    if before.model.conditions != after.model.conditions:
        told = " and ".join(repr(x.model.conditions or "as it is") for x in (before, after))
        raise InputError(f"the estimates are of {before.model.hardware} under two conditions ({told}): price both under one")
    pair = before, after
    operators = [Counter(x.kind for x in e.trace.layers) for e in pair]
    gaps_j = [[x / e.trace.batch for x in (e.gap_energy_j, *e.gap_interval_j)] for e in pair]
    in_two_modes = (before.mode == "eager") != (after.mode == "eager")
    mode_j = in_two_modes * before.model.launches_or_assumed.mode_spread_frac * max(e.energy_per_sample_j for e in pair)
    below, above = difference_spread_j(before.model, *_differences(before, after), operators, gaps_j, mode_j)
    middle = after.energy_per_sample_j - before.energy_per_sample_j
    return Change(edit, before, after, (float(middle - below), float(middle + above)))


def difference_spread_j(
    model: Metadata, difference_j: Array, up: Array, down: Array, groups: Sequence[str],
    operators: Sequence[Counter[str]], gaps_j: Sequence[Sequence[float]], mode_j: float = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """Return how far the interval of a difference of two passes reaches below and above it, in joules: the rule of this module.

    Layers as in `spread_j`; of the passes before and after, `operators` by kind and what gaps cost, as in `gap_spread_j`.
    """
    launches = model.launches_or_assumed
    sum_j = launches.sum_spread_frac * float(difference_j.sum())
    apart = apart_frac(*operators) if launches.basis == "measured" else 0.0
    parts = zip(spread_j(difference_j, up, down, groups, model.conformal.correlation), gap_spread_j(gaps_j[0], gaps_j[1], apart))
    below, above = (math.hypot(layers_j, gap_j, sum_j, mode_j) for layers_j, gap_j in parts)
    return below, above


def gap_spread_j(before_j: Sequence[float], after_j: Sequence[float], parted_frac: float = 0.0) -> tuple[float, float]:
    """Return how far the interval of a difference of gaps reaches below and above it, in joules: one host makes both.

    Each is what the gaps cost, and what they cost with the host as fast and as slow as it may be; `parted_frac` of each is of
    operators that the other does not have, in which one host errs otherwise.
    """
    (before, *ends_before), (after, *ends_after) = before_j, after_j
    moved = [(x - after) - (y - before) for x, y in zip(ends_after, ends_before)]
    (fast_before, slow_before), (fast_after, slow_after) = ([x - before for x in ends_before], [x - after for x in ends_after])
    below = math.hypot(min(0.0, *moved), parted_frac * math.hypot(fast_after, slow_before))
    above = math.hypot(max(0.0, *moved), parted_frac * math.hypot(slow_after, fast_before))
    return below, above


def apart_frac(before: Counter[str], after: Counter[str]) -> float:
    """Return the share of operators, by kind and calls, that two passes do not have in common (1 less Jaccard's index)."""
    most = (before | after).total()
    return 1.0 - (before & after).total() / most if most else 0.0


def spread_j(
    difference_j: Array, up: Array, down: Array, groups: Sequence[str], correlation: float
) -> tuple[float, float]:  # fmt: skip
    """Return how far the interval of Σ difference_j reaches below and above it, in joules.

    `difference_j` [n] is what each distinct layer adds, `up` and `down` [n] are the relative half-widths of its energy, `groups`
    [n] its group of kinds.
    """
    added, code = difference_j > 0, np.unique(np.array(groups, dtype=str), return_inverse=True)[1]
    above = _half_width_j(difference_j, np.where(added, up, down), code, correlation)
    below = _half_width_j(difference_j, np.where(added, down, up), code, correlation)
    return below, above


def _differences(before: Estimate, after: Estimate) -> tuple[Array, Array, Array, list[str]]:
    """Per distinct layer of either: joules per sample added, the relative widths of its energy up and down, and its group."""
    widths: dict[Layer, tuple[float, float, float]] = {}
    for e in (before, after):
        for layer, energy, low, high in zip(e.trace.layers, e.layer_energy_j, e.layer_low_j, e.layer_high_j):
            widths[layer] = float(energy), float(high / energy - 1), float(1 - low / energy)
    calls = [[e.trace.unique()[x] / e.trace.batch for x in widths] for e in (before, after)]
    columns = np.array([(energy * (m - n), up, down) for (energy, up, down), n, m in zip(widths.values(), *calls)]).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2], [x.group for x in widths]


def _half_width_j(difference_j: Array, width: Array, group: NDArray[np.intp], correlation: float) -> float:
    """Half-width of Σ difference_j where layers have relative half-widths `width`: the rule in this module's docstring."""
    of_groups = sum(_shared_j2(difference_j[group == i], width[group == i]) for i in np.unique(group))
    shared = max(_shared_j2(difference_j, width), of_groups)
    return float(np.sqrt(correlation * shared + (1 - correlation) * ((difference_j * width) ** 2).sum()))


def _shared_j2(difference_j: Array, width: Array) -> float:
    """Square of what Σ difference_j may be off by where all these layers err alike."""
    size_j, added = np.abs(difference_j), difference_j > 0
    plus_j, minus_j = float(size_j[added].sum()), float(size_j[~added].sum())
    plus, minus = float((size_j * width)[added].sum()), float((size_j * width)[~added].sum())
    sides = [total / of for total, of in ((plus, plus_j), (minus, minus_j)) if of > 0]
    common = min(sides, default=0.0)
    own = (plus - common * plus_j) + (minus - common * minus_j)
    return (common * (plus_j - minus_j)) ** 2 + own**2


def whatif(
    subject: Subject, edits: Sequence[Edit], model: EnergyModel, strict: bool = False, tell: Tell = lambda text, done, total: None
) -> list[Change]:
    """Price each edit of `subject` on its own, against `subject` as it is; `tell` hears how far it is.

    Raises InputError for an edit that cannot be made, UncoveredKindError under `strict`.
    """
    before = estimate(subject.trace(), model, subject.setting.mode, strict)
    changes = []
    for i, edit in enumerate(edits):
        tell(edit.describe(), i, len(edits))
        changes.append(change(before, estimate(subject.trace(edit), model, subject.setting.after(edit).mode, strict), edit))
    return changes


def whatif_estimate(
    before: Estimate,
    edit: Edit,
    module: nn.Module | None,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    hardware: str | Path | EnergyModel | None,
) -> Change:
    """Price `edit` against an estimate; see `Estimate.whatif`."""
    subject = _again(before, _named(before) if module is None else _given(before, module, inputs, kwargs))
    after = estimate(subject.trace(edit), _model_of(before, hardware), subject.setting.after(edit).mode)
    return change(before, after, edit)


def _again(before: Estimate, candidates: Iterable[Subject]) -> Subject:
    """Return the first candidate whose layers are those estimated: an estimate does not keep what it was made from."""
    layers, reasons = (before.unfused or before).trace.layers, []
    for subject in candidates:
        try:
            traced = subject.trace()
        except InputError as error:
            reasons.append(first_line(error))
        else:
            if traced.layers == layers:
                return subject
            reasons.append(f"{traced.network} runs other layers than those estimated")
    raise InputError(f"{reasons[0]}; give the module, inputs and kwargs of the estimate")


def _given(before: Estimate, module: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterable[Subject]:
    """The module as it is, and converted as it may have been."""
    setting = Setting(tf32=before.trace.tf32, mode=before.mode)
    return (Subject(module, inputs, replace(setting, dtype=dtype), kwargs) for dtype in (None, before.trace.dtype))


def _named(before: Estimate) -> Iterable[Subject]:
    """The network that is called so, at its own size and at those that the first input may have come of."""
    name, operands = before.trace.network, before.trace.inputs
    if ":" not in name or not operands:
        raise InputError(
            f"{name} is known by no name that can be loaded again: give the module and its inputs, "
            "estimate.whatif(module, (x,), dtype=...)"
        )
    shape = operands[0].shape
    own = Setting(batch=before.trace.batch, dtype=before.trace.dtype, tf32=before.trace.tf32, mode=before.mode)
    sized = {"seq_len": shape[1]} if len(shape) == 2 and "int" in operands[0].dtype else {"input": shape}
    image = [{"image_size": shape[-1]}] if len(shape) >= 4 else []
    return (Subject(name, (), replace(own, **size)) for size in ({}, sized, *image))


def _model_of(before: Estimate, hardware: str | Path | EnergyModel | None) -> EnergyModel:
    if isinstance(hardware, EnergyModel):
        return hardware
    name = before.model.name
    if hardware is None and before.model.conditions:
        raise InputError(f"the estimate is of {before.model.conditions}: say hardware=, the model that made it")
    if hardware is None and name not in shipped_models():
        raise InputError(f"model {name!r} is none of the shipped ones: say hardware=, the model or its file")
    return load_model(hardware or name)
