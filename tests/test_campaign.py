"""Campaigns on the simulated rig: nothing is lost, doubled or torn, whatever kills them; drift is taken out; the plan is kept."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rig import Device, Sensor, SimulatedRig, SimulatedWorkload, Thermals, layer_segment

from wattlayer.dataset import Measurement, check_one_board, read_measurements
from wattlayer.dataset.labels import SPOILT_FLAGS
from wattlayer.errors import InputError, MeterError
from wattlayer.layer import Layer
from wattlayer.measure import campaign as campaign_module
from wattlayer.measure.campaign import Campaign
from wattlayer.measure.drift import correct_drift, repeatability
from wattlayer.measure.estimator import Noise
from wattlayer.measure.journal import Journal
from wattlayer.measure.plan import NetworkPlan, Plan, linear, make_queue, reference_layer
from wattlayer.measure.rig import DeviceLost, Item, NetworkCall
from wattlayer.measure.summary import Summary, Tick
from wattlayer.measure.window import Policy

MODES = ("graph", "eager")
CALL = NetworkCall("net:a", 1, "float16", "none")
FOREVER_S = 1e6


def layers(count: int = 24) -> list[Layer]:
    sizes = random.Random(5)
    return [linear(sizes.randint(1, 2048), 64 * sizes.randint(1, 64), 64 * sizes.randint(1, 64), "float16") for _ in range(count)]


def planned(count: int = 24, network: bool = False) -> Plan:
    """Some layers with their hidden repeats, eager and hot twins, references and, if asked for, a network of six of them."""
    stage = [Item(x, source="test") for x in layers(count)]
    whole = [Item(network=CALL, mode=mode) for mode in MODES] if network else []
    parts = NetworkPlan(CALL, {x.digest(): (2, 1 / 6) for x in layers(count)[:6]})
    queue = make_queue([stage, whole], 0, MODES, reference_layer("float16"))
    return Plan("2026-01-01-test", 0, queue, (parts,) if network else ())


def simulated(seed: int = 0, **options: object) -> SimulatedRig:
    return SimulatedRig(seed=seed, networks={CALL.name: layers()[:6] * 2}, **options)


def campaign(folder: Path, plan: Plan, rig: SimulatedRig | None = None, **options: object) -> Campaign:
    return Campaign(rig or simulated(), plan, Journal(folder / "rows.jsonl"), **{"warm_up_s": 0.5, **options})


def finished(folder: Path, plan: Plan, rig: SimulatedRig | None = None, minutes: float = FOREVER_S, **options: object) -> Summary:
    work = campaign(folder, plan, rig, **options)
    return work.run(work.rig.clock.now() + 60 * minutes)


def keys(path: Path) -> Counter[tuple[str, int]]:
    """Every attempt in a file with how often it is there; fails on a line that is no JSON."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return Counter((x["key"], x["attempt"]) for x in records if "key" in x)


def is_complete(path: Path, plan: Plan) -> bool:
    found = keys(path)
    return {(x.key, 1) for x in plan.items} <= set(found) and set(found.values()) == {1} and path.read_bytes().endswith(b"\n")


# --- what a campaign leaves behind


def test_a_campaign_measures_all_it_planned(tmp_path):
    plan, ticks = planned(network=True), list[Tick]()
    summary = finished(tmp_path, plan, progress=ticks.append)
    assert summary.stopped_by == "complete" and summary.done == summary.total == len(plan.items)
    assert is_complete(tmp_path / "rows.jsonl", plan)
    assert [tick.done for tick in ticks][-1] == len(plan.items) and ticks[-1].eta_s == 0.0
    assert ticks[0].eta_s > 5.0 and 0 < ticks[-1].interval_frac < 0.02
    rows = read_measurements(tmp_path / "rows.jsonl")
    assert {row.hardware for row in rows} == {"simulated"} and {row.meter for row in rows} == {"measured"}
    assert all(row.step_powers_w and row.interval_frac and row.window_s and row.energy_corrected_j for row in rows)
    assert sum(row.network == CALL.name for row in rows) == 2


def test_energies_are_right_within_their_intervals(tmp_path):
    rig = SimulatedRig(Device(thermals=Thermals(leak_w_per_k=0.0)))
    finished(tmp_path, planned(), rig)
    rows = [row for row in read_measurements(tmp_path / "rows.jsonl") if row.mode == "graph"]
    inside = []
    for row in rows:
        time_s, watts = layer_segment(row.layer)
        assert row.time_s == pytest.approx(time_s)
        inside.append(abs(row.energy_j / (time_s * (watts + 120.0)) - 1) < row.interval_frac)
    assert len(inside) > 25 and sum(inside) > 0.85 * len(inside)


