"""What a campaign measures, composed from its sources: networks, perturbations, Sobol points, LLM shapes, a model's doubts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from random import Random

from ..adapters import InputSize, Network
from ..errors import InputError, WattlayerError, first_line
from ..hardware import HARDWARE, known_hardware
from ..layer import Layer
from ..model.roofline import START
from ..model.scaffold import Scaffold
from ..trace import Trace, trace
from .llm import llm_items
from .plan import DEFAULT_NETWORKS, NetworkPlan, Plan, Wanted, make_queue, reference_layer
from .rig import Item, NetworkCall, Rig
from .sample import Candidate, Roofline, candidates, draw, most_uncertain, perturbed
from .shapes import sobol_layers

NETWORK_FRAC, PERTURBED_FRAC, SOBOL_FRAC, LLM_FRAC = 0.58, 0.15, 0.17, 0.10
"""Shares of the layers by where they come from."""
ACTIVE_FRAC = 0.30
"""Share of the budget that goes where a given model is unsure."""
CLOSURE_FRAC = 0.92
"""Of a network's estimated energy: the layers that make it up are all measured."""
MOST_CLOSING = 60
"""Layers that one network may ask for: beyond, its closure would take the budget of layers that tell more."""
LONGEST_PASS_S = 0.5
"""Guessed time beyond which a network is not measured whole: a window holds too few passes of it."""
BATCHES = (32, 8, 1, 128)
CPU_BATCHES = (1, 4)
POOL_PER_LAYER, CALIBRATION_STAGE = 5, 25
"""A calibration picks one layer in five; its queue is a row of stages of 25, so that any of them can be the last."""

Resolve = Callable[[str, InputSize], Network]
Intervals = Callable[[Sequence[Layer]], Sequence[float]]
"""Width of a model's interval for each layer, in joules."""


def propose(wanted: Wanted, rig: Rig, run: str, resolve: Resolve, intervals: Intervals | None = None) -> Plan:
    """Return the plan of a campaign: equal arguments give equal plans. What cannot be traced is left out and noted.

    Raises InputError for a network that was asked for and can never be traced, and when nothing is left.
    """
    cuda = "graph" in rig.modes
    roofline = Roofline.of(rig.hardware, cuda, rig.describe().get("memory_bytes"))
    random, notes = Random(wanted.seed), []
    refused: dict[str, str] = {}
    traced: list[tuple[NetworkCall, Trace]] = []
    for call in network_calls(wanted, cuda):
        try:
            traced.append((call, traced_network(call, resolve)))
        except WattlayerError as error:
            notes.append(f"{call.name} x{call.batch} {call.dtype}: {first_line(error, 150)}")
            refused.setdefault(call.name, notes[-1])
    nowhere = set(wanted.networks) - set(DEFAULT_NETWORKS) - {call.name for call, _ in traced}
    if nowhere:  # asked for by name: without them the campaign would not be the one that was meant
        raise InputError("; ".join(refused[name] for name in sorted(nowhere)))
    whole = [(call, found) for call, found in traced if call in closure_calls(wanted, cuda)]
    pool = replace(wanted, layers=POOL_PER_LAYER * wanted.layers) if wanted.calibration else wanted
    stages = _stages(pool, [found for _, found in traced], [found for _, found in whole], roofline, random)
    if intervals is not None:
        stages = _with_active(stages, [found for _, found in traced], intervals, wanted, roofline)
    if wanted.calibration:
        return _calibration(wanted, rig, run, stages, notes)
    short = [call for call, found in traced if sum(map(roofline.time_s, found.layers)) < LONGEST_PASS_S]
    networks = [Item(network=call, mode=mode, source=call.name) for call in short for mode in rig.modes]
    stages = [_set_mode(stage, rig.modes[0]) for stage in stages]
    if not any(stages):
        raise InputError("there is nothing to measure: " + "; ".join(notes or ["no networks and no layers were asked for"]))
    reference = reference_layer("float16" if cuda else "float32")
    queue = make_queue([stages[0], networks, *stages[1:]], wanted.seed, rig.modes, reference)
    plans = tuple(_network_plan(call, found, roofline) for call, found in whole)
    return Plan(run, wanted.seed, queue, plans, tuple(notes), wanted)


def _calibration(wanted: Wanted, rig: Rig, run: str, stages: Sequence[Sequence[Item]], notes: Sequence[str]) -> Plan:
    """The plan of a calibration: of all the layers in `stages` those that tell most, in stages of falling weight."""
    from ..train.selection import most_informative

    cuda = "graph" in rig.modes
    device = known_hardware().get(rig.hardware) or HARDWARE["a30" if cuda else "xeon-gold-5120"]
    items = [replace(item, mode=rig.modes[0]) for stage in stages for item in stage]
    layers = [item.layer for item in items if item.layer is not None]
    if not layers:
        raise InputError("there is nothing to measure: " + "; ".join(notes or ["no networks and no layers were asked for"]))
    picked = [items[i] for i in most_informative(layers, wanted.layers, Scaffold({"*": tuple(map(float, START))}), device)]
    parts = [picked[i : i + CALIBRATION_STAGE] for i in range(0, len(picked), CALIBRATION_STAGE)]
    queue = make_queue(parts, wanted.seed, rig.modes[:1], reference_layer("float16" if cuda else "float32"))
    return Plan(run, wanted.seed, queue, (), tuple(notes), wanted)


