"""What measured rows tell: which of a campaign's rows are labels, and what passes cost beside their kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wattlayer.cli.data import measurements_of
from wattlayer.dataset import Measurement, write_measurements
from wattlayer.dataset.labels import labels, networks_of, operators_s
from wattlayer.layer import Layer, Operand
from wattlayer.model.launches import ASSUMED_HOST_S, Launches, Pass, _displaced_frac, fit_launches, wait_s


def layer(kind: str = "relu", size: int = 1024) -> Layer:
    x = Operand("self", (size,), "float16")
    return Layer(kind, (x,), (replace(x, name="output"),))


def row(**changed: object) -> Measurement:
    given = {"hardware": "h200-sxm", "time_s": 1e-5, "energy_j": 2e-3, "layer": layer(), "run": "c-0/1", "regime": "cold"}
    return Measurement(**(given | changed))


def whole(name: str, mode: str, time_s: float, energy_j: float) -> Measurement:
    return row(layer=None, network=name, mode=mode, time_s=time_s, energy_j=energy_j, input_shapes=((1, 3, 8, 8),))


def test_labels_are_cold_rows_in_graphs_with_drift_taken_out_and_sessions_joined():
    kept = row(run="c-0/2", energy_corrected_j=1.9e-3)
    waited = [row(flags=("no_kernel",)), row(flags=("ci_not_reached", "gpu_not_busy"))]
    rows = [kept, row(mode="eager"), row(regime="hot"), row(source="reference"), *waited]
    (label,) = labels(rows)
    assert (label.run, label.energy_j, label.layer) == ("c-0", 1.9e-3, kept.layer)


def test_where_nothing_ran_in_graphs_eager_rows_are_labels_and_other_tables_stay_as_they_are():
    eager = row(mode="eager", run="cpu-0/1")
    foreign = row(regime=None, run="somebody/1")
    assert [m.run for m in labels([eager, foreign])] == ["cpu-0", "somebody/1"]


def test_a_diluted_row_stands_for_one_that_ran_into_the_power_limit():
    rows = [row(), row(regime="diluted", energy_j=1.5e-3), row(layer=layer("gelu"))]
    assert [m.energy_j for m in labels(rows)] == [1.5e-3, 2e-3]
    waited = row(regime="diluted", energy_j=1.5e-3, flags=("gpu_not_busy",))
    assert [m.energy_j for m in labels([row(), waited])] == [2e-3], "unless the device waited"


def test_a_second_attempt_stands_for_the_one_that_was_spoilt():
    first, again = row(key="a", flags=("outlier_step",)), row(key="a", attempt=2, energy_j=2e-3)
    assert [m.energy_j for m in labels([first, again])] == [2e-3]
    spoilt = replace(again, flags=("outlier_step",))
    assert len(labels([first, spoilt])) == 2, "neither is better"
    waited = replace(again, flags=("gpu_not_busy",))
    assert len(labels([first, waited])) == 1, "what does not count itself stands for nothing"
    other = row(key="a", run="another/1", flags=("outlier_step",))
    assert len(labels([other, again])) == 2, "of another campaign"
    assert labels([row(flags=("foreign_process",))]) == [], "part of the energy is another's"


def test_a_graph_that_ran_other_operators_than_the_eager_pass_is_left_out():
    rows = [
        whole("same", "graph", 1e-3, 0.2), whole("same", "eager", 4e-3, 0.2 + 3e-3 * 120),
        whole("masked", "graph", 2e-3, 0.8), whole("masked", "eager", 4e-3, 0.8),  # nothing was burnt while it waited
        whole("slow", "graph", 9e-3, 6.0), whole("slow", "eager", 4e-3, 2.5),
        whole("other", "graph", 1e-3, 0.3), whole("other", "eager", 5e-3, 0.3 + 4e-3 * 130), whole("alone", "graph", 1e-3, 0.1),
    ]  # fmt: skip

    def kept(mode: str) -> set[str]:
        return {m.network for m in networks_of(rows) if m.mode == mode}

    assert kept("graph") == {"same", "other", "alone"}
    assert kept("eager") == {"same", "masked", "slow", "other"}
    for name, waiting_w in (("third", 120), ("fourth", 120), ("less", 50)):
        rows += [whole(name, "graph", 1e-3, 0.2), whole(name, "eager", 4e-3, 0.2 + 3e-3 * waiting_w)]
    assert kept("graph") == {"same", "other", "alone", "third", "fourth"}, "50 W is less than half of the usual 120"
    assert kept("eager") == {"same", "masked", "slow", "other", "third", "fourth", "less"}


def test_a_graph_that_the_device_waited_for_is_left_out_and_its_eager_pass_is_not():
    """Its time is that of whoever queues replays, which says nothing of layers."""
    waited = replace(whole("small", "graph", 2e-3, 0.4), flags=("gpu_not_busy",))
    again, eager = whole("again", "graph", 1e-3, 0.2), replace(whole("small", "eager", 4e-3, 0.6), flags=("gpu_not_busy",))
    rows = [waited, eager, replace(again, time_s=3e-3, flags=("gpu_not_busy",)), replace(again, attempt=2)]
    assert [(m.network, m.mode, m.attempt) for m in networks_of(rows)] == [("small", "eager", 1), ("again", "graph", 2)]


def test_rows_of_graphs_that_the_device_waited_for_are_counted_where_they_are_read(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    idle = row(flags=("gpu_not_busy",))
    write_measurements(path, [row(), idle, row(mode="eager", flags=("gpu_not_busy",))])
    assert len(measurements_of([path], skip_bad_rows=False)) == 3
    assert "left out 1 row of graphs that did not keep the device busy" in capsys.readouterr().err
    write_measurements(path, [row()])
    measurements_of([path], skip_bad_rows=False)
    assert capsys.readouterr().err == ""


def test_operators_are_told_by_eager_layers_that_their_kernels_do_not_explain():
    fast, slow = layer("relu", 8), layer("relu", 2**28)
    rows = [row(layer=fast, time_s=2e-6), row(layer=fast, mode="eager", time_s=9e-6)]
    rows += [row(layer=slow, time_s=1e-3), row(layer=slow, mode="eager", time_s=1.01e-3)]
    assert operators_s(rows) == {"relu": 9e-6}


def test_a_pass_takes_about_as_long_as_the_slower_of_device_and_host():
    assert wait_s(1e-3, 1e-5) == pytest.approx(0.0, abs=1e-8)
    assert wait_s(1e-3, 1e-2) == pytest.approx(9e-3, rel=1e-4)
    assert 1e-4 < wait_s(1e-3, 1e-3) < 1.5e-4


TRUE_S = {"relu": 8e-6, "gelu": 20e-6, "add": 12e-6}


def passes(idle_w: float = 120.0) -> list[Pass]:
    """Networks some of whose layers' time is spent on data that fit into the cache, which others displace."""
    random, found = np.random.default_rng(0), []
    for number in range(12):
        layers = [layer(kind) for kind, n in zip(TRUE_S, random.integers(5, 60, 3)) for _ in range(n)]
        device_s = 2e-6 * len(layers)
        cached_s = device_s * random.uniform(0.2, 0.8)
        graph_s, host_s = device_s + 0.1 * cached_s, sum(TRUE_S[x.kind] for x in layers)
        graph_j = 200 * (device_s + 0.15 * cached_s)
        waited_s = float(wait_s(graph_s, host_s))
        alone = (device_s, 200 * device_s, cached_s, 200 * cached_s)
        found += [Pass(str(number), "graph", layers, graph_s, graph_j, *alone)]
        found += [Pass(str(number), "eager", layers, graph_s + waited_s, graph_j + waited_s * idle_w, *alone)]
    return found


