"""Meters: what knows the energy used so far, and why one is unavailable.

To add a meter, write one class with `name`, `energy_j()` and, where it is not `REFRESH_S`, `refresh_s`, and an `open_…`
function that returns an Instrument or raises Unavailable, and name it in `choose`. Nothing here sets anything on a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import MeterError

REFRESH_S = 0.1
"""How stale a counter may be that does not say so (`refresh_s`): NVML's on boards of the last generations steps at least this
often (measuring protocol)."""


class Unavailable(MeterError):
    """This meter cannot be used here; the message completes the sentence "unavailable, because …"."""


class Clock(Protocol):
    """Seconds from an arbitrary zero that never run backwards."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class Meter(Protocol):
    """Something that knows the energy used so far; `refresh_s`, where it has it, is how stale a reading may be."""

    @property
    def name(self) -> str: ...

    def energy_j(self) -> float:
        """Return joules since an arbitrary zero; raise MeterError where the reading fails."""
        ...


@dataclass(frozen=True)
class BoardState:
    """The state of a device at one instant; None stands for what it does not tell."""

    temperature_c: float | None = None
    clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_capped_s: float | None = None
    """Cumulative time for which the clocks were held down by a power limit."""
    thermal_s: float | None = None
    """Cumulative time for which the clocks were held down by temperature."""
    processes: int | None = None
    """Compute processes on the device, ours included."""


class Board(Protocol):
    """The device behind a meter."""

    def state(self) -> BoardState: ...


class UnknownBoard:
    """A device that tells nothing about itself."""

    def state(self) -> BoardState:
        return BoardState()


@dataclass(frozen=True)
class Instrument:
    """An opened family of meters on one device: its sources, best first, and what they say of the device."""

    name: str
    meters: tuple[Meter, ...]
    board: Board = field(default_factory=UnknownBoard)
    power: Meter | None = None
    """An independent source that the first meter is compared with before a campaign."""
    label: str = "measured"
    """`Measurement.meter` of its rows: "measured" or "assumed-power"."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """For the header of a data file; plain JSON values."""


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        from time import perf_counter

        return perf_counter()

    def sleep(self, seconds: float) -> None:
        from time import sleep

        sleep(max(0.0, seconds))
