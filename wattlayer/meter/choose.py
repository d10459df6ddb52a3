"""Which meter is used: the one asked for, or the first of those that fit the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import InputError, MeterError, nearest
from . import Instrument, Unavailable

Opener = Callable[[], Instrument]

AUTOMATIC = {"cuda": ("nvml", "zeus"), "cpu": ("rapl", "zeus")}
"""Meters tried in turn per device type; "assumed-power" only when asked for."""

MEASURES = {"nvml": "cuda", "rapl": "cpu"}
"""The one device type that a meter is of."""


def openers(
    uuid: str | None = None, pci_bus_id: str | None = None, assumed_power_w: float | None = None, index: int | None = 0
) -> dict[str, Opener]:
    """Return every meter by name, ready to be opened for the device with this CUDA identity and `index`, None for a processor."""
    from .assumed import open_assumed
    from .nvml import open_nvml
    from .rapl import open_rapl
    from .zeus import open_zeus

    return {
        "nvml": lambda: open_nvml(uuid, pci_bus_id),
        "rapl": open_rapl,
        "zeus": lambda: open_zeus(index),
        "assumed-power": lambda: open_assumed(assumed_power_w),
    }


def choose(wanted: str, device_type: str, known: Mapping[str, Opener]) -> Instrument:
    """Open the meter called `wanted`, or with "auto" the first available for `device_type` ("cuda" or "cpu").

    Raises MeterError naming every meter that was tried and why it is unavailable, InputError for one that is unknown or measures
    another device.
    """
    if wanted != "auto" and wanted not in known:
        raise InputError(f"meter {wanted!r} is not known{nearest(wanted, [*known, 'auto'])}")
    if MEASURES.get(wanted, device_type) != device_type:
        raise InputError(f"meter {wanted!r} measures a {MEASURES[wanted]} device, and a {device_type} device is measured here")
    return _first(AUTOMATIC.get(device_type, ()) if wanted == "auto" else (wanted,), known)


def _first(names: Sequence[str], known: Mapping[str, Opener]) -> Instrument:
    reasons = []
    for name in names:
        try:
            return known[name]()
        except Unavailable as error:
            reasons.append(f"{name} is unavailable, because {error}")
    cure = "with no meter, --meter assumed-power --assumed-power-w W states a power instead (rows are labelled so)"
    raise MeterError(f"no meter: {'; '.join(reasons)}; {cure}")