def test_launches_are_found_again_in_passes_made_of_them():
    told = fit_launches(passes(), {"relu": 4e-6, "gelu": 10e-6}, 70.0)
    assert (told.displaced_time_frac, told.displaced_energy_frac) == pytest.approx((0.1, 0.15), rel=1e-6)
    assert told.idle_w == pytest.approx(120.0, rel=0.01)
    assert {kind: told.host_s[kind] for kind in TRUE_S} == pytest.approx(TRUE_S, rel=0.1)
    assert "*" in told.host_s and 0 < told.spread_frac < 0.1 and told.basis == "measured"


def relus(times_s: list[float]) -> list[Pass]:
    """Eager passes of a hundred operators of one kind, which wait for the host."""
    return [Pass(str(i), "eager", [layer("relu")] * 100, t, 10.0, 0.01, 1.0, 0.0, 0.0) for i, t in enumerate(times_s)]


def drawn(shares: list[float]) -> float:
    """The factor of ridge regression on a kind of operators that starts at `shares` of each network's time: networks are 5 % off,
    the kind 30 %."""
    return (sum(shares) / 0.05**2 + 1 / 0.3**2) / (sum(x**2 for x in shares) / 0.05**2 + 1 / 0.3**2)


def test_a_host_is_as_unsure_as_it_was_on_networks_that_told_nothing_of_it():
    told = fit_launches(relus([1.0, 1.0, 4.0]), {}, 70.0)
    # of the third the first two say 1 s, of either of these the others start at 2.5 s, the median of 1 and 4
    late = [2.5 * drawn([2.5, 2.5 / 4]) - 1] * 2 + [4.0 / 1.0 - 1]
    assert told.spread_frac == pytest.approx(np.quantile(late, 0.9)) == pytest.approx(2.436, abs=1e-3)


