"""Zeus (ml.energy/zeus) as an optional adapter: energy counters of AMD, Apple and Jetson devices.

Source: `zeus/device/gpu/common.py` (`get_total_energy_consumption(index)`, camel case before 0.13, in millijoules),
`zeus/device/soc/apple.py` and `jetson.py` (a record of millijoules, some of them parts of others).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import MeterError, first_line
from . import Instrument, Unavailable

SOC_TOTALS = ("total_energy_mj",)
SOC_PARTS = ("cpu_total_mj", "dram_mj", "gpu_mj", "gpu_sram_mj", "ane_mj")
"""Fields that do not overlap, summed where a record has no total (Apple)."""


class ZeusCounter:
    """A cumulative counter behind a function that returns millijoules."""

    def __init__(self, name: str, read_mj: Callable[[], float]) -> None:
        self.name = name
        self._read_mj = read_mj

    def energy_j(self) -> float:
        try:
            return float(self._read_mj()) * 1e-3
        except Exception as error:  # each backend has errors of its own
            raise MeterError(f"{self.name}: {first_line(error)}") from error


def open_zeus(
    index: int | None = 0, get_gpus: Callable[[], Any] | None = None, get_soc: Callable[[], Any] | None = None
) -> Instrument:
    """Open accelerator `index`, which counts as PyTorch does, else the system on a chip, which alone holds a processor (`index`
    None); raise Unavailable where Zeus or a counter is missing."""
    if get_gpus is None or get_soc is None:
        get_gpus, get_soc = _import_zeus()
    reasons = []
    accelerator = [] if index is None else [("zeus-gpu", _gpu_reader(get_gpus, index))]
    for name, reader in (*accelerator, ("zeus-soc", _soc_reader(get_soc))):
        meter = ZeusCounter(name, reader)
        try:
            meter.energy_j()
            return Instrument("zeus", (meter,), description={"zeus_source": name})
        except MeterError as error:
            reasons.append(str(error))
    raise Unavailable("Zeus found no energy counter: " + "; ".join(reasons))


def _import_zeus() -> tuple[Callable[[], Any], Callable[[], Any]]:
    try:
        from zeus.device import get_gpus
        from zeus.device.soc import get_soc
    except ImportError:
        raise Unavailable("Zeus is not installed: pip install zeus") from None
    return get_gpus, get_soc


def _gpu_reader(get_gpus: Callable[[], Any], index: int) -> Callable[[], float]:
    def read_mj() -> float:
        gpus = get_gpus()  # Zeus keeps one manager a process
        read = getattr(gpus, "get_total_energy_consumption", None) or gpus.getTotalEnergyConsumption
        return float(read(index))

    return read_mj


def _soc_reader(get_soc: Callable[[], Any]) -> Callable[[], float]:
    def read_mj() -> float:
        soc = get_soc()
        values = vars((getattr(soc, "get_total_energy_consumption", None) or soc.getTotalEnergyConsumption)())
        for names in (SOC_TOTALS, SOC_PARTS):
            known = [values[name] for name in names if values.get(name) is not None]
            if known:
                return float(sum(known))
        raise Unavailable("the system on a chip reports no energy")

    return read_mj
