"""What a change to a network or to how it runs does to its energy, with the interval of the difference (`difference`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, first_line
from ..estimate import VERSION, Estimate, estimate
from ..features.columns import Array
from ..layer import Layer
from ..model import EnergyModel, load_model
from ..model.intervals import LEVEL
from .difference import difference_spread_j
from .subject import UNCHANGED, Edit, Setting, Subject, subject_of

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
            "time_s": [x.time_s for x in pair], "launch_bound_frac": [x.launch_bound_frac for x in pair],
            "assumptions": [list(x.assumptions) for x in pair], "uncovered_kinds": [x.uncovered_kinds() for x in pair],
        }  # fmt: skip

    def __str__(self) -> str:
        (low, high), was = self.interval_j, self.before.assumptions
        head = (
            f"{self.before.trace.network} on {self.before.model.hardware}, {self.edit.describe() or 'no change'}: "
            f"{self.before.energy_per_sample_j:.4g} to {self.after.energy_per_sample_j:.4g} J a sample, change "
            f"{self.change_j:+.4g} J ({low:+.4g} to {high:+.4g} J), {self.change_frac:+.1%}; "
            f"{self.measured_frac:.0%} of what remains is like what was measured"
        )
        return "\n".join((head, *self.after.minds, *(f"before: {x}" for x in was if x not in self.after.assumptions)))


def change(before: Estimate, after: Estimate, edit: Edit = UNCHANGED, of_one_network: bool | None = None) -> Change:
    """Return the change from one estimate to another of the same model; raise InputError for two models, or one under two
    conditions, such as power limits.

    In two networks less of the errors cancels than in one before and after an edit. Which it is, `of_one_network` says, and where
    it does not, whether both traces have one name (of modules that of their class).
    """
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
    if of_one_network is None:
        of_one_network = before.trace.network == after.trace.network
    spread = difference_spread_j(
        before.model, *_differences(before, after), operators, gaps_j, of_one_network, mode_j, _biases_j(before, after)
    )
    middle = after.energy_per_sample_j - before.energy_per_sample_j
    return Change(edit, before, after, (float(middle - spread[0]), float(middle + spread[1])))


def _differences(before: Estimate, after: Estimate) -> tuple[Array, Array, Array, list[str]]:
    """Per distinct layer of either: joules per sample added, the relative widths of its energy up and down, and its group."""
    widths: dict[Layer, tuple[float, float, float]] = {}
    for e in (before, after):
        for layer, energy, low, high in zip(e.trace.layers, e.layer_energy_j, e.layer_low_j, e.layer_high_j):
            widths[layer] = float(energy), float(high / energy - 1), float(1 - low / energy)
    calls = [[e.trace.unique()[x] / e.trace.batch for x in widths] for e in (before, after)]
    columns = np.array([(energy * (m - n), up, down) for (energy, up, down), n, m in zip(widths.values(), *calls)]).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2], [x.group for x in widths]


def _biases_j(before: Estimate, after: Estimate) -> float:
    """What biases cost that convolutions gain or lose, in joules per sample, as predicted; of convolutions that change in nothing
    else, and so stand without it on the other side."""
    price_j = {layer: float(x) for e in (before, after) for layer, x in zip(e.trace.layers, e.layer_energy_j)}
    was, is_now = (e.trace.unique() for e in (before, after))
    total_j = 0.0
    for layer in (x for x in price_j if x.group == "conv" and x.operand("bias")):
        bare = replace(layer, inputs=tuple(x for x in layer.inputs if x.name != "bias"))
        gained, came = (is_now[x] / after.trace.batch - was[x] / before.trace.batch for x in (layer, bare))
        if gained * came < 0:
            total_j += min(abs(gained), abs(came)) * abs(price_j[layer] - price_j[bare])
    return total_j


def whatif(
    subject: str | Path | Subject,
    edits: Edit | Iterable[Edit],
    model: str | Path | EnergyModel,
    strict: bool = False,
    tell: Tell = lambda text, done, total: None,
) -> list[Change]:
    """Price each edit of `subject` (or of a named network) on its own, against it as it is; `tell` hears how far it is.

    Raises InputError for an edit that cannot be made, UncoveredKindError under `strict`.
    """
    subject, model, steps = subject_of(subject), load_model(model), [edits] if isinstance(edits, Edit) else list(edits)
    if (wrong := next((x for x in steps if not isinstance(x, Edit)), None)) is not None:
        raise InputError(f"{wrong!r:.60} is no Edit: write Edit(drop='layer4')")
    before = estimate(subject.trace(), model, subject.setting.mode, strict)
    changes = []
    for i, edit in enumerate(steps):
        tell(edit.describe(), i, len(steps))
        after = estimate(subject.trace(edit), model, subject.setting.after(edit).mode, strict)
        changes.append(change(before, after, edit, of_one_network=True))
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
    return change(before, after, edit, of_one_network=True)


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
    """The model that made the estimate, by its name where no other is given."""
    if hardware is not None:
        return load_model(hardware)
    if before.model.conditions:
        raise InputError(f"the estimate is of {before.model.conditions}: say hardware=, the model that made it")
    name = before.model.name
    try:
        named = load_model(name)
    except InputError as error:
        raise InputError(f"the model of the estimate is not found by its name, say hardware=: {first_line(error)}") from None
    if named.sha256 != before.model_sha256:
        raise InputError(
            f"model {name!r} of the estimate is not the one that its name loads: say hardware=, the model or its file"
        )
    return named
