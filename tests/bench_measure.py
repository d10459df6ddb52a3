"""Mean device time per layer at a 2 % interval, on the simulated rig: `python tests/bench_measure.py`."""

from __future__ import annotations

import statistics
import sys
from random import Random

from rig import Board, Counter, Device, Sensor, SimulatedWorkload, true_energy_j

from wattlayer.measure.estimator import Noise
from wattlayer.measure.window import Gauge, Policy, watch


def main(layers: int = 300) -> int:
    """Print what measuring `layers` layers takes and how far off they are."""
    random = Random(0)
    device = Device(Sensor(delay_s=0.02), seed=0)
    gauge = Gauge(Counter(device), Board(device), device, Noise())
    times_s, errors, widths, flagged = [], [], [], 0
    for _ in range(layers):
        call = ((10 ** random.uniform(-5.3, -2.3), random.uniform(20.0, 500.0)),)
        window = watch(SimulatedWorkload(device, call), gauge, Policy(target_frac=0.02))
        device.sleep(0.03)  # building the next layer
        times_s.append(window.elapsed_s)
        errors.append(window.energy_j() / true_energy_j(call, device) - 1)
        widths.append(window.interval_frac())
        flagged += bool(window.flags)
    inside = sum(abs(error) <= width for error, width in zip(errors, widths)) / layers
    print(f"{layers} layers of 5 us to 5 ms, refresh 100 ms, read 2.4 ms, step noise 0.4 %, published 20 ms late")
    print(f"device time per layer: mean {statistics.mean(times_s):.3f} s, longest {max(times_s):.3f} s")
    print(f"error: mean {100 * statistics.mean(errors):+.2f} %, standard deviation {100 * statistics.pstdev(errors):.2f} %")
    print(f"95 % interval: median half width {100 * statistics.median(widths):.2f} %, covers {100 * inside:.0f} %")
    print(f"flagged: {flagged}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