def test_the_header_keeps_what_a_reader_needs(tmp_path):
    finished(tmp_path, planned(4))
    header = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert header["wattlayer_data"] == 1 and header["hardware"] == "simulated" and header["seed"] == 0
    character = header["character"]
    assert {"refresh_s", "quantum_j", "delay_s", "ratio_to_power", "square_wave_spread_frac"} <= set(character["meter"])
    assert character["idle_deep_w"] < character["idle_hot_w"] < character["idle_spinning_w"]
    assert header["reference"]["kind"] == "linear" and header["meter"]["label"] == "measured" and header["device"]


def test_hidden_repeats_give_the_repeatability(tmp_path):
    summary = finished(tmp_path, planned(40))
    repeats = [row for row in read_measurements(tmp_path / "rows.jsonl") if row.duplicate_of]
    assert len(repeats) == 4 == summary.repeatability.pairs
    assert 0 < summary.repeatability.sd_frac < 0.015
    assert "repeatability" in summary.describe()


@pytest.mark.parametrize(
    ("processes", "told"), [(None, ""), (0, ""), (1, ""), (2, "another compute process is"), (4, "3 other compute processes are")]
)
def test_others_that_are_on_the_device_from_the_start_are_told(tmp_path, processes, told):
    """One is the campaign's own; in a container the driver may show none."""
    rig, said = simulated(), list[str]()
    rig.board.processes = processes
    finished(tmp_path, planned(2), rig, say=said.append)
    assert len(said) == bool(told) and told in "".join(said)


def test_repeatability_is_the_spread_of_pairs():
    one = Measurement("simulated", 1.0, 1.0, linear(1, 8, 8, "float16"), key="a")
    pair = [one, replace(one, energy_j=1.02, key="a+1", duplicate_of="a")]
    assert repeatability(pair).sd_frac == pytest.approx(0.02 / 1.01 / 2**0.5)
    assert repeatability([one]) is None
    assert repeatability([replace(pair[0], flags=("outlier_step",)), pair[1]]) is None


def test_closure_and_launch_gaps_of_a_network(tmp_path):
    rig = simulated()
    (closure,) = finished(tmp_path, planned(network=True), rig).closures
    assert closure.covered_frac == pytest.approx(1.0) and 0.97 < closure.ratio < 1.03
    assert closure.gap_s == pytest.approx(12 * 6e-6, rel=0.01)
    assert closure.gap_j / closure.gap_s == pytest.approx(120, rel=0.2)  # hot idle
    assert "closure net:a" in str(closure)


def test_layers_that_do_not_run_are_kept_as_failures_and_not_tried_for_ever(tmp_path):
    plan = planned()
    bad = plan.items[3].digest
    summary = finished(tmp_path, plan, simulated(broken=frozenset([bad])))
    failures = [json.loads(x) for x in (tmp_path / "rows.jsonl").read_text().splitlines() if '"failed"' in x]
    assert summary.failed == len(failures) >= 1 and {x["failed"][0] for x in failures} == {"out_of_memory"}
    assert is_complete(tmp_path / "rows.jsonl", plan)
    assert all(row.layer.digest() != bad for row in read_measurements(tmp_path / "rows.jsonl"))


def test_a_capped_layer_is_measured_again_diluted(tmp_path):
    plan = planned()
    target = next(x for x in plan.items if x.source == "test" and x.regime == "cold" and x.mode == "graph" and not x.repeat)
    finished(tmp_path, plan, simulated(capped=frozenset([target.digest])))
    rows = {row.key: row for row in read_measurements(tmp_path / "rows.jsonl")}
    alone, diluted = rows[target.key], rows[replace(target, regime="diluted").key]
    assert "power_capped" in alone.flags and alone.capped_frac == pytest.approx(0.5, abs=0.01)
    assert diluted.regime == "diluted" and "power_capped" not in diluted.flags
    assert diluted.energy_j == pytest.approx(alone.energy_j, rel=0.05)  # the simulated device does not really cap


def test_a_passing_disturbance_is_retried_once_at_the_end(tmp_path):
    def burst(t: float) -> float:
        return 300.0 if 19.0 < t < 22.0 and (t * 10) % 3 < 1 else 0.0

    plan = planned()
    rig = SimulatedRig(Device(background=burst))
    finished(tmp_path, plan, rig)
    found = keys(tmp_path / "rows.jsonl")
    retried = [key for key, attempt in found if attempt == 2]
    first = {row.key: row for row in read_measurements(tmp_path / "rows.jsonl") if row.attempt == 1}
    again = {row.key: row for row in read_measurements(tmp_path / "rows.jsonl") if row.attempt == 2}
    assert retried and all(first[key].flags for key in retried)
    assert any(not row.flags for row in again.values())
    assert max(found.values()) == 1 and not any(attempt > 2 for _, attempt in found)


# --- stopping and going on