def test_a_host_is_as_unsure_as_nine_networks_of_ten_say():
    told = fit_launches(relus([1.0] * 9 + [1.5] * 2), {}, 70.0)
    without_one_s = 1.0 * drawn([1.0] * 9 + [1 / 1.5])
    assert told.spread_frac == pytest.approx(1.5 / without_one_s - 1), "the tenth of eleven"


def busy(factor: float) -> list[Pass]:
    """Networks whose kernels keep the device busy, and whose eager pass costs `factor` times the graph."""
    alone = (1.0, 200.0, 0.0, 0.0)
    both = [("graph", 200.0), ("eager", factor * 200.0)]
    return [Pass(f"busy {i}", mode, [layer("relu")], 1.0, energy_j, *alone) for i in range(40) for mode, energy_j in both]


def test_what_changes_between_modes_beyond_gaps_is_told_by_networks_measured_in_both():
    alike, dearer, cheaper = (fit_launches([*passes(), *busy(x)], {}, 70.0).mode_spread_frac for x in (1.0, 1.1, 0.9))
    assert alike < 0.05 and dearer == pytest.approx(0.1 / 1.1, rel=0.01) and cheaper == pytest.approx(0.1, rel=0.01)
    graphs = [x for x in passes() if x.mode == "graph"]
    assert fit_launches(graphs, {}, 70.0).mode_spread_frac == Launches().mode_spread_frac, "nobody told"


def test_what_changes_between_modes_is_told_of_a_network_by_the_hosts_of_others():
    """The third network's kind is its own: the others give it 1 s of the host, and it takes 4."""
    found = []
    for i, (kind, host_s) in enumerate((("relu", 1.0), ("relu", 1.0), ("gelu", 4.0))):
        for mode, time_s, energy_j in (("graph", 0.1, 1.0), ("eager", host_s, 1.0 + 10.0 * host_s)):  # it waits at 10 W
            found.append(Pass(str(i), mode, [layer(kind)] * 100, time_s, energy_j, 0.0, 1.0, 0.0, 0.0))
    told = fit_launches(found, {}, 70.0)
    assert told.idle_w == pytest.approx(10.0)
    error_j, gaps_j = 10.0 * (4.0 - 1.0), 10.0 * 1.0 * told.spread_frac
    assert gaps_j < error_j
    assert told.mode_spread_frac == pytest.approx(np.sqrt(error_j**2 - gaps_j**2) / 41.0)


