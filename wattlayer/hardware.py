"""The hardware registry: one frozen record per device, each number with its source.

To add a device, add one row. Peak rates are dense (no structured sparsity) at boost clock, boards as sold.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError, nearest


@dataclass(frozen=True)
class Hardware:
    """What a data sheet says of a device, in SI units. `sources` names where each number comes from."""

    name: str
    title: str
    peak_flop_per_s: tuple[tuple[str, float], ...]
    """Per "float32", "tf32", "float16", "bfloat16", "int8"; a dtype that is absent runs at the float32 rate."""
    dram_bytes_per_s: float
    l2_bytes: float
    """Last-level cache (GPU: L2; CPU: L2 + L3 of all sockets)."""
    units: int
    """Streaming multiprocessors, or CPU cores."""
    clock_hz: float
    idle_w: float
    max_w: float
    """Board power limit; for CPUs the TDP of all sockets."""
    launch_s: float
    """Shortest time between two kernels in a queue; for CPUs the cost of calling an operator."""
    sources: tuple[str, ...]
    kind: str = "gpu"

    def peak(self, dtype: str, tf32: bool = False) -> float:
        """Return the dense peak rate in FLOP/s for `dtype`, float32 as TF32 where the device can and `tf32` says so."""
        rates = dict(self.peak_flop_per_s)
        return rates.get("tf32" if tf32 and dtype == "float32" else dtype, rates["float32"])


_GPU_LAUNCH = (
    "launch_s: back-to-back launch throughput of small CUDA kernels, 2-5 us (NVIDIA, 'Getting Started with CUDA Graphs', 2019)"
)

HARDWARE: dict[str, Hardware] = {
    device.name: device
    for device in (
        Hardware(
            "a30", "NVIDIA A30 24 GB PCIe",
            (("float32", 10.3e12), ("tf32", 82e12), ("float16", 165e12), ("bfloat16", 165e12), ("int8", 330e12)),
            933e9, 24 * 2**20, 56, 1.44e9, 30.0, 165.0, 4e-6,
            ("NVIDIA A30 data sheet (2021), table of specifications: peak rates, bandwidth, 165 W",
             "NVIDIA A30 product brief PB-10418-001: 56 SM, 1440 MHz boost, 24 MB L2",
             "idle_w: NVIDIA-reported idle of A30 boards, order of magnitude", _GPU_LAUNCH),
        ),
        Hardware(
            "rtx2080ti", "NVIDIA GeForce RTX 2080 Ti",
            (("float32", 13.45e12), ("float16", 53.8e12), ("int8", 215.2e12)),
            616e9, 5.5 * 2**20, 68, 1.545e9, 15.0, 250.0, 4e-6,
            ("NVIDIA Turing GPU architecture white paper WP-09183-001, table 1 (reference board): peak rates "
             "(float16 tensor with float32 accumulate), bandwidth, L2, SM, boost clock, 250 W",
             "idle_w: order of magnitude of review measurements", _GPU_LAUNCH),
        ),
        Hardware(
            "gtx1080ti", "NVIDIA GeForce GTX 1080 Ti",
            (("float32", 11.34e12),), 484e9, 2.75 * 2**20, 28, 1.582e9, 12.0, 250.0, 4e-6,
            ("NVIDIA GeForce GTX 1080 Ti specifications page: 3,584 cores at 1,582 MHz boost, 484 GB/s, 250 W; "
             "float32 rate = 2 x cores x boost; float16 runs at 1/64 of it and is left out",
             "L2: GP102, 11 x 256 KiB", "idle_w: order of magnitude of review measurements", _GPU_LAUNCH),
        ),
        Hardware(
            "gtx1070", "NVIDIA GeForce GTX 1070",
            (("float32", 6.463e12),), 256e9, 2 * 2**20, 15, 1.683e9, 9.0, 150.0, 4e-6,
            ("NVIDIA GeForce GTX 1070 specifications page: 1,920 cores at 1,683 MHz boost, 256 GB/s, 150 W; "
             "float32 rate = 2 x cores x boost",
             "L2: GP104, 2 MiB (NVIDIA GeForce GTX 1080 white paper)",
             "idle_w: order of magnitude of review measurements", _GPU_LAUNCH),
        ),
        Hardware(
            "xeon-gold-5120", "2 x Intel Xeon Gold 5120",
            (("float32", 1.434e12),), 230.4e9, 2 * (19.25 + 14) * 2**20, 28, 1.6e9, 50.0, 210.0, 5e-6,
            ("Intel ARK, Xeon Gold 5120: 14 cores, 1 AVX-512 FMA unit, 19.25 MB L3, 6 x DDR4-2400, TDP 105 W a socket",
             "Intel Xeon Scalable specification update 336065: 1.6 GHz AVX-512 turbo on all cores; float32 rate = "
             "28 cores x 32 FLOP x 1.6 GHz",
             "idle_w, launch_s: orders of magnitude"),
            "cpu",
        ),
        Hardware(
            "jetson-nano", "NVIDIA Jetson Nano class board",
            (("float32", 235.9e9), ("float16", 471.9e9)), 25.6e9, 256 * 2**10, 1, 0.9216e9, 1.25, 10.0, 2e-5,
            ("NVIDIA Jetson Nano system-on-module data sheet DA-09366-001: 128 cores at 921.6 MHz, 25.6 GB/s LPDDR4, 10 W; "
             "float32 rate = 2 x cores x clock",
             "L2: GM20B, 256 KiB (Tegra X1 technical reference manual)",
             "idle_w, launch_s: orders of magnitude"),
        ),
        Hardware(
            "h100-sxm", "NVIDIA H100 80 GB SXM5",
            (("float32", 66.9e12), ("tf32", 494.7e12), ("float16", 989.4e12), ("bfloat16", 989.4e12), ("int8", 1978.9e12)),
            3352e9, 50 * 2**20, 132, 1.83e9, 70.0, 700.0, 2.5e-6,
            ("NVIDIA H100 Tensor Core GPU architecture white paper v1.04, tables 1 and 2: peak rates without sparsity, "
             "bandwidth, L2, SM, 700 W", "idle_w: order of magnitude", _GPU_LAUNCH),
        ),
    )
}  # fmt: skip
"""Every device that is known by name."""


def find_hardware(name: str) -> Hardware:
    """Return the device called `name`, or raise InputError with the nearest names."""
    try:
        return HARDWARE[name]
    except KeyError:
        raise InputError(f"hardware {name!r} is not known{nearest(name, list(HARDWARE))}") from None
