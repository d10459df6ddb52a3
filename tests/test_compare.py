"""Networks side by side: the same numbers as one by one, each traced once, and no ranking that intervals do not carry."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from conftest import models_script, needs_torchvision
from test_cli import network, one_line  # noqa: F401  (fixtures)
from torch import nn

import wattlayer as wl
from wattlayer.cli.output import rendered
from wattlayer.cli.whatif import batches
from wattlayer.dataset import read_measurements
from wattlayer.errors import InputError
from wattlayer.estimate import LAUNCH_BOUND, TOO_LARGE
from wattlayer.model import load_model
from wattlayer.report.compare import comparison_list, comparison_tables
from wattlayer.report.plots import comparison_figure
from wattlayer.report.quantities import small
from wattlayer.train.networks import traced_networks
from wattlayer.whatif import change
from wattlayer.whatif import subject as subject_module
from wattlayer.whatif.compare import Swap
from wattlayer.whatif.operating import operated
from wattlayer.whatif.subject import Subject

IMAGE = (torch.empty(2, 3, 32, 32, device="meta"),)


class Thin(nn.Sequential):
    """Few FLOP, many bytes: depthwise convolutions on large images."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 64, 1), *(nn.Conv2d(64, 64, 3, padding=1, groups=64) for _ in range(12)))


class Thick(nn.Sequential):
    """More FLOP in one dense convolution."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 512, 3, padding=1))


class Large(nn.Sequential):
    """More weights than a small board's memory holds."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(50_000, 40_000, bias=False))


class Huge(nn.Sequential):
    """The most of both, by far."""

    def __init__(self) -> None:
        super().__init__(*(nn.Conv2d(3 if i == 0 else 256, 256, 3, padding=1) for i in range(20)))


def subjects() -> list[Subject]:
    with torch.device("meta"):
        return [Subject(make().eval(), IMAGE) for make in (Thin, Thick, Huge)]


@pytest.fixture(scope="module")
def compared():
    return wl.compare(subjects(), ["a30", "rtx2080ti"], batch=[8, 2])


def test_rows_are_the_numbers_of_predict(compared):
    assert [(r.estimate.model.hardware, r.estimate.trace.batch, r.estimate.trace.network) for r in compared.rows] == [
        (device, n, name) for device in ("a30", "rtx2080ti") for n in (2, 8) for name in ("Thin", "Thick", "Huge")
    ]
    with torch.device("meta"):
        alone = wl.predict(Thick().eval(), torch.empty(8, 3, 32, 32, device="meta"), hardware="rtx2080ti")
    row = next(r.estimate for r in compared.rows[6:] if r.estimate.trace.batch == 8 and r.estimate.trace.network == "Thick")
    assert row.energy_j == pytest.approx(alone.energy_j, rel=1e-12)
    assert row.interval_j == pytest.approx(alone.interval_j, rel=1e-12)


def test_each_network_is_traced_once_per_batch_whatever_the_number_of_devices(monkeypatch):
    traced = []
    real = subject_module.trace_as
    monkeypatch.setattr(subject_module, "trace_as", lambda *a, **k: traced.append(1) or real(*a, **k))
    wl.compare(subjects(), ["a30", "rtx2080ti", "gtx1070"], batch=[1, 2])
    assert len(traced) == 3 * 2


def test_places_leave_open_what_overlapping_intervals_leave_open(compared):
    for place in range(0, len(compared.rows), 3):
        rivals = compared.rows[place : place + 3]
        assert sorted(r.by_energy for r in rivals) == [1, 2, 3]
        for row in rivals:
            low, high = row.estimate.interval_j
            others = [r.estimate for r in rivals if r is not row]
            assert row.first == 1 + sum(e.interval_j[1] < low for e in others)
            assert row.last == 3 - sum(e.interval_j[0] > high for e in others)
            assert row.first <= row.by_energy <= row.last
    assert {(r.first, r.last) for r in compared.rows if r.estimate.trace.network == "Huge"} == {(3, 3)}


