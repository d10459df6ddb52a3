"""The queue of a campaign: what is measured and in which order, written to a file before anything is measured.

Stages follow each other (network layers, whole networks, perturbed and Sobol shapes, LLM shapes); within a stage the
order is shuffled by the seed, so that any prefix of a stage is a random sample of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from ..dataset import REFERENCE
from ..errors import InputError
from ..files import whole_file
from ..layer import Layer, Operand
from .rig import Item, NetworkCall

PLAN_SCHEMA = 1
REFERENCE_EVERY = 20
DUPLICATE_FRAC = 0.10
"""Share of the layers that is measured twice, unannounced: their spread is the campaign's repeatability."""
EAGER_FRAC = 0.06
"""Share of the layers measured in eager mode as well (protocol: 5-10 %)."""
HOT_FRAC = 0.10
"""Share of the layers measured with hot weights as well."""


TORCHVISION = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "vgg16", "densenet121", "convnext_tiny",
    "vit_b_16", "swin_t", "regnet_y_400mf", "shufflenet_v2_x1_0",
)  # fmt: skip
DEFAULT_NETWORKS = (*(f"torchvision:{name}" for name in TORCHVISION), "hf:bert", "hf:gpt2")
"""Fourteen architectures that share few layers: plain, residual, separable and dense convolutions, attention, text."""


@dataclass(frozen=True)
class Wanted:
    """What a campaign is asked to measure."""

    networks: tuple[str, ...] = DEFAULT_NETWORKS
    dtypes: tuple[str, ...] = ("bfloat16", "float16", "float32")
    layers: int = 1100
    seed: int = 0
    calibration: bool = False
    """Only the layers that tell a calibration most, the most telling first."""


@dataclass(frozen=True)
class NetworkPlan:
    """A network that is measured whole, with its layers: digest -> (calls, share of the network's estimated energy)."""

    call: NetworkCall
    layers: Mapping[str, tuple[int, float]]


@dataclass(frozen=True)
class Plan:
    """A campaign's queue; equal seeds and inputs give equal plans."""

    run: str
    seed: int
    items: tuple[Item, ...]
    networks: tuple[NetworkPlan, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What could not be planned, and why."""
    asked: Wanted | None = None
    """What it was made for; None of plans that did not note it yet."""

    @property
    def distinct_layers(self) -> int:
        return len({item.layer for item in self.items if item.layer and not item.is_reference})

    def save(self, path: Path) -> None:
        networks = [{"call": asdict(x.call), "layers": x.layers} for x in self.networks]
        items = [item.to_json() for item in self.items]
        record = {"wattlayer_plan": PLAN_SCHEMA, "run": self.run, "seed": self.seed, "notes": self.notes, "networks": networks}
        asked = {"asked": asdict(self.asked)} if self.asked else {}
        with whole_file(path) as file:
            file.write(json.dumps(record | asked | {"items": items}))

    @staticmethod
    def load(path: Path) -> Plan:
        """Read a plan; raise InputError where it is damaged or of another schema."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["wattlayer_plan"] != PLAN_SCHEMA:
                raise InputError(f"{path} has plan schema {record['wattlayer_plan']}, this wattlayer reads {PLAN_SCHEMA}")
            return _plan(record)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path} is no plan of a campaign ({error}): begin in another --output") from None

    def describe(self) -> str:
        """Lines for people: how much of what."""
        items = [x for x in self.items if not x.is_reference]
        layers = [x for x in items if x.layer]
        lines = [f"{len(self.items)} measurements of {self.distinct_layers} distinct layers and {len(self.networks)} networks"]
        for title, values in (
            ("by source", [x.source.split(":")[0] for x in items]),
            ("by group", [x.layer.group for x in layers if x.layer]),
            ("by dtype", [x.dtype + ("/tf32" if x.layer and x.layer.tf32 else "") for x in layers]),
            ("by mode", [f"{x.mode}/{x.regime}" for x in items]),
        ):
            lines.append(f"  {title}: " + ", ".join(f"{n} {name}" for name, n in Counter(values).most_common()))
        lines.append(f"  hidden repeats: {sum(x.duplicate_of is not None for x in items)}; reference every {REFERENCE_EVERY}")
        return "\n".join([*lines, *(f"  left out: {note}" for note in self.notes)])