def test_what_displaced_data_cost_is_told_most_by_networks_that_keep_much_in_the_cache():
    """The first two keep about a tenth there of what they take, the third two thirds."""
    assert _displaced_frac([(1.0, 1.0, 0.1), (1.01, 1.0, 0.1), (1.5, 1.0, 1.0)]) == 0.5


def test_networks_that_keep_nothing_in_the_cache_tell_of_no_displaced_data():
    alone = [Pass(str(i), "graph", [layer("relu")], 1.2e-3, 0.3, 1e-3, 0.2, 0.0, 0.0) for i in range(4)]
    faster = [replace(x, time_s=5e-4, energy_j=0.1, cached_s=1e-3, cached_j=0.2) for x in alone]  # none is cheaper than alone
    for told in (fit_launches(alone, {}, 70.0), fit_launches(faster, {}, 70.0)):
        assert (told.displaced_time_frac, told.displaced_energy_frac) == (0.0, 0.0)


def test_an_interval_with_gaps_is_as_wide_as_both_are_unsure():
    assert Launches().interval_j(10.0, 0.0, 0.0, (0.0, 0.0)) == (10.0, 10.0)
    low, high = Launches().interval_j(10.0, 0.1, 4.0, (3.0, 6.0))
    assert 14 - low == pytest.approx(np.hypot(10 * (1 - np.exp(-0.1)), 1.0))
    assert high - 14 == pytest.approx(np.hypot(10 * (np.exp(0.1) - 1), 2.0))


def test_gaps_are_as_unsure_as_the_whole_of_the_hosts_time():
    device_s = np.array([1e-9, 2e-3, 9e-3])
    low, high = Launches(idle_w=100.0, spread_frac=0.2).gap_interval_j(device_s, 3e-3)
    gap = 100.0 * wait_s(device_s, 3e-3)
    assert [low[0], high[0]] == pytest.approx([gap[0] / 1.2, gap[0] * 1.2]), "all of the pass is the host's"
    assert high[1] - gap[1] == pytest.approx(0.2 * 3e-3 * 100.0, rel=0.1), "kernels shorten the gaps, not what the host is off by"
    assert low[1] == pytest.approx(100.0 * wait_s(2e-3, 2.5e-3)) and 0 < low[1] < 0.6 * gap[1]
    assert high[2] - low[2] < 0.01 * gap[0], "where the host waits its time does not count"
    low, high = Launches(idle_w=100.0, spread_frac=2.0).gap_interval_j(1e-9, 3e-3)
    assert (low, high) == pytest.approx((0.1, 0.9), rel=1e-5), "three times as slow, three times as fast"


def test_an_interval_holds_what_the_sum_of_layers_is_off_by():
    low, high = Launches(sum_spread_frac=0.2).interval_j(10.0, 0.0, 0.0, (0.0, 0.0))
    assert (low, high) == pytest.approx((10 / 1.2, 10 * 1.2))
    low, high = Launches(sum_spread_frac=0.2).interval_j(10.0, 0.1, 0.0, (0.0, 0.0))
    assert high == pytest.approx(10 * np.exp(np.hypot(0.1, np.log(1.2))))


def test_sums_are_as_unsure_as_they_were_on_networks_left_out():
    off = [1.0, 1.1, 0.9, 1.02, 0.98, 1.3]
    graph = [Pass(str(i), "graph", [layer()], 1e-3, 0.2 * x, 1e-3, 0.2, 0.0, 0.0) for i, x in enumerate(off)]
    assert fit_launches(graph, {}, 70.0).sum_spread_frac == pytest.approx(0.3), "six cannot tell a tenth: the largest"
    many = [replace(x, name=f"{x.name} {i}") for x in graph for i in range(5)]
    assert fit_launches(many, {}, 70.0).sum_spread_frac == pytest.approx(0.3), "rank 28 of 30"
    some = [x for x in many if x.energy_j < 0.25 or x.name == "5 0"]
    assert fit_launches(some, {}, 70.0).sum_spread_frac == pytest.approx(1 / 0.9 - 1), "rank 25 of 26, in either direction"
    for count, rank in ((30, 28), (26, 25)):
        each = [replace(graph[0], name=str(i), energy_j=0.2 * (1 + i / 100)) for i in range(1, count + 1)]
        assert fit_launches(each, {}, 70.0).sum_spread_frac == pytest.approx(rank / 100), f"rank {rank} of {count}"
    assert fit_launches(passes(), {}, 70.0).sum_spread_frac < 1e-6, "displaced data explain these"


