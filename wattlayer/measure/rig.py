"""What a campaign needs from the outside: a clock, a meter and something that runs layers. Nothing else knows the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from ..dataset import REFERENCE
from ..errors import InputError
from ..layer import Layer
from ..meter import Clock, Instrument


@dataclass(frozen=True)
class NetworkCall:
    """One forward pass of a whole network, by the name it has on the command line."""

    name: str
    batch: int = 1
    dtype: str = "float32"
    tf32: str = "conv"
    image_size: int | None = None
    seq_len: int | None = None


@dataclass(frozen=True)
class Item:
    """One thing to measure: a layer or a whole network, in one launch mode and cache regime."""

    layer: Layer | None = None
    network: NetworkCall | None = None
    mode: str = "graph"
    regime: str = "cold"
    """State of the caches and of the power limit: "cold" or "hot" weights, or "diluted" 1:1 with the filler layer."""
    rectified: bool = False
    """The input comes from a ReLU: half of it is zero."""
    source: str = ""
    """Where it was sampled from: a network's name, "perturbed", "sobol", "llm", "reference"."""
    repeat: int = 0
    """Above 0 for hidden repeats and for the reference layer's turns."""

    def __post_init__(self) -> None:
        if (self.layer is None) == (self.network is None):
            raise InputError("an item is of a layer or of a network: give exactly one of them")

    @cached_property
    def key(self) -> str:
        """A name that is the same in every process; rows of one key and attempt are the same measurement."""
        plain = f"{self.digest}-{self.mode}-{self.regime}"
        return f"{plain}+{self.repeat}" if self.repeat else plain

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name the layer or the network call."""
        if self.layer is not None:
            return self.layer.digest()
        return hashlib.sha256(json.dumps(asdict(self.call), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def call(self) -> NetworkCall:
        """The network call; only for items that have one."""
        if self.network is None:
            raise InputError(f"item {self.source!r} is of a layer, not of a network")
        return self.network

    @property
    def is_reference(self) -> bool:
        return self.source == REFERENCE

    @property
    def duplicate_of(self) -> str | None:
        """The key of the item that this one repeats unannounced; None for anything else."""
        return replace(self, repeat=0).key if self.repeat and not self.is_reference else None

    @property
    def dtype(self) -> str:
        return self.layer.dtype if self.layer else self.call.dtype

    @property
    def tf32(self) -> str:
        """As `Measurement.tf32`: of a layer "all" where it may run as TF32, else "none"."""
        if self.layer:
            return "all" if self.layer.tf32 else "none"
        return self.call.tf32

    def to_json(self) -> dict[str, Any]:
        record = asdict(self) | {"layer": self.layer.to_json() if self.layer else None}
        return {k: v for k, v in record.items() if v != getattr(Item, k, None)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Item:
        known = dict(record)
        known["layer"] = Layer.from_json(known["layer"]) if known.get("layer") else None
        known["network"] = NetworkCall(**known["network"]) if known.get("network") else None
        return Item(**known)


@dataclass(frozen=True)
class Progress:
    """How far a workload has come, on the device's own clock."""

    calls: int = 0
    """Calls that are known to be finished."""
    time_s: float = 0.0
    """Device time at which the last of them finished."""
    busy_s: float = 0.0
    """Device time within calls; what is missing to `time_s` are gaps."""
    filler_s: float = 0.0
    """Device time within the filler layer of a diluted workload, or paused between rounds of eager calls."""


@dataclass(frozen=True)
class Facts:
    """What a row keeps of how its workload was set up; None for what was not read."""

    rotated_bytes: int | None = None
    distribution: str | None = None
    seed: int | None = None
    kernels: int | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    flags: tuple[str, ...] = ()


class Workload(Protocol):
    """A layer or network that can be kept running without a pause."""

    @property
    def facts(self) -> Facts: ...

    def start(self) -> None:
        """Begin to run and go on until `stop`, as long as `keep_busy` is called every few milliseconds."""
        ...

    def keep_busy(self) -> None: ...

    def progress(self) -> Progress: ...

    def stop(self) -> None:
        """Return when the device is idle."""
        ...

    def burst(self, seconds: float) -> None:
        """Hand the device about that much work; return without waiting where the device allows it."""
        ...

    def close(self) -> None:
        """Give back the device's memory."""
        ...


class CannotRun(Exception):
    """A layer that cannot be run here; `flag` goes into its row and the campaign goes on."""

    def __init__(self, flag: str, reason: str) -> None:
        super().__init__(reason)
        self.flag = flag


class DeviceLost(Exception):
    """The device answers no more; the session ends, and the next one leaves out the layer that did it."""


class Rig(Protocol):
    """The device that is measured on, or a simulated one."""

    @property
    def hardware(self) -> str: ...

    @property
    def modes(self) -> tuple[str, ...]:
        """Launch modes, the preferred one first: ("graph", "eager") on CUDA, ("eager",) on a CPU."""
        ...

    @property
    def clock(self) -> Clock: ...

    @property
    def instrument(self) -> Instrument: ...

    def prepare(self, item: Item) -> Workload:
        """Build what `item` asks for; raise CannotRun with a flag where it does not run."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the header of a data file: name, versions, TF32 flags; plain JSON values."""
        ...
