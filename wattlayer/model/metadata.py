"""What a model says of itself: what it was trained on, what it rests on, and what its intervals come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..hardware import find_hardware
from .intervals import Conformal
from .launches import BASES, Launches
from .power import CONSUMERS
from .residual import MODEL_FEATURES
from .roofline import RATES
from .support import AXES

ASSUMED_POWER = "assumed power"
MODEL_BASES = ("measured", "calibrated", "data sheet", ASSUMED_POWER)
"""What a model rests on: layers measured there, few of them, none, or energies that are measured times a stated power."""


@dataclass(frozen=True)
class Metadata:
    """What a model file says of itself beside its boosters."""

    name: str
    hardware: str
    features: int
    feature_names: tuple[str, ...]
    rows: int
    layers: int
    kinds: tuple[str, ...]
    data_sha256: str
    source: str
    runs: tuple[str, ...]
    run_power_shift: tuple[float, ...]
    consumers_w: tuple[float, ...]
    limit_w: float
    log_rates: Mapping[str, tuple[float, ...]]
    support: Mapping[str, tuple[tuple[float, ...], ...]]
    conformal: Conformal
    """What intervals rest on."""
    seed: int
    basis: str = "measured"
    """What the model rests on, one of `MODEL_BASES`."""
    left_out_mdape_frac: float | None = None
    """Median error of energy over the readings of all layers, each layer predicted without its fold; None where nothing was
    measured, or not under these `conditions`."""
    conditions: str = ""
    """What was assumed of the device beside its data, such as a power limit; empty where nothing was."""
    launches: Launches | None = None
    """What passes cost beside their kernels; None where all of it is assumed."""
    looped: bool = False
    """Whether layers, of a calibrated model also those that it came from, were measured in loops that a host issued: predicted
    times hold that launch, in graph mode as well."""
    taught_by: tuple[str, ...] = ()
    """Other devices whose rates and watts stand in for groups of kinds that were not measured on this one."""
    own_support: Mapping[str, tuple[tuple[float, ...], ...]] | None = None
    """Of a calibrated model what was measured on the device itself: `kinds` and `support` are also of what it came from."""

    def __post_init__(self) -> None:
        if self.feature_names != MODEL_FEATURES:
            raise ValueError("its features are others")
        if not self.runs or len(self.run_power_shift) != len(self.runs):
            raise ValueError(f"{len(self.runs)} campaigns have {len(self.run_power_shift)} power shifts")
        if len(self.consumers_w) != len(CONSUMERS) or min(self.consumers_w) < 0 or self.limit_w <= 0:
            raise ValueError(f"watts are of {len(CONSUMERS)} consumers, none below 0, and of a limit above 0")
        if "*" not in self.log_rates or any(len(row) != len(RATES) for row in self.log_rates.values()):
            raise ValueError(f"every group has {len(RATES)} rates, and '*' stands for the others")
        points = [*self.support.values(), *(self.own_support or {}).values()]
        if not all(rows and all(len(row) == len(AXES) for row in rows) for rows in points):
            raise ValueError(f"what was measured lies along {len(AXES)} axes")
        if self.basis not in MODEL_BASES:
            raise ValueError(f"the basis {self.basis!r} is none of {', '.join(MODEL_BASES)}")

    @property
    def calibrated(self) -> bool:
        """Whether another model was adapted to few measured layers."""
        return self.own_support is not None

    @property
    def where(self) -> str:
        """The device as rows of several name it: under its limit or clock, and with the model's name where that is another."""
        device = self.conditions.partition(":")[0] or self.hardware
        return device if self.name == self.hardware else f"{device} ({self.name})"

    @property
    def launches_or_assumed(self) -> Launches:
        """What passes cost beside their kernels: fitted to networks measured there, else carried over or assumed."""
        return self.launches or Launches(idle_w=find_hardware(self.hardware).idle_w)

    @property
    def launching(self) -> str:
        """What the gaps of eager mode rest on."""
        return BASES[self.launches_or_assumed.basis]

    @property
    def caveat(self) -> str:
        """One plain line on what every prediction rests on; empty for a model that was measured where it is used."""
        says = "" if self.basis == "measured" else self.source
        if self.basis == "data sheet":
            says = f"nothing was measured on {self.hardware}: {self.source}"
        if self.basis == ASSUMED_POWER:
            says = f"energies are measured times a stated power, assumed and not measured: {self.source or 'source not stated'}"
        return "; ".join(x for x in (says, self.conditions) if x)