def test_swaps_are_the_pairs_that_flop_order_otherwise(compared):
    rows = [r.estimate for r in compared.rows]
    expected = {
        (a.model.hardware, a.trace.batch, a.trace.network, b.trace.network)
        for a in rows
        for b in rows
        if (a.model.hardware, a.trace.batch) == (b.model.hardware, b.trace.batch)
        and a.trace.flop < b.trace.flop
        and a.energy_j > b.energy_j
    }
    found = [x.to_json() for x in compared.swaps]
    assert {(x["hardware"], x["batch"], x["fewer_flop"], x["less_energy"]) for x in found} == expected
    assert expected, "the networks were made to be ordered differently"
    for swap, record in zip(compared.swaps, found):
        apart = swap.fewer_flop.interval_j[0] > swap.less_energy.interval_j[1]
        assert record["intervals_overlap"] is not apart
        assert record["difference_low_j"] < record["difference_per_sample_j"] < record["difference_high_j"]
        gap = swap.fewer_flop.energy_per_sample_j - swap.less_energy.energy_per_sample_j
        assert record["difference_per_sample_j"] == pytest.approx(gap)


def test_a_pair_whose_intervals_overlap_is_called_uncertain(compared, capsys):
    from rich.console import Console

    for render in (comparison_tables, comparison_list):
        console = Console(width=300, record=True)
        for part in render(compared):
            console.print(part)
        text = console.export_text()
        assert text.count("not certain") == sum(x.overlap for x in compared.swaps)
        assert text.count("intervals are apart") == sum(not x.overlap for x in compared.swaps)


@needs_torchvision
def test_orders_of_measured_networks_are_judged_by_what_was_measured(capsys):
    """As models/check_pairs.py does."""
    script = models_script("check_pairs")
    names = tuple(f"torchvision:{x}" for x in ("convnext_tiny", "googlenet", "mnasnet1_0", "regnet_y_400mf"))
    rows = [m for path in script.ROWS.glob("*.jsonl") for m in read_measurements(path) if m.network in names]
    passes = [(m, t) for m, t in traced_networks(rows) if m.dtype == "float16" and (m.mode == "graph" or t.batch == 8)]
    assert list(script.groups(passes)) == [names], "each has a rival"
    every = script.pairs(passes, load_model("h200-sxm"))
    own = [x for x in every if x.of_one_network]
    assert len(own) == sum(m.network == n.network for (m, _), (n, _) in combinations(passes, 2)) and all(not x.alike for x in own)
    found = [x for x in every if not x.of_one_network]
    assert len(found) == 9 + 3, "five graphs, two of them of one network, and three eager passes"
    assert [x.alike for x in found].count(True) == 3 + 1 + 3
    per_sample_j = {(str(m.network), script.setting(m, t)): m.energy_j / t.batch for m, t in passes}
    for pair in found:
        low, high = sorted(per_sample_j[x] for x in pair.key)
        assert pair.close == (high < 1.5 * low)
        assert pair.certain or not pair.apart
    assert all(x.right for x in found if x.certain), "the model was trained on them"
    script.told(every)
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"one network, another batch, dtype or mode: {len(own)} pairs, ")
    assert first.startswith("one dtype, batch and mode: 7 pairs, ") and second.startswith("one mode, per sample: ")


def test_between_two_networks_fewer_errors_cancel_than_in_one_before_and_after(compared):
    """Layers that both run cancel, whatever the networks are called."""
    swap = next(x for x in compared.swaps if x.difference.change_j)
    before, after = swap.less_energy, swap.fewer_flop
    renamed = replace(after, trace=replace(after.trace, network=before.trace.network))
    (low, high), (low_of_one, high_of_one) = swap.difference.interval_j, change(before, renamed).interval_j
    assert change(before, after).interval_j == change(before, renamed, of_one_network=False).interval_j == (low, high)
    assert Swap(renamed, before).difference.interval_j == (low, high), "modules of one class are two networks to be compared"
    assert low < low_of_one < swap.difference.change_j < high_of_one < high
    same = replace(before, trace=replace(before.trace, network="another"))
    assert change(before, same).interval_j == (0.0, 0.0)


