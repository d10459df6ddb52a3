"""What busy parts draw: found again from made-up boards, cut at the limit, and sane on every device."""

from __future__ import annotations

import numpy as np
import pytest
from test_scaffold import A30, conv, linear, relu

from wattlayer.features.columns import Columns
from wattlayer.hardware import HARDWARE
from wattlayer.layer import Layer, Operand
from wattlayer.model.power import CONSUMERS, PowerScaffold, busy_frac, softmin

TRUTH = PowerScaffold((50.0, 20.0, 60.0, 90.0, 50.0, 300.0, 110.0, 40.0), limit_w=160.0)


def norm(rows: int) -> Layer:
    x, weight = (rows, 768), (768,)
    operands = (Operand("input", x, "float32"), Operand("weight", weight, "float32"), Operand("bias", weight, "float32"))
    return Layer("layer_norm", operands, (Operand("output", x, "float32"),))


def layers(count: int = 240, seed: int = 0) -> list[Layer]:
    random = np.random.default_rng(seed)

    def size(low: int, high: int) -> int:
        return int(2 ** random.uniform(low, high))

    kinds = (
        lambda: relu(size(8, 27)),
        lambda: norm(size(4, 17)),
        lambda: linear(size(5, 12), size(5, 12), size(5, 12)),
        lambda: conv(size(0, 5), 2 * size(2, 8), size(3, 6), size(4, 8), 3, padding=(1, 1)).with_tf32("conv"),
    )
    return [kinds[i % 4]() for i in range(count)]


def measured(several: list[Layer], seed: int = 0) -> tuple[Columns, np.ndarray, np.ndarray, np.ndarray]:
    """Columns, times at 40 to 90 % of the roofline, shifts and the powers of TRUTH with 2 % noise."""
    columns, random = Columns(several, A30), np.random.default_rng(seed)
    time_s = columns.roofline_s() / random.uniform(0.4, 0.9, len(several)) + 5e-6
    shift = random.choice([0.0, 0.2], len(several))
    noise = np.exp(0.02 * random.standard_normal(len(several)))
    return columns, time_s, shift, TRUTH.power_w(columns, time_s, shift) * noise


def test_watts_that_made_the_data_are_found():
    columns, time_s, shift, power_w = measured(layers())
    fitted = PowerScaffold.fit(columns, time_s, power_w, shift, np.ones(len(time_s)))
    new, new_s, new_shift, _ = measured(layers(seed=1), seed=1)
    error = fitted.power_w(new, new_s, new_shift) / TRUTH.power_w(new, new_s, new_shift) - 1
    assert np.quantile(np.abs(error), 0.9) < 0.05
    assert fitted.consumers_w[CONSUMERS.index("idle")] == pytest.approx(50.0, rel=0.1)


def test_power_stays_between_idling_and_the_limit():
    columns, time_s, shift, _ = measured(layers(seed=2))
    power_w = TRUTH.power_w(columns, time_s, shift)
    assert ((power_w > 0.99 * 50.0) & (power_w <= 160.0)).all()
    slow_w = TRUTH.power_w(columns, np.full(len(time_s), 100.0), 0 * shift)
    assert slow_w == pytest.approx(70.0, rel=0.01), "a kernel that does next to nothing keeps the device awake"
    assert TRUTH.power_w(columns, 1e-3 * time_s, shift).max() == pytest.approx(160.0, rel=0.01)


def test_a_demand_at_the_limit_is_granted_but_for_eight_per_cent():
    """By the power mean of both with exponent -8: 160 / 2^(1/8) W."""
    granted_w = softmin(np.array([16.0, 160.0, 1600.0]), 160.0)
    assert granted_w == pytest.approx([16.0, 160.0 / 2**0.125, 160.0], rel=1e-6)


def test_a_capped_board_still_shows_what_parts_would_draw():
    columns, time_s, shift, power_w = measured(layers(600))
    capped = float(np.mean(power_w > 0.93 * 160.0))
    assert capped > 0.03, "the made-up board does reach its limit"
    fitted = PowerScaffold.fit(columns, time_s, power_w, shift, np.ones(len(time_s)))
    assert fitted.consumers_w[CONSUMERS.index("tensor_core")] > 160.0


@pytest.mark.parametrize("hardware", HARDWARE)
def test_utilisations_of_a_roofline_are_shares(hardware):
    several = [relu(1 << 26), linear(4096, 4096, 4096), relu(256)]
    columns = Columns(several, HARDWARE[hardware])
    use = busy_frac(columns, columns.roofline_s())
    assert use.shape == (3, len(CONSUMERS))
    assert (use[:, 0] == 1).all() and (use >= 0).all() and (use < 1.3).all()
    assert use[1, CONSUMERS.index("vector")] == 0 and use[0, CONSUMERS.index("matrix")] == 0


def test_units_are_busy_all_of_the_time_at_most_and_depthwise_convolutions_fill_no_tiles():
    several = [conv(32, 128, 128, 56, 3, padding=(1, 1)), conv(32, 96, 96, 56, 7, padding=(3, 3), groups=96)]
    columns = Columns(several, A30)
    time_s = np.array([0.5 * columns.compute_s()[0], 2 * columns.memory_s()[1]])  # Winograd's transform takes half of the FLOP
    use = dict(zip(CONSUMERS, busy_frac(columns, time_s).T))
    assert use["matrix"] == pytest.approx([1.0, columns["flop"][1] / A30.peak("float32") / time_s[1]])
    assert use["exchange"] == pytest.approx([0.0, 0.5])


def test_norms_exchange_what_they_move_and_short_kernels_let_the_device_sleep():
    columns = Columns([relu(1 << 26), norm(1 << 16)], A30)
    use = dict(zip(CONSUMERS, busy_frac(columns, np.array([1e-3, 10e-6])).T))
    assert use["exchange"] == pytest.approx([0, columns.memory_s()[1] / 10e-6])
    assert use["awake"] == pytest.approx([1 / 1.01, 0.5])


def test_other_devices_teach_watts_of_parts_that_no_layer_kept_busy():
    columns, time_s, _, _ = measured([x for x in layers() if x.kind == "relu"])
    own = TRUTH.taught([1.0] * len(CONSUMERS), columns, time_s)
    kept = {"idle", "awake", "l2", "dram", "vector"}
    assert own.consumers_w == tuple(w if name in kept else 1.0 for name, w in zip(CONSUMERS, TRUTH.consumers_w))
    assert own.limit_w == TRUTH.limit_w


def test_one_layer_that_keeps_a_part_busy_has_measured_it():
    """Of 2,000 layers: on the average the matrix units are busy for less than a thousandth of the time."""
    columns = Columns([relu(256)] * 1999 + [linear(1024, 1024, 1024)], A30)
    own = TRUTH.taught([1.0] * len(CONSUMERS), columns, columns.roofline_s())
    watts = dict(zip(CONSUMERS, own.consumers_w))
    assert (watts["matrix"], watts["tensor_core"]) == (110.0, 1.0)