def test_a_deadline_stops_before_what_may_not_finish(tmp_path):
    plan, rig = planned(), simulated()
    work = campaign(tmp_path, plan, rig)
    summary = work.run(30.0)
    assert summary.stopped_by == "deadline" and 0 < summary.done < summary.total
    assert 20.0 < rig.clock.now() <= 30.0
    assert finished(tmp_path, plan).stopped_by == "complete"
    assert is_complete(tmp_path / "rows.jsonl", plan)


def test_too_little_time_for_anything_measures_nothing(tmp_path):
    summary = campaign(tmp_path, planned()).run(2.0)
    assert summary.done == 0 and not (tmp_path / "rows.jsonl").exists()


def test_sessions_are_numbered_and_share_one_file(tmp_path):
    plan = planned()
    for deadline_s in (30.0, 30.0, FOREVER_S):
        campaign(tmp_path, plan).run(deadline_s)
    runs = {row.run for row in read_measurements(tmp_path / "rows.jsonl")}
    assert runs == {f"{plan.run}/{number}" for number in (1, 2, 3)}
    assert len(Journal(tmp_path / "rows.jsonl").headers) == 3


def test_sigterm_ends_a_session_cleanly(tmp_path):
    plan = planned()

    def at_five(tick: Tick) -> None:
        if tick.done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    summary = finished(tmp_path, plan, progress=at_five)
    assert summary.stopped_by == "signal" and 5 <= summary.done <= 6
    assert signal.getsignal(signal.SIGTERM) is before
    assert finished(tmp_path, plan).stopped_by == "complete" and is_complete(tmp_path / "rows.jsonl", plan)


def test_a_lost_device_ends_the_session_and_the_next_leaves_its_layer_out(tmp_path):
    plan = planned()
    fatal = plan.items[8].key

    class Fatal(SimulatedRig):
        def prepare(self, item: Item):
            if item.key == fatal:
                raise DeviceLost("illegal memory access")
            return super().prepare(item)

    assert finished(tmp_path, plan, Fatal()).stopped_by == "device"
    assert finished(tmp_path, plan, Fatal()).stopped_by == "complete"
    assert Journal(tmp_path / "rows.jsonl").failures[fatal, 1] == ("device_lost",)
    assert is_complete(tmp_path / "rows.jsonl", plan)


def test_a_kernel_that_fails_while_it_runs_is_a_lost_device_and_a_row_of_its_own(tmp_path):
    plan = planned()
    fatal = plan.items[5].key

    class Failing(SimulatedRig):
        def prepare(self, item: Item):
            work = super().prepare(item)
            if item.key == fatal:
                work.keep_busy = lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: misaligned address"))
            return work

    assert finished(tmp_path, plan, Failing()).stopped_by == "device"
    assert finished(tmp_path, plan, Failing()).stopped_by == "complete"
    assert is_complete(tmp_path / "rows.jsonl", plan)


def test_a_rig_that_cannot_run_the_reference_is_refused(tmp_path):
    rig = simulated(broken=frozenset([reference_layer("float16").digest()]))
    with pytest.raises(MeterError, match=r"the reference layer does not run on simulated \(out_of_memory\)"):
        finished(tmp_path, planned(), rig)


def test_pauses_between_eager_calls_are_taken_off_at_hot_idle(tmp_path):
    """A host that reads the meter between rounds of calls leaves the device idle for a fifth of the time."""

    class Pausing(SimulatedWorkload):
        def progress(self):
            done = super().progress()
            return replace(done, filler_s=done.time_s * 0.2)

    class Rig(SimulatedRig):
        def prepare(self, item: Item):
            if item.mode != "eager":
                return super().prepare(item)
            time_s, watts = layer_segment(item.layer)
            return Pausing(self.device, [(0.8 * time_s, watts), (0.2 * time_s, 0.0)])

    finished(tmp_path, planned(), Rig(Device(thermals=Thermals(leak_w_per_k=0.0))))
    (row,) = [row for row in read_measurements(tmp_path / "rows.jsonl") if row.mode == "eager"]
    time_s, watts = layer_segment(row.layer)
    assert row.time_s == pytest.approx(0.8 * time_s)
    assert row.energy_j == pytest.approx(0.8 * time_s * (watts + 120.0), rel=0.02)


def test_a_meter_that_fails_for_good_ends_the_campaign_with_its_reason(tmp_path):
    def lost(reads: int, joules: float) -> float:
        if reads > 12_000:
            raise MeterError("the GPU fell off the bus")
        return joules

    with pytest.raises(MeterError, match="fell off the bus"):
        finished(tmp_path, planned(60), simulated(fault=lost))
    rows = Journal(tmp_path / "rows.jsonl")
    assert len(rows.failures) == 5 and rows.rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a finished campaign's file, before the last rewriting, and its plan."""
    folder, plan = tmp_path_factory.mktemp("whole"), planned(8)
    finished(folder, plan)
    return (folder / "rows.jsonl").read_bytes(), plan