def test_networks_that_flop_order_alike_have_no_swaps():
    few = wl.compare(subjects()[1:], batch=[8])
    assert few.swaps == ()
    assert "order all networks alike" in str(comparison_tables(few))


def test_one_network_on_one_device_at_one_batch_needs_no_lists():
    one = wl.compare(subjects()[1], "a30", 4)
    assert [(r.estimate.trace.network, r.estimate.trace.batch, r.first, r.last, r.by_flop) for r in one.rows] == [
        ("Thick", 4, 1, 1, 1)
    ]
    assert "Thick" in str(one)


def test_inputs_may_be_dicts():
    class Named(nn.Linear):
        def forward(self, x):
            return super().forward(x["x"])

    with torch.device("meta"):
        dicts = Subject(Named(8, 8).eval(), ({"x": torch.empty(2, 8)},))
    assert len(wl.compare([dicts, *subjects()]).rows) == 4


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="network"):
        wl.compare([])
    with pytest.raises(InputError, match="device"):
        wl.compare(subjects(), [])


def test_batches_are_listed_or_ranged():
    assert batches("1,8,32") == (1, 8, 32)
    assert batches("1..4,8,4") == (1, 2, 4, 8)
    with pytest.raises(InputError, match="batch ''"):
        batches("1,,8")


# --- on the command line


@pytest.fixture
def two(network, tmp_path):  # noqa: F811
    path = tmp_path / "other.py"
    path.write_text("from torch import nn\ndef wide():\n    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU())\n")
    return network, f"{path}:wide"