def _plan(record: Mapping[str, Any]) -> Plan:
    networks = (
        NetworkPlan(NetworkCall(**x["call"]), {k: (int(n), float(share)) for k, (n, share) in x["layers"].items()})
        for x in record["networks"]
    )
    items = tuple(Item.from_json(x) for x in record["items"])
    asked = record.get("asked")
    if asked:
        asked = Wanted(**asked | {name: tuple(asked[name]) for name in ("networks", "dtypes")})
    return Plan(record["run"], record["seed"], items, tuple(networks), tuple(record["notes"]), asked)


def make_queue(stages: Sequence[Sequence[Item]], seed: int, modes: Sequence[str], reference: Layer) -> tuple[Item, ...]:
    """Return the items of `stages` in order, each stage shuffled and joined by its eager, hot and hidden repeats.

    Every `REFERENCE_EVERY` items the `reference` layer takes its turn.
    """
    random = Random(seed)
    queue: list[Item] = []
    seen: set[str] = set()
    for stage in stages:
        fresh = [item for item in stage if not (item.key in seen or seen.add(item.key))]  # type: ignore[func-returns-value]
        queue += _stage(fresh, random, modes)
    return tuple(_with_reference(queue, reference, modes[0]))


def _stage(items: Sequence[Item], random: Random, modes: Sequence[str]) -> list[Item]:
    layers = [item for item in items if item.layer]
    extra = [replace(item, repeat=1) for item in _some(layers, DUPLICATE_FRAC, random)]
    if "eager" in modes[1:]:
        extra += [replace(item, mode="eager") for item in _some(layers, EAGER_FRAC, random)]
    extra += [replace(item, regime="hot") for item in _some([x for x in layers if _has_weights(x)], HOT_FRAC, random)]
    mixed = [*items, *extra]
    random.shuffle(mixed)
    return mixed


def _some(items: Sequence[Item], share: float, random: Random) -> list[Item]:
    return random.sample(list(items), round(share * len(items)))


def _has_weights(item: Item) -> bool:
    from .rebuild import rotated

    return item.layer is not None and any(rotated(item.layer))


def _with_reference(queue: Sequence[Item], reference: Layer, mode: str) -> list[Item]:
    mixed: list[Item] = []
    for index, item in enumerate(queue):
        if index % REFERENCE_EVERY == 0:
            mixed.append(reference_item(reference, mode, index // REFERENCE_EVERY + 1))
        mixed.append(item)
    return mixed


def reference_item(layer: Layer, mode: str, turn: int) -> Item:
    """The reference layer's `turn`-th measurement."""
    return Item(layer, mode=mode, source=REFERENCE, repeat=turn)


def reference_layer(dtype: str) -> Layer:
    """A linear layer of few rows, whose 2,048 x 2,048 weights come from memory: neither idle nor at the power limit.

    With 512 rows an H200 ran into its limit, where the governor makes the power swing by tens of per cent.
    """
    return linear(32, 2048, 2048, dtype)


def linear(rows: int, features: int, outputs: int, dtype: str) -> Layer:
    """A linear layer without bias, as `trace` records it."""
    inputs = (Operand("input", (rows, features), dtype), Operand("weight", (outputs, features), dtype))
    return Layer("linear", inputs, (Operand("output", (rows, outputs), dtype),))


def filler_layer(dtype: str) -> Layer:
    """A copy far larger than any cache: the memory-bound layer that capped layers and long loops are diluted with."""
    operand = Operand("self", (2**26,), dtype)
    return Layer("clone", (operand,), (replace(operand, name="output"),))


def spin_layer() -> Layer:
    """The smallest call there is: what a device takes while it only launches kernels."""
    operand = Operand("self", (1,), "float32")
    return Layer("relu", (operand,), (replace(operand, name="output"),))
