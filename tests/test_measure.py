"""Measuring on the simulated rig: unbiased between counter steps, honest about its interval, flagged when something is off."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from types import SimpleNamespace

import pytest
from rig import Board, Counter, Device, Segment, Sensor, SimulatedRig, SimulatedWorkload, Thermals, true_energy_j
from scipy.special import stdtrit

from wattlayer.errors import MeterError
from wattlayer.measure.characterise import Bench, _character, _delay, characterise, idle_powers
from wattlayer.measure.estimator import Edge, Noise, mean_power, student95
from wattlayer.measure.plan import linear
from wattlayer.measure.rig import Item
from wattlayer.measure.row import Session, to_measurement
from wattlayer.measure.window import Gauge, Policy, Watch, Window, watch
from wattlayer.meter import Instrument
from wattlayer.meter.nvml import NvmlPower

SEEDS = range(30)
CALL: tuple[Segment, ...] = ((4e-4, 400.0),)
Background = Callable[[float], float]


def measured(
    seed: int = 0,
    *,
    call: tuple[Segment, ...] = CALL,
    policy: Policy | None = None,
    rest_s: float = 0.4,
    noise: Noise | None = None,
    thermals: Thermals | None = None,
    background: Background | None = None,
    fault: Callable[[int, float], float] | None = None,
    **sensor: float,
) -> tuple[Window, float, Device]:
    """Measure `call` on a rig that was loaded and rested; return the window, its relative error and the device."""
    device = Device(Sensor(**sensor), seed, thermals or Thermals(), background)
    work = SimulatedWorkload(device, call)
    work.start()
    device.sleep(0.4)
    work.stop()
    device.sleep(rest_s)
    known = noise or Noise(quantum_j=device.sensor.quantum_j, refresh_s=min(device.sensor.period_s, 0.1))
    window = watch(work, Gauge(Counter(device, fault), Board(device), device, known), policy or Policy())
    error = window.energy_j() / true_energy_j(call, device) - 1 if window.power else float("nan")
    return window, error, device


def errors(**options: object) -> list[float]:
    return [measured(seed, **options)[1] for seed in SEEDS]


def start_end(seed: int, seconds: float, **sensor: float) -> float:
    """The relative error of reading the counter before and after a loop, as most tools do."""
    device = Device(Sensor(**sensor), seed)
    work = SimulatedWorkload(device, CALL)
    device.sleep(1.0)
    began_s, before_j = device.t, device.read()[0]
    work.start()
    device.sleep(seconds - (device.t - began_s))
    calls = work.progress().calls
    work.stop()
    return (device.read()[0] - before_j) / calls / true_energy_j(CALL, device) - 1


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("period_s", [0.02, 0.05, 0.1])
def test_unbiased_for_any_refresh_and_any_sampling_window(period_s, share):
    found = errors(period_s=period_s, window_s=period_s * share)
    assert abs(statistics.mean(found)) < 0.003
    assert max(map(abs, found)) < 0.02


def test_a_counter_that_publishes_late_does_not_bias_even_from_cold():
    assert abs(statistics.mean(errors(delay_s=0.08, rest_s=3.0))) < 0.004


def test_the_usual_start_end_reading_fails_on_the_same_rig():
    """The guard that the simulation is not kinder than the real thing."""
    late = statistics.mean(start_end(seed, 0.5, delay_s=0.08) for seed in SEEDS)
    assert late < -0.05
    prompt = [start_end(seed, 0.5) for seed in SEEDS]
    assert statistics.pstdev(prompt) > 0.02
    assert statistics.pstdev(prompt) > 4 * statistics.pstdev(errors())


@pytest.mark.parametrize("quantum_j", [1e-3, 0.1, 1.0])
def test_coarse_counters(quantum_j):
    assert max(map(abs, errors(quantum_j=quantum_j))) < 0.012 + quantum_j / 20


def test_the_interval_covers_what_it_says():
    runs = [measured(seed, noise_frac=0.01) for seed in range(100)]
    assert sum(abs(error) <= window.interval_frac() for window, error, _ in runs) >= 88


def test_a_quiet_meter_stops_earlier_than_a_noisy_one():
    tight = Policy(target_frac=0.012)
    quiet = [measured(seed, policy=tight, noise_frac=0.001)[0] for seed in SEEDS]
    noisy = [measured(seed, policy=tight, noise_frac=0.03)[0] for seed in SEEDS]
    assert statistics.mean(w.elapsed_s for w in quiet) < 0.75 * statistics.mean(w.elapsed_s for w in noisy)


def test_noise_known_from_the_reference_layer_lengthens_the_first_windows():
    few = measured(1, noise=Noise(0.004))[0]
    many = measured(1, noise=Noise(0.03))[0]
    assert len(many.power.step_powers_w) > len(few.power.step_powers_w)


def test_a_target_out_of_reach_ends_with_the_longest_window_and_a_flag():
    window = measured(1, noise_frac=0.2, policy=Policy(target_frac=0.001, max_window_s=1.0))[0]
    assert window.power.window_s < 1.3 and "ci_not_reached" in window.flags


def test_a_stuck_counter_ends_with_a_flag():
    window, _, device = measured(period_s=1e9)
    assert window.power is None and window.flags == ("counter_stuck",)
    assert window.elapsed_s < Policy().longest_s + 0.1 and not device.segments


def test_a_counter_that_steps_too_seldom_ends_with_a_flag():
    assert measured(period_s=1.5, window_s=1.5)[0].flags == ("too_few_steps",)


def test_a_counter_that_goes_backwards_ends_with_a_flag():
    window = measured(fault=lambda reads, joules: joules - (1e6 if reads > 60 else 0))[0]
    assert window.power is None and window.flags == ("counter_backwards",)


def test_a_row_is_refused_where_no_energy_was_measured():
    window = measured(period_s=1e9)[0]
    with pytest.raises(MeterError, match="no energy was measured: counter_stuck"):
        to_measurement(
            Item(linear(1, 8, 8, "float16")), window, SimulatedWorkload(Device(), CALL).facts, Session("simulated", "")
        )


def test_foreign_bursts_and_ramps_are_flagged():
    def burst(t: float) -> float:
        return 250.0 if 1.25 < t < 1.32 else 0.0

    longer = Policy(target_frac=1e-9, max_window_s=0.9)
    found = [measured(seed, policy=longer, background=burst)[0].flags for seed in SEEDS]
    assert all({"outlier_step", "not_stationary"} & set(flags) for flags in found)
    ramp = [measured(seed, policy=longer, background=lambda t: 150.0 * t)[0].flags for seed in SEEDS]
    assert all("not_stationary" in flags for flags in ramp)


def test_flags_are_rarely_false():
    flagged = [bool(measured(seed)[0].flags) for seed in range(200)]
    assert sum(flagged) <= 6


def test_capping_clocks_and_gaps_are_flagged():
    device = Device()
    board, work = Board(device), SimulatedWorkload(device, CALL)
    gauge = Gauge(Counter(device), board, device, Noise())
    board.capped_share = 0.2
    assert watch(work, gauge, Policy()).flags == ("power_capped",)
    board.capped_share = 0.02
    window = watch(work, gauge, Policy())
    assert window.flags == () and window.capped_frac == pytest.approx(0.02)

    class Slowing(Board):
        def state(self):
            self.clock_hz *= 0.9
            return super().state()

    assert watch(work, Gauge(Counter(device), Slowing(device), device, Noise()), Policy()).flags == ("clock_changed",)

    class Quickening(Board):
        def state(self):
            self.clock_hz *= 1.1
            return super().state()

    assert watch(work, Gauge(Counter(device), Quickening(device), device, Noise()), Policy()).flags == ("clock_changed",)


@pytest.mark.parametrize(("share", "flags"), [(0.04, ()), (0.06, ("thermal",))])
def test_clocks_held_down_by_heat_for_a_twentieth_of_the_window_are_flagged(share, flags):
    device = Device()

    class Hot(Board):
        def state(self):
            return replace(super().state(), thermal_s=100.0 + share * device.t)

    work = SimulatedWorkload(device, CALL)
    assert watch(work, Gauge(Counter(device), Hot(device), device, Noise()), Policy()).flags == flags


def test_a_graph_that_leaves_gaps_is_flagged_and_eager_mode_is_not():
    device = Device()

    class Gappy(SimulatedWorkload):
        busy_share = 0.9

        def progress(self):
            done = super().progress()
            return type(done)(done.calls, done.time_s, self.busy_share * done.time_s)

    gauge = Gauge(Counter(device), Board(device), device, Noise())
    assert watch(Gappy(device, CALL), gauge, Policy(), graph=True).flags == ("gpu_not_busy",)
    assert watch(Gappy(device, CALL), gauge, Policy(), graph=False).flags == ()
    for busy_share, flags in ((0.97, ("gpu_not_busy",)), (0.99, ())):
        Gappy.busy_share = busy_share
        assert watch(Gappy(device, CALL), gauge, Policy(), graph=True).flags == flags


def test_a_graph_without_a_kernel_is_flagged():
    device = Device()
    gauge = Gauge(Counter(device), Board(device), device, Noise())
    assert watch(SimulatedWorkload(device, ((1e-7, 120.0),)), gauge, Policy(), graph=True).flags == ("no_kernel",)
    assert watch(SimulatedWorkload(device, ((1e-6, 120.0),)), gauge, Policy(), graph=True).flags == ()


def test_more_processes_than_at_the_start_are_somebody_elses():
    device = Device()
    board, work = Board(device), SimulatedWorkload(device, CALL)
    window = watch(work, Gauge(Counter(device), board, device, Noise()), Policy())
    item = Item(linear(1, 8, 8, "float16"))
    assert to_measurement(item, window, work.facts, Session("simulated", "", processes=1)).flags == ()
    board.processes = 2
    window = watch(work, Gauge(Counter(device), board, device, Noise()), Policy())
    assert to_measurement(item, window, work.facts, Session("simulated", "", processes=1)).flags == ("foreign_process",)


@pytest.mark.parametrize("call_s", [5e-6, 5e-5, 5e-3])
def test_layers_from_5_us_to_5_ms(call_s):
    window, error, _ = measured(4, call=((call_s, 400.0),))
    assert abs(error) < 0.015 and window.time_s == pytest.approx(call_s)


def test_a_call_longer_than_the_shortest_window_is_waited_for():
    window, error, _ = measured(4, call=((1.2, 400.0),))
    assert window.calls >= 1 and window.flags == () and abs(error) < 0.02


def test_a_gain_of_the_sensor_passes_through_unchanged():
    assert statistics.mean(errors(gain=1.03)) == pytest.approx(0.03, abs=0.004)


def test_the_same_seed_gives_the_same_window():
    assert measured(7)[0] == measured(7)[0]


def aliased(filler_w: float | None) -> list[float]:
    """A loop of 50 ms on a part-time sensor, relative error of the energy per loop."""
    loop = ((0.02, 480.0), (0.03, 180.0))
    found = []
    for seed in range(16):
        device = Device(Sensor(window_s=0.025, jitter_s=0.0002), seed, Thermals(leak_w_per_k=0.0))
        work = SimulatedWorkload(device, loop, filler_w)
        known = Gauge(Counter(device), Board(device), device, Noise(refresh_s=0.1))
        window = watch(work, known, Policy(target_frac=1e-9, max_window_s=2.5))
        true_filler_w = 0.0 if filler_w is None else filler_w + device.thermals.idle_hot_w
        found.append(window.energy_j(true_filler_w) / true_energy_j(loop, device) - 1)
    return found


def test_a_loop_that_beats_with_a_part_time_sensor_is_wrong_and_a_filler_of_varying_length_cures_it():
    assert statistics.pstdev(aliased(None)) > 0.05
    assert abs(statistics.mean(aliased(300.0))) < 0.02
    assert statistics.pstdev(aliased(300.0)) < 0.6 * statistics.pstdev(aliased(None))


def test_diluted_with_a_filler_a_layer_costs_the_same():
    found = []
    for seed in SEEDS:
        device = Device(seed=seed)
        work = SimulatedWorkload(device, CALL, 260.0)
        window = watch(work, Gauge(Counter(device), Board(device), device, Noise()), Policy(target_frac=0.005))
        filler_w = 260.0 + device.thermals.idle_hot_w + device.leak_w
        found.append(window.energy_j(filler_w) / true_energy_j(CALL, device) - 1)
        assert window.interval_frac(filler_w) > window.power.interval_frac
        assert window.time_s == pytest.approx(4e-4)
    assert abs(statistics.mean(found)) < 0.005


# --- the estimator alone


def test_a_step_lies_midway_between_the_reads_around_it_and_no_longer_ago_than_a_refresh():
    reads = iter([(1.0, 50.0), (1.02, 50.0), (1.04, 52.0), (1.2, 52.0), (1.4, 70.0)])

    played = SimpleNamespace(name="played", now=lambda: played.at_s, energy_j=lambda: played.joules)
    seen = Watch(played, played, 0.1, 0.0)
    for played.at_s, played.joules in reads:
        seen.read()
    assert [(x.energy_j, x.uncertainty_s) for x in seen.edges] == [(52.0, pytest.approx(0.02)), (70.0, pytest.approx(0.1))]
    assert [x.at_s for x in seen.edges] == pytest.approx([1.03, 1.35])


def edges(powers_w: list[float], step_s: float = 0.1, unsure_s: float = 0.0) -> list[Edge]:
    found = [Edge(0.0, 0.0, unsure_s)]
    for power_w in powers_w:
        found.append(Edge(found[-1].at_s + step_s, found[-1].energy_j + power_w * step_s, unsure_s))
    return found


def test_mean_power_of_even_steps():
    power = mean_power(edges([100.0, 101.0, 99.0, 100.0]), Noise(quantum_j=0.0))
    assert power.power_w == pytest.approx(100.0) and power.window_s == pytest.approx(0.4) and power.flags == ()
    assert power.step_powers_w == pytest.approx((100.0, 101.0, 99.0, 100.0))


def test_uncertain_instants_and_a_coarse_quantum_widen_the_interval():
    sharp = mean_power(edges([100.0] * 4), Noise(quantum_j=0.0)).interval_frac
    assert mean_power(edges([100.0] * 4, unsure_s=0.01), Noise(quantum_j=0.0)).interval_frac > 1.5 * sharp
    assert mean_power(edges([100.0] * 4), Noise(quantum_j=1.0)).interval_frac > 1.5 * sharp


def test_students_quantile():
    for degrees in (4, 8, 11, 20, 100):
        assert student95(degrees) == pytest.approx(stdtrit(degrees, 0.975), rel=3e-3)


# --- characterisation


def character(seed: int = 1, load: tuple[Segment, ...] = CALL, **sensor: float):
    rig = SimulatedRig(Device(Sensor(**sensor), seed))
    device = rig.device
    device.sleep(2.0)
    deep_w = idle_powers(rig.instrument, device)
    spin = SimulatedWorkload(device, [(4e-6, 10.0)])
    return characterise(Bench(rig.instrument, device, SimulatedWorkload(device, load), spin), deep_w)


def test_characterisation_finds_what_the_rig_was_given():
    meter, found = character(delay_s=0.08, read_cost_s=0.003, quantum_j=0.01)
    assert meter.name == "simulated-counter" and found.refused == ()
    assert found.meter.refresh_s == pytest.approx(0.1, rel=0.05)
    assert found.meter.read_cost_s == pytest.approx(0.003, rel=0.01)
    assert found.meter.delay_s == pytest.approx(0.08, abs=0.02)
    assert found.meter.quantum_j == pytest.approx(0.01)
    assert found.meter.ratio_to_power == pytest.approx(1.0, abs=0.01)
    assert found.idle_deep_w == pytest.approx(75.0, abs=2.0)
    assert found.idle_hot_w == pytest.approx(122.0, abs=5.0)
    assert found.idle_spinning_w == pytest.approx(132.0, abs=6.0)
    assert Policy().with_delay(found.meter.delay_s).settle_s == pytest.approx(0.15, abs=0.03)
    assert Policy().with_delay(0.3).settle_s == pytest.approx(0.35), "0.05 s after it publishes"
    assert Policy().with_delay(0.3).longest_s == pytest.approx(0.35 + 3.0 + 1.0)


def test_the_noise_of_a_quick_counter_is_that_of_one_step():
    """Stretches of five steps, 4 % above and below their mean: a step alone scatters sqrt(5) times as much."""
    found = _character("quick", edges(([96.001] * 5 + [104.0] * 5) * 2, step_s=0.02), 0.0, None)
    assert (found.refresh_s, found.quantum_j) == (pytest.approx(0.02), pytest.approx(20e-6))
    assert found.step_sd_frac == pytest.approx(0.04 * sqrt(4 / 3) * sqrt(5), rel=1e-3)


def test_a_device_whose_power_does_not_depend_on_the_load_has_no_delay():
    device = Device()
    steady = SimpleNamespace(name="steady", energy_j=lambda: 5.0 * (device.t // 0.1))
    bench = Bench(Instrument("steady", (steady,)), device, SimulatedWorkload(device, CALL))
    assert _delay(bench, steady) == 0.0


def test_a_reading_that_stands_still_while_idle_is_late_by_its_first_step_under_load():
    device = Device()

    def energy_j() -> float:
        """50 W from a quarter of a second after the load began, published ten times a second."""
        return 5.0 * max(0.0, (device.t - device.load_since - 0.15) // 0.1) if device.segments else 0.0

    meter = SimpleNamespace(name="asleep", energy_j=energy_j)
    bench = Bench(Instrument("asleep", (meter,)), device, SimulatedWorkload(device, CALL))
    assert _delay(bench, meter) == pytest.approx(0.25, abs=0.002)


@pytest.mark.parametrize("seed", range(5))
def test_a_square_wave_tells_part_time_sensors_from_full_time_ones(seed):
    assert character(seed)[1].meter.square_wave_spread_frac < 0.15
    assert character(seed)[1].meter.part_time is False
    assert character(seed, window_s=0.025)[1].meter.part_time is True
    assert character(seed, window_s=0.025)[1].to_json()["part_time"] is True
    assert character(seed, window_s=0.025)[1].meter.square_wave_spread_frac > 0.5


def test_a_counter_that_counts_all_the_time_needs_no_square_wave():
    found = character(period_s=0.005, window_s=0.005)[1].meter
    assert found.name == "simulated-counter" and found.refresh_s == pytest.approx(0.005, rel=0.1)
    assert found.square_wave_spread_frac is found.part_time is None


@pytest.mark.parametrize("gain", [1 / 6, 0.5, 0.95, 1.05])
def test_a_counter_that_contradicts_integrated_power_is_refused(gain):
    meter, found = character(gain=gain)
    assert meter.name == "nvml-power"
    assert "of the integrated instantaneous power, outside 0.97-1.03" in found.refused[0]


@pytest.mark.parametrize("gain", [0.98, 1.02])
def test_small_differences_are_let_through(gain):
    assert character(gain=gain)[0].name == "simulated-counter"


def test_with_no_source_to_trust_the_campaign_is_refused():
    rig = SimulatedRig(Device(Sensor(gain=0.5)))
    alone = Instrument("simulated", rig.instrument.meters[:1], rig.board, rig.instrument.power)
    bench = Bench(alone, rig.device, SimulatedWorkload(rig.device, CALL))
    with pytest.raises(MeterError, match=r"no energy source of this device can be trusted: simulated-counter: it reads 0\.\d+"):
        characterise(bench, {})


def test_a_stuck_counter_is_refused():
    device = Device(Sensor(period_s=1e9))
    bench = Bench(Instrument("simulated", (Counter(device),), Board(device)), device, SimulatedWorkload(device, CALL))
    with pytest.raises(MeterError, match="stuck"):
        characterise(bench, idle_powers(bench.instrument, device))


def test_a_source_without_a_counter_measures_as_well():
    """Instantaneous power at its refresh rate, integrated, is a meter like another."""
    device = Device(seed=2)
    work = SimulatedWorkload(device, CALL)
    meter = NvmlPower(lambda: device.read()[1], device)
    window = watch(work, Gauge(meter, Board(device), device, Noise()), Policy())
    assert window.energy_j() == pytest.approx(true_energy_j(CALL, device), rel=0.02)


def test_a_power_reading_that_stands_still_while_idle_is_no_reason_to_refuse_it():
    device = Device(Sensor(noise_frac=0.004), seed=1, thermals=Thermals(leak_w_per_k=0.0))

    def read_w() -> float:
        watts = device.read()[1]
        return 75.0 if watts < 130.0 else watts

    meter = NvmlPower(read_w, device)
    bench = Bench(Instrument("simulated", (meter,), Board(device)), device, SimulatedWorkload(device, CALL))
    chosen, found = characterise(bench, idle_powers(bench.instrument, device))
    assert chosen is meter and 0.0 <= found.meter.delay_s < 0.3 and found.idle_deep_w is None


# --- limits of a window


def test_a_policy_follows_its_rig():
    rig = SimulatedRig()
    assert Policy.of(rig, 0.01) == Policy(0.01)
    rig.modes = ("eager",)
    assert Policy.of(rig, 0.01) == Policy(0.01, poll_s=0.0)


@pytest.mark.parametrize(("factor", "flags"), [(0.94, ("clock_changed",)), (0.96, ()), (1.04, ()), (1.06, ("clock_changed",))])
def test_clocks_may_change_by_a_twentieth(factor, flags):
    device = Device()

    class Drifting(Board):
        def state(self):
            self.clock_hz *= factor
            return super().state()

    work = SimulatedWorkload(device, CALL)
    assert watch(work, Gauge(Counter(device), Drifting(device), device, Noise()), Policy()).flags == flags


@pytest.mark.parametrize(("call_s", "flags"), [(2.5e-7, ("no_kernel",)), (3.5e-7, ())])
def test_no_kernel_is_shorter_than_300_ns(call_s, flags):
    device = Device()
    gauge = Gauge(Counter(device), Board(device), device, Noise())
    assert watch(SimulatedWorkload(device, ((call_s, 120.0),)), gauge, Policy(), graph=True).flags == flags


def test_a_window_says_how_long_it_took_and_when_it_ended():
    device = Device()
    device.sleep(5.0)
    began_s = device.t
    window = watch(SimulatedWorkload(device, CALL), Gauge(Counter(device), Board(device), device, Noise()), Policy())
    assert window.ended_s == device.t and window.elapsed_s == pytest.approx(device.t - began_s)
    assert window.elapsed_s > Policy().settle_s + window.power.window_s


def test_a_window_is_never_shorter_than_it_may_be_nor_of_fewer_steps():
    easy = Policy(target_frac=10.0)
    assert measured(period_s=0.02, window_s=0.02, policy=easy)[0].power.window_s >= 0.35
    assert len(measured(policy=replace(easy, min_window_s=0.0))[0].power.step_powers_w) == 4


def test_steps_of_a_counter_that_counts_all_the_time_are_put_together():
    power = measured(period_s=0.002, window_s=0.002)[0].power
    assert power.window_s / len(power.step_powers_w) >= 0.019


def test_a_call_longer_than_the_longest_window_has_no_energy():
    window = measured(call=((20.0, 400.0),), policy=Policy(max_window_s=1.0))[0]
    assert window.power is None and window.flags == ("too_few_steps",)


def test_a_time_that_runs_backwards_is_no_share():
    window = measured()[0]
    seconds = window.power.window_s
    assert window.share(1.0, 1.0 + 0.25 * seconds) == pytest.approx(0.25)
    assert window.share(2.0, 1.0) == 0.0 and window.share(None, 1.0) is window.share(1.0, None) is None
