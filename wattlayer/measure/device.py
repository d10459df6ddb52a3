"""The rig that is really there: one CUDA device, or this machine's processors."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, first_line
from ..hardware import find_hardware, registry_name
from ..hardware.detect import board_name
from ..meter import Instrument, SystemClock
from ..meter.choose import choose, openers
from .launch import CudaWorkload, HostWorkload, Launch, eager_launch, graph_launch
from .materialise import load_real_network
from .plan import filler_layer
from .rebuild import DATA_DEPENDENT, Call, has_nan, rebuild, try_run
from .rig import CannotRun, DeviceLost, Facts, Item, Workload

COLD_CACHES = 3
"""Weights are cold when this many times the last-level cache lies between two uses of one copy."""
DEFAULT_CACHE_BYTES = 32 * 2**20
"""Where the system does not tell the size of its last-level cache."""


class DeviceRig:
    """A CUDA device or the CPU, with its meter."""

    def __init__(self, device: torch.device, instrument: Instrument, hardware: str, seed: int = 0) -> None:
        self.device, self.hardware, self.seed = device, hardware, seed
        self.instrument, self.clock = instrument, SystemClock()
        self.modes: tuple[str, ...] = ("graph", "eager") if device.type == "cuda" else ("eager",)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._filler: Launch | None = None

    @staticmethod
    def open(
        device: str | torch.device | None = None,
        *,
        meter: str = "auto",
        assumed_power_w: float | None = None,
        instrument: Instrument | None = None,
        hardware: str | None = None,
        seed: int = 0,
    ) -> DeviceRig:
        """Open `device` ("cuda", "cuda:1" or "cpu"; default: CUDA where there is one) and its meter.

        Raises InputError for a device that is not there or that is no `hardware` of that name, MeterError naming every meter
        that was tried.
        """
        found = _device(device)
        if hardware is not None:
            _check_named(hardware, found)
        if instrument is None:
            instrument = choose(meter, found.type, openers(*identity(found), assumed_power_w, found.index))
        return DeviceRig(found, instrument, hardware or hardware_name(found), seed)

    def prepare(self, item: Item) -> Workload:
        """Build the workload that `item` asks for; raise CannotRun, or DeviceLost where the device answers no more."""
        try:
            return self._prepare(item)
        except CannotRun:
            raise
        except torch.OutOfMemoryError as error:
            raise CannotRun("out_of_memory", first_line(error)) from None
        except Exception as error:  # a kernel, a library or a network's forward: any of them may raise anything
            self._check_alive(error)
            raise CannotRun("graph_failed" if item.mode == "graph" else "cannot_run", first_line(error)) from error
        finally:
            if self._stream is not None:
                with suppress(RuntimeError):
                    torch.cuda.empty_cache()

    def _check_alive(self, cause: Exception) -> None:
        """An error inside a kernel spoils the CUDA context for good: every later call fails too."""
        if self._stream is None:
            return
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            raise DeviceLost(first_line(cause)) from error

    def _prepare(self, item: Item) -> Workload:
        if item.layer is None:
            set_tf32(item.tf32)
            network = load_real_network(item.call, self.device, self.seed)
            result = network.run()
            flags = ("nan_output",) if has_nan(result) else ()
            facts = Facts(None, "normal", self.seed, None, network.input_shapes, flags)
            return self._workload(lambda _: network.run(), 1, item, lambda copies: facts)
        if item.mode == "graph" and item.layer.kind in DATA_DEPENDENT:
            raise CannotRun("graph_failed", f"the size of what {item.layer.kind} returns depends on data")
        set_tf32(item.tf32)
        cold_bytes = 0.0 if item.regime == "hot" else COLD_CACHES * cache_bytes(self.device)
        call = rebuild(item.layer, self.device, seed=self.seed, rectified=item.rectified, cold_bytes=cold_bytes)
        flags = ("nan_output",) if has_nan(try_run(call)) else ()
        return self._workload(call.run, call.copies, item, lambda copies: self._facts(call, copies, item, flags))

    def _facts(self, call: Call, copies: int, item: Item, flags: tuple[str, ...]) -> Facts:
        distribution = "rectified" if item.rectified else "normal"
        return Facts(copies * call.copied_bytes, distribution, self.seed, flags=flags)

    def _workload(self, step: Callable[[int], Any], copies: int, item: Item, facts: Callable[[int], Facts]) -> Workload:
        diluted = item.regime == "diluted"
        if self._stream is None:
            return HostWorkload(step, facts(copies), self._filler_call().run if diluted else None)
        if item.mode == "graph":
            launch, touched = graph_launch(step, copies, self._stream)
        else:
            launch, touched = eager_launch(step, self._stream), copies
        filler = self._filler_launch() if diluted else None
        return CudaWorkload(launch, self._stream, facts(touched), filler, pauses=item.mode == "eager")

    def _filler_call(self) -> Call:
        return rebuild(filler_layer("float32" if self._stream is None else "float16"), self.device, seed=self.seed)

    def _filler_launch(self) -> Launch:
        """The memory-bound graph that diluted workloads are interleaved with; kept, as it is always the same."""
        if self._filler is None and self._stream is not None:
            self._filler = graph_launch(self._filler_call().run, 1, self._stream)[0]
        if self._filler is None:
            raise InputError("a filler graph needs a CUDA device")
        return self._filler

    def describe(self) -> dict[str, Any]:
        """What the header keeps of the device and of the libraries that drive it."""
        described: dict[str, Any] = {
            "type": self.device.type,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cache_bytes": cache_bytes(self.device),
            "tf32_defaults": {"conv": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        }
        if self._stream is None:
            return described | {"name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        properties = torch.cuda.get_device_properties(self.device)
        return described | {
            "name": properties.name,
            "units": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }


def set_tf32(mode: str) -> None:
    """Let float32 run as TF32 nowhere ("none"), in convolutions ("conv") or everywhere ("all")."""
    torch.backends.cudnn.allow_tf32 = mode != "none"
    torch.backends.cuda.matmul.allow_tf32 = mode == "all"


def cache_bytes(device: torch.device) -> int:
    """Size of the last-level cache: L2 of a GPU, the largest cache that a CPU reports."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [_size(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(sizes, default=0) or DEFAULT_CACHE_BYTES