def test_many_passes_of_few_networks_are_not_many_networks():
    graph = [Pass(str(i), "graph", [layer()], 1e-3, 0.2 * (1 + i / 100), 1e-3, 0.2, 0.0, 0.0) for i in range(1, 21)]
    assert fit_launches(graph, {}, 70.0).sum_spread_frac == pytest.approx(0.19), "rank 19 of 20"
    assert fit_launches(graph * 5, {}, 70.0).sum_spread_frac == pytest.approx(0.19), "each at five batches"
    few = fit_launches(graph[-15:] * 20, {}, 70.0)
    assert few.sum_spread_frac == pytest.approx(0.20), "rank 14.4 of 15"
    most = [*graph[:1] * 50, *graph[1:]]
    assert fit_launches(most, {}, 70.0).sum_spread_frac == pytest.approx(0.20), (
        "69 passes, most of one network, are 1.9 in effect"
    )
    two = [*passes(), *(replace(x, name=f"busy {i % 2}") for i, x in enumerate([*busy(1.1)] * 2))]
    only = fit_launches([x for x in two if x.name.startswith("busy") or x.mode == "eager"], {}, 70.0)
    assert only.basis == "measured" and only.mode_spread_frac == Launches().mode_spread_frac, "two networks in both modes"
    assert fit_launches(graph[:2] * 3, {}, 70.0) == Launches(idle_w=70.0), "two networks are not six"
    assert fit_launches(relus([1.0, 2.0]) * 3, {}, 70.0).basis == "assumed"
    both = [*passes(), *busy(1.0), *[replace(x, name=f"{x.name} dearer") for x in busy(1.1)]]
    again = [replace(x, name="busy 0") for x in busy(1.0)] * 10
    few, many = (fit_launches(x, {}, 70.0).mode_spread_frac for x in (both, [*both, *again]))
    assert few == pytest.approx(0.1 / 1.1, rel=0.01) and many == pytest.approx(few, rel=0.01)


def test_a_sum_is_judged_by_what_other_networks_say_of_displaced_data():
    """Data in the cache cost a tenth, a fifth and three fifths more: without the last they cost a tenth, with it a fifth."""
    graph = [Pass(str(i), "graph", [layer()], 1e-3, 1 + x, 1e-3, 1.0, 0.0, 1.0) for i, x in enumerate((0.1, 0.2, 0.6))]
    assert fit_launches(graph, {}, 70.0).sum_spread_frac == pytest.approx(1.6 / 1.1 - 1)


def test_what_layers_are_unsure_of_themselves_is_not_said_of_their_sum_again():
    def told(spread: float) -> float:
        graph = [
            Pass(str(i), "graph", [layer()], 1e-3, 0.2 * x, 1e-3, 0.2, 0.0, 0.0, spread) for i, x in enumerate([1.0] * 4 + [1.3])
        ]
        return fit_launches(graph, {}, 70.0).sum_spread_frac

    assert np.hypot(np.log1p(told(0.1)), np.log(1.1)) == pytest.approx(np.log(1.3)), "both together hold the network"
    assert told(0.31) == 0.0


@pytest.mark.parametrize("wrong", [{"host_s": {"relu": 1e-6}}, {"host_s": {"*": -1.0}}, {"sum_spread_frac": float("nan")}])
def test_launches_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="none of them below 0"):
        Launches(**wrong)


def test_launches_that_rest_on_nothing_known_are_refused():
    with pytest.raises(ValueError, match="'guessed' is none of measured, carried over, assumed"):
        Launches(basis="guessed")


def test_without_networks_launches_stay_assumed():
    told = fit_launches([], {}, 70.0)
    assert told == Launches(idle_w=70.0) and told.issue_s([layer()]) == ASSUMED_HOST_S
