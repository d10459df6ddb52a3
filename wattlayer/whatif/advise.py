"""What would save most: changes that apply to a network, each priced by the model, ranked by the energy they save.

Only what the model can price is advice: the interval of a change must lie below zero and most of the energy it touches be
in kinds of layers that were measured. What a change costs in accuracy no energy model knows; `Advice.mind` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..estimate import Estimate, estimate
from ..hardware import Hardware, find_hardware
from ..layer import Layer
from ..model import EnergyModel, load_model
from ..trace import Trace
from . import Change, change
from .subject import Edit, Subject, subject_of

BATCHES = (2, 4, 8, 16, 32, 64, 128)
NEARLY = 0.02
"""Among larger and larger batches the smallest within this of the best saving is advised: a longer queue costs latency."""

IMAGE_STEP = 32
"""Networks of images halve the resolution about five times: edges that are no multiple are refused by many."""

COVERED_FRAC = 0.5
"""Least share of the energy after the change that must be in kinds measured on the hardware."""

TRIALS = 8
"""How many heavy blocks are tried until one can be dropped: those that change the number of channels cannot."""


@dataclass(frozen=True)
class Advice:
    """One change that saves, with what it asks for in return."""

    change: Change
    mind: str


@dataclass(frozen=True)
class Candidate:
    """A family of alternatives, of which one is advised: the best, or the first that can be priced."""

    edits: tuple[Edit, ...]
    mind: str
    first: bool = False


def advise(
    subject: str | Path | Subject, model: str | Path | EnergyModel, progress: Callable[[str], None] = lambda text: None
) -> list[Advice]:
    """Return the changes to `subject` (or to a named network) that surely save energy per sample, the largest saving first.

    A change whose interval reaches zero is left out, and so is one whose energy lies mostly in kinds never measured. Raises
    InputError for a network or a model that cannot be used.
    """
    subject, model = subject_of(subject), load_model(model)
    traced = subject.trace()
    before = estimate(traced, model, subject.setting.mode)
    found = []
    for candidate in candidates(subject, before, find_hardware(model.hardware)):
        prices = (_price(subject, model, before, edit, progress) for edit in candidate.edits)
        changes = list(islice((x for x in prices if x is not None), 1 if candidate.first else None))
        if changes:
            found.append(Advice(_best(changes), candidate.mind))
    found.sort(key=lambda x: x.change.change_j)
    once: dict[tuple[tuple[Layer, ...], str], Advice] = {}
    for x in found:  # a change to the heaviest part and to all parts may come to the same
        once.setdefault((x.change.after.trace.layers, x.change.after.mode), x)
    return list(once.values())


def _price(subject: Subject, model: EnergyModel, before: Estimate, edit: Edit, progress: Callable[[str], None]) -> Change | None:
    """Return the change of one edit; None where it cannot be made, prices no certain saving or lies beyond the model."""
    progress(f"pricing {edit.describe()}")
    try:
        traced = subject.trace(edit)
        if traced.layers == (before.unfused or before).trace.layers and edit.mode is None:
            return None
        after = estimate(traced, model, subject.setting.after(edit).mode)
    except InputError:
        return None
    result = change(before, after, edit, of_one_network=True)
    priced = result.interval_j[1] < 0 and result.after.covered_frac >= COVERED_FRAC
    return result if priced else None


def _best(changes: list[Change]) -> Change:
    """The smallest step whose result is within `NEARLY` of the best one's; alternatives come in order of size."""
    least_j = min(x.after.energy_per_sample_j for x in changes)
    return next(x for x in changes if x.after.energy_per_sample_j <= (1 + NEARLY) * least_j)


def candidates(subject: Subject, before: Estimate, hardware: Hardware) -> Iterator[Candidate]:
    """Yield what could be changed: first what keeps the network, then smaller inputs, then its parts."""
    yield from _running(before, hardware)
    yield from _inputs(before.trace)
    yield from _parts(subject, before)


def _running(before: Estimate, hardware: Hardware) -> Iterator[Candidate]:
    trace = before.trace
    if before.mode == "eager":
        yield Candidate((Edit(mode="graph"),), "record CUDA graphs or compile: shapes must stay the same")
    if trace.dtype == "float32":
        halves = [x for x in ("float16", "bfloat16") if x in dict(hardware.peak_flop_per_s)]
        yield Candidate(tuple(Edit(dtype=x) for x in halves), "half precision: check accuracy")
        if trace.tf32 != "all" and "tf32" in dict(hardware.peak_flop_per_s):
            yield Candidate((Edit(tf32="all"),), "10 bits of mantissa in products: check accuracy")
    yield Candidate(tuple(Edit(batch=n) for n in BATCHES if n > trace.batch), "latency: a batch must fill")
    yield Candidate((Edit(fold_norm=True),), "fuse_conv_bn_eval or a compiler; the function stays")
    yield Candidate((Edit(align=True),), "pads weights with zeros; the function stays")
    yield Candidate((Edit(fuse_attention=True),), "scaled_dot_product_attention; the function stays")


def _inputs(trace: Trace) -> Iterator[Candidate]:
    shape = trace.inputs[0].shape if trace.inputs else ()
    if len(shape) == 4 and shape[-1] == shape[-2] and shape[-1] > 2 * IMAGE_STEP:
        edge = (shape[-1] - 1) // IMAGE_STEP * IMAGE_STEP
        yield Candidate((Edit(image_size=edge),), "smaller images: check accuracy, train at this size")
    if len(shape) == 2 and shape[1] >= 16:
        yield Candidate((Edit(seq_len=shape[1] * 3 // 4),), "a quarter fewer tokens: shorter prompts")


def _parts(subject: Subject, before: Estimate) -> Iterator[Candidate]:
    blocks = _heavy_blocks(subject.load().module, before)[:TRIALS]
    yield Candidate(tuple(Edit(drop=(path,)) for path in blocks), "one block less: train again", first=True)
    heaviest = _heaviest_part(before)
    for recipe, mind in (
        ("depthwise", "another function: train again"),
        ("lowrank", "half of the weights: factorise and train on"),
        ("relu", "another activation: train on"),
    ):
        for pattern in ("*",) if recipe == "relu" else tuple(dict.fromkeys((heaviest, "*"))):
            yield Candidate((Edit(replace=((pattern, recipe),)),), mind)


def _heavy_blocks(module: Any, before: Estimate) -> list[str]:
    """Paths of blocks that have a sibling of their own class, the costliest first: those a network can be shortened by."""
    blocks = []
    for path, parent in module.named_modules():
        children = list(parent.named_children())
        kinds = [type(x) for _, x in children]
        blocks += [f"{path}.{n}".lstrip(".") for n, x in children if kinds.count(type(x)) > 1 and list(x.children())]
    cost = {path: _energy_under(before, path) for path in blocks}
    return sorted((p for p in blocks if cost[p] > 0), key=lambda p: (-cost[p], p))


def _energy_under(before: Estimate, path: str) -> float:
    inside = [p == path or p.startswith(f"{path}.") for p in before.trace.paths]
    return float(before.layer_energy_j[inside].sum())


def _heaviest_part(before: Estimate) -> str:
    """The child of the network that costs most."""
    cost: dict[str, float] = {}
    for path, energy_j in zip(before.trace.paths, before.layer_energy_j):
        part = path.split(".")[0]
        cost[part] = cost.get(part, 0.0) + float(energy_j) if part else 0.0
    return max(cost, key=lambda part: cost[part]) or "*"
