"""What is known of one device."""

from __future__ import annotations

from dataclasses import dataclass

PACKED = 2.5
"""Lanes that take two numbers of half precision at once are twice as fast in it as in float32 (NVIDIA's white paper on the Tesla
P100, on FP16); data sheets round."""

_PART = {"complex64": "float32", "complex128": "float64"}
"""The dtype of the real and the imaginary part."""


@dataclass(frozen=True)
class Hardware:
    """What a data sheet says of a device, in SI units. `sources` names where each number comes from."""

    name: str
    title: str
    peak_flop_per_s: tuple[tuple[str, float], ...]
    """Per "float32", "float64", "tf32", "float16", "bfloat16", "int8"; a dtype that is absent runs at the float32 rate."""
    dram_bytes_per_s: float
    l2_bytes: float
    """Last-level cache (GPU: L2, or AMD's Infinity Cache; CPU: L2 + L3 of all sockets)."""
    units: int
    """Streaming multiprocessors, compute units, or CPU cores."""
    clock_hz: float
    """Boost clock of a GPU; the clock that the float32 rate of a CPU is stated at."""
    idle_w: float
    """Meant: drawn between kernels, with a program on the device and its clocks up (asleep it may draw less)."""
    max_w: float
    """Board power limit; for CPUs the TDP of all sockets."""
    launch_s: float
    """Shortest time between two kernels in a queue; for CPUs the cost of calling an operator."""
    sources: tuple[str, ...]
    """"fields: where their numbers come from"; a source that begins with "assumed" is not a maker's figure."""
    kind: str = "gpu"
    dram_bytes: float | None = None
    """Memory of the board; None for CPUs, where it depends on what is plugged in."""
    l2_bytes_per_s: float | None = None
    """Read bandwidth of the last-level cache; None where nobody states it."""
    transforms: bool = True
    """Whether its library convolves by Winograd's and Fourier's transforms where they save FLOP."""
    boards: tuple[str, ...] = ()
    """What the driver, or the system for a CPU, calls the device; a CPU's name begins with it."""

    def peak(self, dtype: str, tf32: bool = False) -> float:
        """Return the dense peak rate in FLOP/s for `dtype`, float32 as TF32 where the device can and `tf32` says so.

        A complex multiply-add counts as two FLOP, as in `torch.utils.flop_counter`, but takes four real multiply-adds.
        """
        rates = dict(self.peak_flop_per_s)
        if dtype in _PART:
            return self.peak(_PART[dtype]) / 4.0
        return rates.get("tf32" if tf32 and dtype == "float32" else dtype, rates["float32"])

    def states(self, dtype: str) -> bool:
        """Return whether a rate for `dtype` is stated; what is absent is taken to run at that of float32."""
        return _PART.get(dtype, dtype) in dict(self.peak_flop_per_s)

    def on_tensor_cores(self, dtype: str, tf32: bool = False) -> bool:
        """Return whether products in `dtype`, float32 as TF32 where `tf32` says so, have units of their own.

        They are then faster than in float32 by more than packing explains, or by anything where there is TF32: tensor cores of
        graphics cards are but twice as fast.
        """
        peak, vector = self.peak(dtype, tf32), self.peak("float32")
        return peak > vector and ("tf32" in dict(self.peak_flop_per_s) or peak > PACKED * vector)

    def source_of(self, field: str) -> str | None:
        """Return where the number in `field` comes from, or None."""
        parts = [source.partition(": ") for source in self.sources]
        return "; ".join(text for fields, _, text in parts if field in fields.split()) or None
