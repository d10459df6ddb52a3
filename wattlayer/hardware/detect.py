"""What is here: the GPUs that NVML sees and the processor, with their names in the registry. Nothing is set or loaded on them."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import registry_name

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Found:
    """One device of this machine; `name` is the registry's, None where it is not known."""

    board: str
    kind: str
    name: str | None


def detect() -> list[Found]:
    """Return the GPUs and the processor of this machine, GPUs first."""
    gpus = [Found(board, "gpu", registry_name(board)) for board in _nvml_names()]
    processor = processor_name()
    return [*gpus, Found(processor, "cpu", registry_name(processor))]


def board_name(device: torch.device) -> str:
    """Return what PyTorch calls a CUDA device, and the system its processor."""
    if device.type != "cuda":
        return processor_name()
    import torch

    return torch.cuda.get_device_name(device)


def _nvml_names() -> list[str]:
    """What NVML calls the GPUs; none without NVIDIA's driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, no GPU: whatever the reason, there is none to be seen
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name as the system tells it, else its architecture."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