def test_killed_at_100_random_moments_nothing_is_lost_doubled_or_torn(whole, tmp_path):
    """A kill -9 leaves the file cut at some byte; whatever the byte, resuming completes the same set of keys."""
    content, plan = whole
    moments = random.Random(1)
    for turn in range(100):
        path = tmp_path / str(turn) / "rows.jsonl"
        path.parent.mkdir()
        path.write_bytes(content[: moments.randrange(len(content) + 1)])
        survived = {json.loads(x).get("key") for x in path.read_bytes().split(b"\n")[:-1]}
        assert finished(path.parent, plan).stopped_by == "complete"
        assert is_complete(path, plan)
        assert survived <= {key for key, _ in keys(path)} | {None}


def test_killed_again_and_again_it_still_ends_complete(whole, tmp_path):
    _, plan = whole
    path, moments = tmp_path / "rows.jsonl", random.Random(2)
    for _ in range(6):
        campaign(tmp_path, plan).run(moments.uniform(18.0, 30.0))
        kept = path.read_bytes() if path.exists() else b""
        path.write_bytes(kept[: max(0, len(kept) - moments.randrange(2000))])
    assert finished(tmp_path, plan).stopped_by == "complete" and is_complete(path, plan)


KILLED = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from test_campaign import campaign, planned
campaign(Path({folder!r}), planned(12), progress=lambda tick: (print(tick.done, flush=True), time.sleep(0.02))).run(1e9)
"""


def test_kill_9_of_real_processes(tmp_path):
    plan, path = planned(12), tmp_path / "rows.jsonl"
    here = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    script = KILLED.format(path=here, folder=str(tmp_path))
    for until in (1, 3, 7):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if int(line) >= until:
                break
        time.sleep(0.005 * until)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    before = keys(path)
    assert len(before) >= 7
    assert finished(tmp_path, plan).stopped_by == "complete" and is_complete(path, plan)
    assert set(before) <= set(keys(path))


def test_a_damaged_line_in_the_middle_is_reported_not_repaired(whole, tmp_path):
    content, plan = whole
    lines = content.split(b"\n")
    lines[2] = lines[2][:40]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match="line 3 is damaged"):
        finished(tmp_path, plan)
    with pytest.raises(InputError, match="line 3"):
        read_measurements(tmp_path / "rows.jsonl")


def test_a_torn_last_line_is_read_past_and_any_other_is_not(whole, tmp_path):
    content, _ = whole
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    count = len(read_measurements(path))
    path.write_bytes(content[:-20])
    assert len(read_measurements(path)) == count - 1
    path.write_bytes(content[:-20] + b"\n")
    with pytest.raises(InputError, match="not JSON"):
        read_measurements(path)


# --- drift


def reference_spread(rows: list[Measurement], corrected: bool) -> float:
    repeats = [row for row in rows if row.layer == layers()[0] and row.mode == "graph" and row.regime == "cold"]
    energies = [(row.energy_corrected_j if corrected else row.energy_j) for row in repeats]
    assert len(energies) > 10
    return (max(energies) - min(energies)) / statistics.mean(energies)


def test_the_reference_takes_out_the_drift_of_a_cold_start(tmp_path):
    """One layer again and again while the device warms up: its own spread shrinks although the reference is another layer."""
    same = layers()[0]
    stage = [Item(same, source="test", repeat=turn) for turn in range(60)]
    queue = make_queue([stage], 0, ("graph",), reference_layer("float16"))
    thermals = Thermals(leak_w_per_k=5.0)
    rig = SimulatedRig(Device(seed=4, thermals=thermals))
    finished(tmp_path, Plan("drift", 0, queue), rig, warm_up_s=0.0)
    rows = read_measurements(tmp_path / "rows.jsonl")
    assert reference_spread(rows, corrected=False) > 0.06
    assert reference_spread(rows, corrected=True) < 0.5 * reference_spread(rows, corrected=False)


def test_drift_is_subtracted_as_watts():
    reference = linear(1, 8, 8, "float16")
    other = linear(2, 8, 8, "float16")
    turns = [
        Measurement("simulated", 1.0, watts, reference, run="r/1", source="reference", measured_at_s=t, key=f"reference+{t}")
        for t, watts in ((0.0, 110.0), (10.0, 100.0), (20.0, 90.0))
    ]
    row = Measurement("simulated", 2.0, 400.0, other, run="r/1", measured_at_s=5.0, key="x")
    assert correct_drift([*turns, row])[-1].energy_corrected_j == pytest.approx(400.0 - 5.0 * 2.0)
    assert correct_drift([*turns, replace(row, run="r/2")])[-1].energy_corrected_j is None  # no reference of its own run
    assert correct_drift([row]) == [row]
    with pytest.raises(InputError, match="cannot be joined"):
        correct_drift([row, replace(row, hardware="a30")])


def turn(t: float, watts: float, **changed: object) -> Measurement:
    reference = linear(1, 8, 8, "float16")
    told = Measurement(
        "simulated",
        1.0,
        watts,
        reference,
        run="r/1",
        source="reference",
        measured_at_s=t,
        key=f"reference+{t}",
        interval_frac=0.02,
    )
    return replace(told, **changed)


def small(t: float, **changed: object) -> Measurement:
    """A row of a layer that draws 130 W."""
    return replace(
        Measurement("simulated", 1.0, 130.0, linear(2, 8, 8, "float16"), run="r/1", measured_at_s=t, key="x"), **changed
    )


def test_what_turns_scatter_by_themselves_is_no_drift():
    """Turns of 400 W that are sure to 2 %, at 95 %, scatter by 4 W: subtracted from 130 W that would be 3 %."""
    noise = random.Random(0)
    turns = [turn(20.0 * i, 400.0 + noise.gauss(0.0, 4.0)) for i in range(30)]
    rows = correct_drift([*turns, small(100.0)])
    assert rows[-1].energy_corrected_j is None or abs(rows[-1].energy_corrected_j - 130.0) < 0.01 * 130.0
    ramp = [turn(20.0 * i, 380.0 + 2.0 * i + noise.gauss(0.0, 4.0)) for i in range(30)]
    early, late = correct_drift([*ramp, small(20.0), small(560.0)])[-2:]
    assert 130.0 + 15.0 < early.energy_corrected_j < 130.0 + 40.0 and 130.0 - 40.0 < late.energy_corrected_j < 130.0 - 15.0
    restless = [turn(20.0 * i, 400.0 + 5.0 * (i % 2)) for i in range(30)]
    # each turn's variance is 17 W², so that those of two explain steps of 25 W², and that of one does not
    assert correct_drift([*restless, small(100.0)])[-1].energy_corrected_j is None


def test_a_step_of_the_reference_is_drift_as_far_as_the_noise_of_two_turns_does_not_explain_it():
    early, late = correct_drift([turn(0.0, 400.0), turn(20.0, 420.0), small(0.0), small(20.0)])[-2:]
    noise_w2 = (0.02 * 400.0 / 1.96) ** 2 + (0.02 * 420.0 / 1.96) ** 2
    assert early.energy_corrected_j - late.energy_corrected_j == pytest.approx(20.0 * (1 - noise_w2 / 20.0**2))


def test_sessions_on_two_levels_are_joined_however_calm_each_is():
    """A board that was warmer in the second session by 30 W, of which every turn of the reference knows."""
    rows = [turn(20.0 * i, level, run=run) for run, level in (("r/1", 400.0), ("r/2", 430.0)) for i in range(5)]
    cold, warm = correct_drift([*rows, small(50.0), small(50.0, run="r/2", energy_j=160.0)])[-2:]
    assert cold.energy_corrected_j == pytest.approx(145.0) == warm.energy_corrected_j
    near = [turn(20.0 * i, level, run=run) for run, level in (("r/1", 400.0), ("r/2", 402.0)) for i in range(5)]
    assert all(row.energy_corrected_j is None for row in correct_drift([*near, small(50.0)]))


def test_flags_that_a_second_attempt_makes_up_for_are_those_that_are_tried_again():
    assert SPOILT_FLAGS <= campaign_module.RETRIED


def test_turns_that_were_disturbed_tell_nothing_and_no_row_is_left_without_energy():
    calm = [turn(20.0 * i, 400.0 + i) for i in range(10)]
    odd = turn(90.0, 1000.0, flags=("foreign_process",))
    assert correct_drift([*calm, odd, small(95.0)])[-1] == correct_drift([*calm, small(95.0)])[-1]
    ramp = [turn(20.0 * i, 380.0 + 8.0 * i) for i in range(10)]
    odd, want = turn(90.0, 450.0, flags=("foreign_process",)), correct_drift([*ramp, small(95.0)])[-1]
    assert want.energy_corrected_j is not None and correct_drift([*ramp, odd, small(95.0)])[-1] == want
    burst = [*calm[:5], turn(90.0, 1000.0), *calm[5:]]
    assert correct_drift([*burst, small(90.0)])[-1].energy_corrected_j is None, "130 W less 600 W is nothing"


def test_a_correction_that_is_no_longer_one_is_taken_back():
    rows = [turn(20.0 * i, 400.0) for i in range(5)]
    assert correct_drift([*rows, small(50.0, energy_corrected_j=125.0)])[-1].energy_corrected_j is None


def test_files_of_one_board_join_and_those_of_two_do_not(tmp_path, run):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    finished(tmp_path / "a", planned(6))
    finished(tmp_path / "b", planned(6), simulated(seed=1))
    paths = [tmp_path / "a" / "rows.jsonl", tmp_path / "b" / "rows.jsonl"]
    check_one_board(paths)
    paths[1].write_text(paths[1].read_text().replace('"board": "sim"', '"board": "other"'))
    with pytest.raises(InputError, match="come from 2 boards of simulated"):
        check_one_board(paths)
    for command in (["train"], ["calibrate", "a30"]):
        code, _, said = run(*command, *paths, "--output", tmp_path / "model.json")
        assert code == 2 and "come from 2 boards of simulated: take those of one board" in said
        assert not (tmp_path / "model.json").exists()
    check_one_board(paths, "another device")
    paths[1].write_text(paths[1].read_text().replace('"hardware": "simulated"', '"hardware": "second"'))
    check_one_board(paths)  # two devices have two boards


# --- the plan


def test_the_same_seed_gives_the_same_queue_and_another_one_another():
    stage = [Item(x) for x in layers()]
    queues = [make_queue([stage], seed, MODES, reference_layer("float16")) for seed in (0, 0, 1)]
    assert queues[0] == queues[1] != queues[2]
    assert {x.key for x in queues[0] if not x.repeat and x.regime == "cold" and x.mode == "graph"} == {x.key for x in stage}


def test_a_queue_has_its_controls_and_no_key_twice():
    stage = [Item(x) for x in layers(200)]
    queue = make_queue([stage], 0, MODES, reference_layer("float16"))
    assert len({x.key for x in queue}) == len(queue)
    assert [i for i, x in enumerate(queue) if x.is_reference] == list(range(0, len(queue), 21))
    distinct = len({x.digest for x in stage})
    assert sum(x.duplicate_of is not None for x in queue) == round(0.10 * distinct)
    assert sum(x.mode == "eager" for x in queue) == round(0.06 * distinct)
    assert sum(x.regime == "hot" for x in queue) == round(0.10 * distinct)


def test_a_plan_survives_its_file(tmp_path):
    plan = planned(network=True)
    plan.save(tmp_path / "a.plan.json")
    loaded = Plan.load(tmp_path / "a.plan.json")
    assert loaded.items == plan.items and loaded.run == plan.run
    assert loaded.networks[0].layers == {k: tuple(v) for k, v in plan.networks[0].layers.items()}
    (tmp_path / "b.plan.json").write_text("{}")
    with pytest.raises(InputError, match="is no plan"):
        Plan.load(tmp_path / "b.plan.json")


def test_rows_round_trip_with_every_field(tmp_path):
    finished(tmp_path, planned(4))
    for row in read_measurements(tmp_path / "rows.jsonl"):
        assert Measurement.from_json(json.loads(json.dumps(row.to_json()))) == row


BARE = """
import importlib.machinery as machinery, runpy, sys
class Bare(machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {missing} else super().find_spec(name, path, target)
sys.meta_path = [Bare if x is machinery.PathFinder else x for x in sys.meta_path]
runpy.run_module("wattlayer.measure", run_name="__main__")
"""
MISSING = ("sklearn", "xgboost", "joblib", "fvcore", "typer", "rich", "pandas", "platformdirs", "msgspec", "scipy", "iopath")
"""What wattlayer installs, but neither `data/campaign.sh` asks for nor torch brings along."""


def test_a_machine_with_torch_numpy_and_a_meter_can_measure(tmp_path):
    network = tmp_path / "small.py"
    network.write_text("from torch import nn\nnetwork = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 8))\n")
    options = ["--meter", "assumed-power", "--assumed-power-w", "50", "--device", "cpu", "--networks", f"{network}:network"]
    command = [sys.executable, "-c", BARE.format(missing=MISSING), "--output", str(tmp_path / "data"), *options, "--layers", "0"]
    done = subprocess.run(
        [*command, "--minutes", "1"], check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [m for path in (tmp_path / "data").glob("*.jsonl") for m in read_measurements(path)]
    assert rows and all(m.meter == "assumed-power" and m.time_s > 0 for m in rows)


def test_a_session_too_short_for_anything_says_how_long_it_takes(tmp_path):
    plan = planned(4)
    rig = simulated()
    campaign = Campaign(rig, plan, Journal(tmp_path / "rows.jsonl"), warm_up_s=1.0)
    short = campaign.run(rig.clock.now() + 12.0)
    assert short.stopped_by == "deadline" and short.done == 0 and short.needed_s > 12.0
    assert "nothing of the plan fitted into this session: give at least --minutes" in short.describe()
    rig = simulated()
    again = Campaign(rig, plan, Journal(tmp_path / "rows.jsonl"), warm_up_s=1.0)
    longer = again.run(rig.clock.now() + short.needed_s + 1.0)
    assert longer.done > 0 and longer.needed_s is None and "nothing of the plan" not in longer.describe()


def test_a_board_that_fails_before_anything_was_measured_ends_in_one_line(tmp_path, monkeypatch):
    for error in (RuntimeError("CUDA error: uncorrectable ECC error"), DeviceLost("CUDA error: uncorrectable ECC error")):

        def keep_busy(_, error=error):
            raise error

        monkeypatch.setattr(SimulatedWorkload, "keep_busy", keep_busy)
        with pytest.raises(MeterError, match=r"simulated failed before anything was measured \(CUDA error: uncorrectable ECC"):
            campaign(tmp_path, planned(4)).run(FOREVER_S)


def test_memory_that_runs_out_in_a_window_fails_the_layer_alone(tmp_path, monkeypatch):
    watched: list[object] = []

    def watch(workload, *rest, **options):
        watched.append(workload)
        if len(watched) == 5:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(workload, *rest, **options)

    real = campaign_module.watch
    monkeypatch.setattr(campaign_module, "watch", watch)
    summary = finished(tmp_path, planned(10))
    lines = [json.loads(x) for x in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [x["failed"] for x in lines if "failed" in x] == [["out_of_memory"]]
    assert summary.stopped_by == "complete"


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "rows.jsonl")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"rows\.jsonl cannot be written: No space left on device"):
        journal.begin({"hardware": "simulated"})


def test_a_session_that_a_deadline_ends_closes_with_the_reference(tmp_path):
    plan, rig = planned(40), simulated()
    summary = campaign(tmp_path, plan, rig).run(rig.clock.now() + 45.0)
    assert summary.stopped_by == "deadline" and 0 < summary.done < summary.total
    rows = read_measurements(tmp_path / "rows.jsonl")
    assert rows[0].source == rows[-1].source == "reference"
    assert summary.needed_s is None, "something was measured"


def test_a_complete_session_closes_with_the_reference(tmp_path):
    finished(tmp_path, planned(4))
    rows = read_measurements(tmp_path / "rows.jsonl")
    assert rows[0].source == rows[-1].source == "reference" and rows[0].key != rows[-1].key


def test_what_is_tried_again_and_what_is_measured_diluted(tmp_path):
    capped, spoilt, large = layers(3)
    alone, failed = Item(capped), Item(spoilt)
    others = (Item(capped, mode="eager"), Item(capped, regime="hot"), Item(capped, repeat=1))
    reference, full = Item(reference_layer("float16"), source="reference"), Item(large)
    journal = Journal(tmp_path / "rows.jsonl")
    journal.begin({"hardware": "simulated"})
    for item in (alone, *others, reference):
        flags = ("outlier_step",) if item is reference else ("power_capped",)
        journal.add(Measurement("simulated", 1.0, 1.0, item.layer, flags=flags, key=item.key))
    journal.fail((failed.key, 1), ("meter_error",), "no answer", failed.to_json())
    journal.fail((full.key, 1), ("out_of_memory",), "full", full.to_json())
    work = Campaign(simulated(), Plan("run", 0, (reference, alone, *others, failed, full)), journal)
    diluted = replace(alone, regime="diluted")
    assert list(work._pending()) == [(diluted, 1), (failed, 2)]
    journal.fail((diluted.key, 1), ("meter_error",), "no answer", diluted.to_json())
    journal.fail((failed.key, 2), ("meter_error",), "no answer", failed.to_json())
    assert list(work._pending()) == [], "once is enough"


def test_errors_of_the_meter_with_measurements_between_them_do_not_end_a_campaign(tmp_path, monkeypatch):
    watched: list[object] = []

    def watch(workload, *rest, **options):
        watched.append(workload)
        if len(watched) % 2 == 0:
            raise MeterError("no answer")
        return real(workload, *rest, **options)

    real = campaign_module.watch
    monkeypatch.setattr(campaign_module, "watch", watch)
    summary = finished(tmp_path, planned(12))
    assert summary.stopped_by == "complete" and summary.failed > 5


def test_noise_is_pooled_over_undisturbed_turns_of_the_reference(tmp_path):
    """Eight degrees of freedom of 1 %, and two turns of three each (four steps) whose variances are 4 and 7 in 10,000."""
    work = campaign(tmp_path, planned(4))
    work._known = Noise(sd_frac=0.01, weight=8)
    for variance, flags in ((4e-4, ()), (1.0, ("outlier_step",)), (7e-4, ())):
        work._learn(SimpleNamespace(power=SimpleNamespace(own_variance=variance), flags=flags))
    work._learn(SimpleNamespace(power=None, flags=("counter_stuck",)))
    assert work._noise.sd_frac**2 == pytest.approx((8 * 1e-4 + 3 * 4e-4 + 3 * 7e-4) / 14)


@pytest.mark.parametrize(
    ("item", "needed_s"), [(None, 7.15), (Item(layers()[0]), 7.15), (Item(network=CALL), 37.15)], ids=["none", "layer", "network"]
)
def test_a_measurement_is_begun_only_where_it_is_sure_to_end(tmp_path, item, needed_s):
    """0.15 s of settling, the longest window of 3 s, 1 s of patience and 3 s in reserve; a network builds for up to 30 s more."""
    work = campaign(tmp_path, planned(4), warm_up_s=5.0)
    work._began_s = work.rig.clock.now()
    for left_s, fits in ((needed_s + 0.1, True), (needed_s - 0.1, False)):
        work._deadline_s = work.rig.clock.now() + left_s
        assert work._fits(item) is fits
    assert work._needed_s == pytest.approx(5.0 + 60.0 + needed_s)
    work.rig.clock.sleep(80.0)
    work._warmed_s, work._deadline_s = 4.0, work.rig.clock.now()
    assert not work._fits(item)
    assert work._needed_s == pytest.approx(5.0 + (80.0 - 4.0) + needed_s), "of which this session took 76 s beside warming up"


@pytest.mark.parametrize(("session_s", "most_s"), [(80.0, 20.0), (50.0, 0.0)])
def test_a_short_session_warms_up_in_what_it_has_beyond_a_minute(tmp_path, session_s, most_s):
    """Asked for are 45 s, but the meter's character and the measurements come first."""
    rig = simulated()
    work = campaign(tmp_path, planned(40), rig, warm_up_s=45.0)
    summary = work.run(rig.clock.now() + session_s)
    assert most_s / 2 <= work._warmed_s <= most_s
    assert summary.done > 0


def test_a_session_that_was_set_up_quickly_is_still_told_to_keep_a_minute_for_it(tmp_path):
    """10 s beside 4 s of warming up are less than the 60 s that a session keeps; 7.15 s are what a layer may take."""
    work = campaign(tmp_path, planned(4), warm_up_s=5.0)
    work._began_s = work.rig.clock.now()
    work.rig.clock.sleep(14.0)
    work._warmed_s, work._deadline_s = 4.0, work.rig.clock.now()
    assert not work._fits(None)
    assert work._needed_s == pytest.approx(5.0 + 60.0 + 7.15)


class NotedRig(SimulatedRig):
    """Notes every item that it prepares."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.noted: list[Item] = []

    def prepare(self, item: Item):
        self.noted.append(item)
        return super().prepare(item)


LONG = linear(1 << 16, 4096, 4096, "float16")


def part_time() -> NotedRig:
    """A rig whose sensor sees a quarter of the time, on a device that is calm enough while idle for that to be found."""
    thermals = Thermals(idle_hot_w=20.0, idle_deep_w=10.0, leak_w_per_k=0.0)
    device = Device(Sensor(period_s=0.1, window_s=0.025), thermals=thermals)
    return NotedRig(device, networks={CALL.name: [LONG]})


def test_networks_on_a_part_time_sensor_are_diluted_with_one_filler_whose_energy_is_taken_off(tmp_path):
    rig = part_time()
    finished(tmp_path, planned(6, network=True), rig)
    rows = {row.mode: row for row in read_measurements(tmp_path / "rows.jsonl") if row.network == CALL.name}
    assert set(rows) == set(MODES) and {row.regime for row in rows.values()} == {"diluted"}
    assert {row.key for row in rows.values()} == {Item(network=CALL, mode=mode).key for mode in MODES}, "as they were planned"
    time_s, watts = layer_segment(LONG)
    assert rows["graph"].energy_j == pytest.approx(time_s * (watts + 20.0), rel=0.05)
    assert sum(x.source == "filler" for x in rig.noted) == 1, "of both networks"


def test_each_item_is_measured_as_well_as_its_regime_asks_and_polled_as_its_mode_does(tmp_path, monkeypatch):
    rig, seen = part_time(), set()

    def watch(workload, gauge, policy, **options):
        item = rig.noted[-1]
        seen.add((item.source == "filler", item.regime == "diluted", item.mode, round(policy.target_frac, 6), policy.poll_s))
        return real(workload, gauge, policy, **options)

    real = campaign_module.watch
    monkeypatch.setattr(campaign_module, "watch", watch)
    finished(tmp_path, planned(24, network=True), rig, policy=Policy(0.03, poll_s=0.002))
    assert seen == {
        (True, False, "graph", 0.005, 0.002), (False, False, "graph", 0.03, 0.002), (False, False, "eager", 0.03, 0.0),
        (False, True, "graph", 0.01, 0.002), (False, True, "eager", 0.01, 0.0),
    }  # fmt: skip