def test_the_command_writes_json_and_csv_with_the_same_rows(run, two):
    arguments = ("compare", *two, "--hardware", "a30,gtx1070", "--batch", "1,4", "--input", "2x3x64x64")
    code, out, err = run(*arguments, "--format", "json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["schema"] == 1 and len(record["rows"]) == 8
    rows = list(csv.DictReader(io.StringIO(run(*arguments, "--format", "csv")[1])))
    assert [float(r["energy_j"]) for r in rows] == [r["energy_j"] for r in record["rows"]]
    for r in record["rows"]:
        assert r["energy_low_j"] < r["energy_j"] < r["energy_high_j"]
        assert r["energy_per_sample_j"] == pytest.approx(r["energy_j"] / r["batch"])


def test_the_table_shows_every_network_device_and_batch(run, two):
    code, out, _ = run("compare", *two, "--hardware", "a30", "--hardware", "gtx1070", "--batch", "1..4", "--image-size", "64")
    assert code == 0
    assert run("compare", *two, two[0], "--hardware", "a30,gtx1070,a30", "--batch", "1,2,4,2", "--image-size", "64")[1] == out
    assert re.search(r"energy a sample by batch\n.*\b1 +2 +4\n", out)
    assert out.count("gtx1070") >= 8 and "other.py:wide" in out and "90%" in out


def test_it_is_drawn_where_asked(run, two, tmp_path):
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "drawn.svg"
    code, _, err = run("compare", *two, "--input", "2x3x64x64", "--batch", "1,4", "--plot", drawn)
    assert (code, err) == (0, "")
    text = drawn.read_text()
    assert "<svg" in text and "FLOP per sample" in text and "other.py:wide on a30" in text
    one_line(run("compare", *two, "--input", "2x3x64x64", "--plot", tmp_path / "x.nonsense"), "x.nonsense")


def test_mistakes_end_in_one_line(run, two):
    one_line(run("compare", *two, "--hardware", "a31", "--input", "2x3x64x64"), "a31", "a30")
    one_line(run("compare", *two, "--batch", "0", "--input", "2x3x64x64"), "batch '0'")
    one_line(run("compare", *two, "--format", "html"), "html", "csv")
    one_line(run("compare"), "MODEL")
    one_line(run("compare", *two, "a30", "rtx2080ti"), "a30 is a device or a model", "--hardware a30,rtx2080ti")
    one_line(run("compare", *two, "--hardware", "a30", "nowhere/mine.json"), "nowhere/mine.json cannot be read")
    one_line(run("compare", "a30", "--hardware", "rtx2080ti"), "a30", "name a network")


def test_devices_are_written_with_commas_again_and_again_or_side_by_side(run, two):
    ways = (
        ["--hardware", "a30,rtx2080ti"],
        ["--hardware", "a30, rtx2080ti,", "--output", "-"],
        ["--hardware", "a30", "--hardware", "rtx2080ti"],
        ["--hardware", "a30", "rtx2080ti"],
    )
    found = [run("compare", *two, "--input", "2x3x64x64", *way, "--format", "json") for way in ways]
    assert found[0][0] == 0 and found[0] == found[1] == found[2] == found[3]


def test_a_comparison_shows_itself_in_a_notebook():
    html = wl.compare(["resnet18", "squeezenet1_1"])._repr_html_()
    assert html.startswith("<table") and html.count("<tr") == 3 and "torchvision:squeezenet1_1" in html


def test_rows_that_launches_as_measured_are_much_of_are_named():
    """Small convolutions on the A30, whose layers were launched one by one; nothing is said of large ones, nor on the H200."""
    thin, _, huge = subjects()
    compared = wl.compare([thin, huge], ["a30", "h200-sxm"], batch=[2, 512])
    fracs = {(r.estimate.trace.network, r.estimate.model.hardware, r.estimate.trace.batch): r for r in compared.rows}
    few = fracs["Thin", "a30", 2].estimate
    assert few.launch_bound_frac > 0.9 and fracs["Huge", "a30", 512].estimate.launch_bound_frac < 0.05
    assert [r.to_json()["launch_bound_frac"] for r in compared.rows] == [r.estimate.launch_bound_frac for r in compared.rows]
    bound = [r.estimate for r in compared.rows if r.estimate.launch_bound_frac >= 0.05]
    assert {e.model.hardware for e in bound} == {"a30"}
    said = "; ".join(f"{e.trace.network} on a30, batch {e.trace.batch}: {e.launch_bound_frac:.0%}" for e in bound)
    for render in (comparison_tables, comparison_list):
        assert str(render(compared)[-1]) == f"{LAUNCH_BOUND.format('a share')} ({said})"
    assert "launch" not in str(comparison_tables(wl.compare([thin, huge], "h200-sxm")))


def test_what_is_taken_for_granted_is_told_of_the_rows_that_it_concerns():
    """Of all on a device without names, of a network by its name, of some of its batches each by itself."""
    with torch.device("meta"):
        large, small = Large(), Subject(nn.Linear(8, 8), (torch.empty(1, 8),))
    large = Subject(large, (torch.empty(1, 50_000, device="meta"),))
    compared = wl.compare([large, small], ["jetson-nano", "h200-sxm"], batch=[1, 200])
    rows = [row.estimate for row in compared.rows]
    sizes = {e.trace.batch: e.trace.held_bytes / 1e9 for e in rows if e.trace.network == "Large"}
    too_large = {batch: TOO_LARGE.format(size, "jetson-nano", 4.0) for batch, size in sizes.items()}
    assert len(set(too_large.values())) == 2, "a batch of inputs shows in three digits"
    for render in (comparison_tables, comparison_list):
        told = [str(x) for x in render(compared) if "of memory" in str(x)]
        assert told == [f"Large on jetson-nano, batch {batch}: {text}" for batch, text in too_large.items()]
        one = [str(x) for x in render(wl.compare([large, small], "jetson-nano")) if "of memory" in str(x)]
        assert one == [f"Large: {too_large[1]}"]
        alone = [str(x) for x in render(wl.compare([large], ["jetson-nano", "h200-sxm"])) if "of memory" in str(x)]
        assert alone == [too_large[1]]
    told = [row.to_json()["assumptions"] for row in compared.rows]
    assert told == [list(e.assumptions) for e in rows] and sum(map(len, told)) > 2
    assert compared.to_frame()["assumptions"].tolist() == ["; ".join(x) for x in told]


def test_one_device_under_two_limits_is_two_in_tables_lists_and_figures(tmp_path):
    free, limited = (operated(load_model("a30"), limit_w) for limit_w in (None, 100))
    compared = wl.compare(subjects()[2:], [free, limited], batch=[2, 8])
    per_sample = [small(row.estimate.energy_per_sample_j, "J") for row in compared.rows]
    assert len(set(per_sample)) == 4
    for text in (rendered(*comparison_tables(compared)), rendered(*comparison_list(compared)), str(compared)):
        assert text.count("a30 limited to 100 W ") + text.count("a30 limited to 100 W,") >= 2
        assert limited.metadata.caveat in " ".join(text.split())
    by_batch = rendered(comparison_tables(compared)[1]).splitlines()[2:]
    assert [re.split(" {2,}", line)[1] for line in by_batch] == ["a30", "a30 limited to 100 W"]
    assert all(value in "".join(by_batch) for value in per_sample), "none takes the place of another"
    comparison_figure(compared, tmp_path / "it.svg")
    assert "Huge on a30 limited to 100 W" in (tmp_path / "it.svg").read_text()


def test_rows_say_which_kinds_were_never_measured_and_which_layers_lie_far_outside():
    with torch.device("meta"):
        celu, plain = (Subject(nn.Sequential(*x), IMAGE) for x in ((nn.Conv2d(3, 8, 3), nn.CELU()), (nn.Conv2d(3, 512, 3),)))
    compared = wl.compare([celu, plain], ["a30", "h100-pcie"])
    rows = [row.estimate for row in compared.rows]
    assert [row.to_json()["uncovered_kinds"] for row in compared.rows] == [e.uncovered_kinds() for e in rows]
    assert compared.to_frame()["uncovered_kinds"].tolist() == ["; ".join(e.uncovered_kinds()) for e in rows]
    far = "; ".join(f"{e.trace.network} on a30, batch 2: {e.extrapolated_frac:.0%}" for e in rows[:2] if e.extrapolated_frac)
    said = (
        rows[2].model.caveat, "kinds never measured on a30, priced by the scaffold: celu",
        "kinds never measured on h100-pcie, priced by the scaffold: conv2d, celu",
        f"a share of the energy is in layers far outside what was measured: wider intervals ({far})",
    )  # fmt: skip
    assert far and compared.minds[:4] == said
    for render in (comparison_tables, comparison_list):
        assert [str(x) for x in render(compared)][-len(compared.minds) :] == list(compared.minds)
    assert str(compared).splitlines()[-len(compared.minds) :] == list(compared.minds)
    assert all(f"<small>{text}</small>" in compared._repr_html_() for text in compared.minds)


def test_devices_without_a_rate_for_the_dtype_are_named():
    thin, *_ = subjects()
    half = replace(thin, setting=replace(thin.setting, dtype="bfloat16"))
    compared = wl.compare([half], ["rtx2080ti", "gtx1080ti", "h200-sxm"])
    for render in (comparison_tables, comparison_list):
        told = [str(x) for x in render(compared) if "no data sheet states" in str(x)]
        assert [x.partition(":")[0] for x in told] == [
            f"no data sheet states a rate of {device} in bfloat16" for device in ("rtx2080ti", "gtx1080ti")
        ]