def _size(path: Path) -> int:
    try:
        found = re.fullmatch(r"(\d+)([KM]?)", path.read_text().strip())
    except OSError:
        return 0
    return int(found[1]) * {"": 1, "K": 2**10, "M": 2**20}[found[2]] if found else 0


def hardware_name(device: torch.device) -> str:
    """The registry's name of a device, else its own name in lower case with dashes."""
    board = board_name(device)
    name = board if device.type == "cuda" else f"cpu {platform.machine()}"  # of a processor that is not known, whatever its model
    return registry_name(board) or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _check_named(hardware: str, device: torch.device) -> None:
    """Raise InputError where the registry knows `hardware` as another kind of device than rows of it would be measured on."""
    try:
        kind = find_hardware(hardware).kind
    except InputError:  # what it does not know may be called as one likes
        return
    if (kind == "cpu") != (device.type == "cpu"):
        cure = "name another device, or say its kind in hardware.toml"
        raise InputError(f"--hardware {hardware} is a {kind}, and --device {device.type} is measured on: {cure}")


def _device(wanted: str | torch.device | None) -> torch.device:
    available = torch.cuda.is_available()
    try:
        found = torch.device(wanted or ("cuda" if available else "cpu"))
    except RuntimeError as error:
        raise InputError(f"device {wanted!r} is not one of cuda, cuda:N, cpu: {first_line(error)}") from None
    if found.type not in ("cuda", "cpu"):
        raise InputError(f"device {wanted!r} cannot be measured on: use cuda or cpu")
    if found.type == "cuda" and not available:
        raise InputError(f"device {wanted!r}: PyTorch sees no CUDA device; use --device cpu, or install a CUDA build of torch")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {wanted!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices, counted from 0")
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else torch.device("cpu")


def identity(device: torch.device) -> tuple[str | None, str | None]:
    """UUID and PCI bus id by which NVML knows a CUDA device."""
    if device.type != "cuda":
        return None, None
    properties = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    bus, slot, domain = (getattr(properties, f"pci_{part}_id", None) for part in ("bus", "device", "domain"))
    pci = None if bus is None or slot is None else f"{domain or 0:08x}:{bus:02x}:{slot:02x}.0"
    return (f"GPU-{uuid}" if uuid else None), pci
