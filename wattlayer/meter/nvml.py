"""NVML: the energy counter, the buffered power samples and the instantaneous power of one NVIDIA GPU.

Sources: the NVML API reference (field values, `nvmlDeviceGetSamples`) and nvml.h for the field numbers. Only getters are
called; nothing is ever set on the device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import MeterError, first_line
from . import BoardState, Clock, Instrument, SystemClock, Unavailable

FIELD_ENERGY = 83
"""NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: millijoules since the driver was loaded."""
FIELD_POWER_INSTANT = 186
"""NVML_FI_DEV_POWER_INSTANT: milliwatts; 185 and nvmlDeviceGetPowerUsage are one-second averages on the same chips."""
FIELDS_POWER_CAP = (74, 271)
"""Cumulative nanoseconds held down by the power limit: PERF_POLICY_POWER, HW_POWER_BRAKE_SLOWDOWN."""
FIELDS_THERMAL = (75, 269, 270)
"""Cumulative nanoseconds held down by temperature: PERF_POLICY_THERMAL, SW_ and HW_THERM_SLOWDOWN."""
SCOPES = {0: "gpu", 1: "module"}
"""NVML_POWER_SCOPE_*: a superchip may only answer for the whole module. One dataset keeps one scope."""
LAST_ARCHITECTURE_WITH_INSTANT_USAGE = 7
"""NVML_DEVICE_ARCH_AMPERE: of the chips without field 186, `nvmlDeviceGetPowerUsage` is instantaneous up to GA100."""
REFRESH_S = 0.1
"""Longest refresh of the power reading seen (A100, H100: Yang et al., SC'24); a reading held longer did not change."""
TOTAL_POWER_SAMPLES = 0
SM_CLOCK, MEMORY_CLOCK, TEMPERATURE_GPU = 1, 2, 0
SCALE_UNCERTAINTY_FRAC = 0.05
"""NVIDIA's ±5 % of board power; Yang et al. (SC'24) found gains of 0.954 (A100) and 0.943-0.948 (3090) against a shunt."""

_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Members of nvmlValue_t in the order of nvmlValueType_t."""


class NvmlDevice:
    """One GPU: every reading either returns a number or raises MeterError with NVML's own reason."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle

    def field(self, field: int, scope: int = 0) -> float:
        """Return a field's value in NVML's own unit."""
        value = self.call("nvmlDeviceGetFieldValues", [(field, scope)])[0]
        if value.nvmlReturn != 0:
            raise MeterError(f"field {field}: {_reason(self.nvml, self.nvml.NVMLError(value.nvmlReturn))}")
        return float(getattr(value.value, _VALUE_MEMBERS[value.valueType]))

    def call(self, function: str, *arguments: Any) -> Any:
        """Call an NVML getter on this device; a missing symbol, a missing right or no support is a MeterError."""
        try:
            return getattr(self.nvml, function)(self.handle, *arguments)
        except AttributeError:
            raise MeterError(f"this nvidia-ml-py has no {function}: pip install -U nvidia-ml-py") from None
        except self.nvml.NVMLError as error:
            raise MeterError(f"{function}: {_reason(self.nvml, error)}") from None

    def optional(self, read: Callable[[], float], scale: float = 1.0) -> float | None:
        """Return a reading in SI units, or None where the device does not tell."""
        try:
            return read() * scale
        except MeterError:
            return None

    def fields(self, fields: Sequence[int]) -> dict[int, float]:
        """Return those of `fields` that can be read, all with one call: a call takes milliseconds on some drivers."""
        try:
            values = self.call("nvmlDeviceGetFieldValues", [(field, 0) for field in fields])
        except MeterError:
            return {}
        return {f: float(getattr(x.value, _VALUE_MEMBERS[x.valueType])) for f, x in zip(fields, values) if x.nvmlReturn == 0}


class NvmlCounter:
    """The device's own energy counter; steps about every 100 ms on A100 and H100."""

    name = "nvml-counter"

    def __init__(self, device: NvmlDevice, scope: int | None) -> None:
        self._device, self._scope = device, scope

    def energy_j(self) -> float:
        if self._scope is None:
            return float(self._device.call("nvmlDeviceGetTotalEnergyConsumption")) * 1e-3
        return self._device.field(FIELD_ENERGY, self._scope) * 1e-3


class NvmlPower:
    """Instantaneous power held until it refreshes: each new reading is a step, as of a counter.

    A new reading stands for the refresh that it ends, at most `REFRESH_S`; what lies before had the old one.
    """

    name = "nvml-power"
    adds_up_powers = True
    """Whenever it is read, so that it must be read all the time."""

    def __init__(self, read_w: Callable[[], float], clock: Clock) -> None:
        self._read_w, self._clock = read_w, clock
        self._last_w, self._last_s, self._total_j = read_w(), clock.now(), 0.0

    def energy_j(self) -> float:
        power_w = self._read_w()
        if power_w != self._last_w:
            now_s = self._clock.now()
            fresh_s = min(now_s - self._last_s, REFRESH_S)
            self._total_j += power_w * fresh_s + self._last_w * (now_s - self._last_s - fresh_s)
            self._last_w, self._last_s = power_w, now_s
        return self._total_j


class NvmlSamples:
    """The driver's buffer of power samples, each with its own time stamp, integrated as they arrive."""

    name = "nvml-samples"
    adds_up_powers = True

    def __init__(self, device: NvmlDevice) -> None:
        self._device = device
        self._total_j = 0.0
        self._seen_us = max((x.timeStamp for x in self._samples(0)), default=0)

    def energy_j(self) -> float:
        for sample in sorted(self._samples(self._seen_us), key=lambda x: int(x.timeStamp)):
            if sample.timeStamp > self._seen_us:
                self._total_j += sample.sampleValue.uiVal * 1e-3 * (sample.timeStamp - self._seen_us) * 1e-6
                self._seen_us = sample.timeStamp
        return self._total_j

    def _samples(self, since_us: int) -> list[Any]:
        try:
            return list(self._device.call("nvmlDeviceGetSamples", TOTAL_POWER_SAMPLES, since_us)[1])
        except MeterError as error:
            if since_us and "Not Found" in str(error):  # nothing newer in the buffer
                return []
            raise


class NvmlBoard:
    """Clocks, temperature, capping and processes of one GPU."""

    def __init__(self, device: NvmlDevice) -> None:
        self._device = device

    def state(self) -> BoardState:
        d = self._device
        processes = d.optional(lambda: len(d.call("nvmlDeviceGetComputeRunningProcesses")))
        held_ns = d.fields((*FIELDS_POWER_CAP, *FIELDS_THERMAL))
        return BoardState(
            temperature_c=d.optional(lambda: d.call("nvmlDeviceGetTemperature", TEMPERATURE_GPU)),
            clock_hz=d.optional(lambda: d.call("nvmlDeviceGetClockInfo", SM_CLOCK), 1e6),
            memory_clock_hz=d.optional(lambda: d.call("nvmlDeviceGetClockInfo", MEMORY_CLOCK), 1e6),
            power_capped_s=_largest_s(held_ns, FIELDS_POWER_CAP),
            thermal_s=_largest_s(held_ns, FIELDS_THERMAL),
            processes=None if processes is None else int(processes),
        )


def _is_ga10x(device: NvmlDevice) -> bool:
    """Whether a chip is an Ampere but GA100 (compute capability 8.0), whose usage is a one-second average (NVML's reference)."""
    try:
        return tuple(device.call("nvmlDeviceGetCudaComputeCapability")) in ((8, 6), (8, 7))
    except MeterError:
        return False


def _shares_board(device: NvmlDevice) -> bool:
    """Whether the board is cut into instances (MIG), each of whose neighbours its counter holds."""
    try:
        return bool(device.call("nvmlDeviceGetMigMode")[0])
    except MeterError:  # of boards that cannot be cut
        return False


def _largest_s(held_ns: Mapping[int, float], fields: Sequence[int]) -> float | None:
    """Seconds of the largest of several counters that overlap; None where none was read."""
    return max((held_ns[f] * 1e-9 for f in fields if f in held_ns), default=None)


def open_nvml(uuid: str | None, pci_bus_id: str | None = None, nvml: Any = None, clock: Clock | None = None) -> Instrument:
    """Open the GPU that CUDA calls by `uuid` or `pci_bus_id`, never by index (NVML counts in another order).

    Raises Unavailable with the reason where the library, the device or every energy source is missing.
    """
    nvml = nvml or _import_nvml()
    device = NvmlDevice(nvml, _handle(nvml, uuid, pci_bus_id))
    clock = clock or SystemClock()
    reasons: list[str] = []
    power_scope, power = _power(device, clock, reasons)
    counter_scope, counter = _counter(device, clock, reasons)
    meters = [x for x in (counter, _samples(device, reasons), power) if x is not None]
    if not meters:
        raise Unavailable("; ".join(reasons))
    scopes = {"counter_scope": counter_scope, "power_scope": power_scope}
    description = _describe(device) | scopes | {"unavailable": reasons, "scale_uncertainty_frac": SCALE_UNCERTAINTY_FRAC}
    description["mig"] = _shares_board(device)
    same_scope = counter is not None and counter_scope == power_scope  # a module's energy is not its GPU's
    return Instrument("nvml", tuple(meters), NvmlBoard(device), power if same_scope else None, description=description)


def _import_nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        raise Unavailable("nvidia-ml-py is not installed: pip install nvidia-ml-py") from None
    return pynvml


def _handle(nvml: Any, uuid: str | None, pci_bus_id: str | None) -> Any:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise Unavailable(f"NVML does not start: {_reason(nvml, error)}") from None
    tried = []
    for function, name in (("nvmlDeviceGetHandleByUUID", uuid), ("nvmlDeviceGetHandleByPciBusId", pci_bus_id)):
        if name:
            try:
                return getattr(nvml, function)(name)
            except nvml.NVMLError as error:
                tried.append(f"{name}: {_reason(nvml, error)}")
    raise Unavailable("no CUDA device to bind to: is a GPU visible?" if not tried else "; ".join(tried))


def _counter(device: NvmlDevice, clock: Clock, reasons: list[str]) -> tuple[str | None, NvmlCounter | None]:
    """Return the energy counter of the narrowest scope that answers; of the whole GPU by the cheaper of its two functions."""
    for scope in (*SCOPES, None):
        meter = NvmlCounter(device, scope)
        try:
            if meter.energy_j() > 0:
                plain = NvmlCounter(device, None)
                quicker = scope == 0 and _cost_s(plain, clock) < _cost_s(meter, clock) / 2
                return SCOPES.get(scope or 0), plain if quicker else meter
            reasons.append("the energy counter reads 0 J")
        except MeterError as error:
            reasons.append(f"energy counter: {error}")
    return None, None


def _cost_s(meter: NvmlCounter, clock: Clock, reads: int = 5) -> float:
    """Seconds that one reading takes; infinite where there is none."""
    began_s = clock.now()
    try:
        for _ in range(reads):
            meter.energy_j()
    except MeterError:
        return math.inf
    return (clock.now() - began_s) / reads


def _power(device: NvmlDevice, clock: Clock, reasons: list[str]) -> tuple[str | None, NvmlPower | None]:
    for scope, name in SCOPES.items():
        try:
            return name, NvmlPower(lambda scope=scope: device.field(FIELD_POWER_INSTANT, scope) * 1e-3, clock)  # type: ignore[misc]
        except MeterError as error:
            reasons.append(f"instantaneous power ({name}): {error}")
    architecture = device.optional(lambda: device.call("nvmlDeviceGetArchitecture"))
    if architecture is None or architecture > LAST_ARCHITECTURE_WITH_INSTANT_USAGE or _is_ga10x(device):
        return None, None
    try:
        return "gpu", NvmlPower(lambda: float(device.call("nvmlDeviceGetPowerUsage")) * 1e-3, clock)
    except MeterError as error:
        reasons.append(f"power: {error}")
        return None, None


def _samples(device: NvmlDevice, reasons: list[str]) -> NvmlSamples | None:
    try:
        return NvmlSamples(device)
    except MeterError as error:
        reasons.append(f"buffered samples: {error}")
        return None


def _describe(device: NvmlDevice) -> dict[str, Any]:
    """What the header of a data file keeps of the board; its identity only as a salted hash."""
    nvml = device.nvml

    def ask(function: str) -> Any:
        try:
            value = device.call(function)
        except MeterError:
            return None
        return value.decode() if isinstance(value, bytes) else value

    uuid, limit_mw = ask("nvmlDeviceGetUUID"), ask("nvmlDeviceGetPowerManagementLimit")
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
    except (nvml.NVMLError, AttributeError):
        driver = None
    return {
        "board": hashlib.sha256(f"wattlayer board {uuid}".encode()).hexdigest()[:16] if uuid else None,
        "name": ask("nvmlDeviceGetName"),
        "power_limit_w": limit_mw * 1e-3 if limit_mw else None,
        "driver": driver.decode() if isinstance(driver, bytes) else driver,
    }


def _reason(nvml: Any, error: Exception) -> str:
    """Return NVML's words, with the cure where there is one."""
    text = first_line(error)
    if isinstance(error, getattr(nvml, "NVMLError_NoPermission", ())):
        return f"{text} (ask the administrator for access to GPU counters, or run as root)"
    if isinstance(error, getattr(nvml, "NVMLError_NotSupported", ())):
        return f"{text} by this GPU or driver"
    if isinstance(error, getattr(nvml, "NVMLError_FunctionNotFound", ())):
        return f"{text} in this driver: update the NVIDIA driver"
    return text