def closure_calls(wanted: Wanted, cuda: bool) -> list[NetworkCall]:
    """One call of each network whose layers are all measured: dtypes and batch sizes in turn."""
    batches = BATCHES[:3] if cuda else CPU_BATCHES
    calls = []
    for index, name in enumerate(wanted.networks):
        dtype = wanted.dtypes[index % len(wanted.dtypes)]
        batch = batches[(index // len(wanted.dtypes) + index) % len(batches)]
        calls.append(NetworkCall(name, batch, dtype, "conv" if cuda and dtype == "float32" else "none"))
    return calls


def network_calls(wanted: Wanted, cuda: bool) -> list[NetworkCall]:
    """What is measured whole: the closure calls, and one more of each network, at a dtype and a batch size drawn by chance."""
    random, calls, modes = Random(wanted.seed), closure_calls(wanted, cuda), cycle(("all", "none", "conv"))
    for call in list(calls):
        dtype = random.choice(wanted.dtypes)
        tf32 = next(modes) if cuda and dtype == "float32" else "none"
        calls.append(replace(call, batch=random.choice(BATCHES if cuda else CPU_BATCHES), dtype=dtype, tf32=tf32))
    return list(dict.fromkeys(calls))


def traced_network(call: NetworkCall, resolve: Resolve) -> Trace:
    """Trace one network call on the meta device."""
    network = resolve(call.name, InputSize(call.batch, call.image_size, call.seq_len, dtype=call.dtype))
    return trace(network.module, *network.args, kwargs=network.kwargs, tf32=call.tf32, network=call.name)


def _stages(
    wanted: Wanted, traces: Sequence[Trace], whole: Sequence[Trace], roofline: Roofline, random: Random
) -> list[list[Item]]:
    """Network layers; perturbed and Sobol shapes; LLM shapes."""
    pool = [x for found in traces for x in candidates(found, roofline) if roofline.fits(x.layer)]
    taken: set[Layer] = set()
    network = [item for found in whole for item in _closing(found, roofline, taken)]
    network += draw(pool, max(0, round(wanted.layers * NETWORK_FRAC) - len(network)), random, taken)
    left = max(0, wanted.layers - len(network))
    rest = PERTURBED_FRAC + SOBOL_FRAC + LLM_FRAC
    changed = _perturbations(pool, round(left * PERTURBED_FRAC / rest), roofline, random, taken)
    points = sobol_layers(round(left * SOBOL_FRAC / rest), _sobol_dtypes(traces, wanted), roofline, wanted.seed)
    llm = llm_items(list(wanted.dtypes), roofline)
    sobol = [Item(x, source="sobol") for x in points if x not in taken]
    return [network, changed + sobol, random.sample(llm, min(len(llm), round(left * LLM_FRAC / rest)))]


def _sobol_dtypes(traces: Sequence[Trace], wanted: Wanted) -> list[tuple[str, str]]:
    """The (dtype, TF32 mode) pairs of Sobol points: float32 also as TF32 where the networks are."""
    tf32 = ("none", "all") if not traces or any(x.tf32 != "none" for x in traces) else ("none",)
    return [(x, mode) for x in wanted.dtypes for mode in (tf32 if x == "float32" else ("none",))]


def _closing(found: Trace, roofline: Roofline, taken: set[Layer]) -> list[Item]:
    """The layers that make up `CLOSURE_FRAC` of a network, largest first, without those already taken; none where too many do."""
    items, covered = [], 0.0
    for x in sorted(candidates(found, roofline), key=lambda x: x.share, reverse=True):
        if covered >= CLOSURE_FRAC:
            break
        covered += x.share
        if x.layer not in taken:
            taken.add(x.layer)
            items.append(Item(x.layer, rectified=x.rectified, source=x.network))
    if len(items) > MOST_CLOSING:
        taken -= {item.layer for item in items if item.layer}
        return []
    return items


def _perturbations(pool: Sequence[Candidate], count: int, roofline: Roofline, random: Random, taken: set[Layer]) -> list[Item]:
    seeds = draw(pool, 2 * count, random, set())
    items: list[Item] = []
    for item in seeds:
        changed = perturbed(item.layer, random) if item.layer and len(items) < count else None
        if changed is not None and changed not in taken and roofline.fits(changed):
            taken.add(changed)
            items.append(Item(changed, rectified=item.rectified, source="perturbed"))
    return items


def _with_active(
    stages: list[list[Item]], traces: Sequence[Trace], intervals: Intervals, wanted: Wanted, roofline: Roofline
) -> list[list[Item]]:
    """Shorten the stages and add, last, what the model is unsure of."""
    kept = [stage[: round(len(stage) * (1 - ACTIVE_FRAC))] for stage in stages]
    pool = [x for found in traces for x in candidates(found, roofline) if roofline.fits(x.layer)]
    taken = {item.layer for stage in kept for item in stage if item.layer}
    layers = list(dict.fromkeys(x.layer for x in pool))
    widths = dict(zip(layers, intervals(layers)))
    return [*kept, most_uncertain(pool, round(wanted.layers * ACTIVE_FRAC), widths, taken)]


def _set_mode(stage: Sequence[Item], mode: str) -> list[Item]:
    return [replace(item, mode=mode) for item in stage]


def _network_plan(call: NetworkCall, found: Trace, roofline: Roofline) -> NetworkPlan:
    calls = found.unique()
    return NetworkPlan(call, {x.layer.digest(): (calls[x.layer], x.share) for x in candidates(found, roofline)})
