"""Splits that do not leak, baselines that are really fitted, scores that are what they say."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import draw_layers, models_script, needs_torchvision
from test_estimate import Block
from torch import nn

import wattlayer as wl
from wattlayer.errors import InputError
from wattlayer.evaluate import evaluate
from wattlayer.evaluate.baselines import BASELINES
from wattlayer.evaluate.scores import errors
from wattlayer.evaluate.splits import FOLDS, feasible, folds, layer_tasks, tasks_of, unseen_networks
from wattlayer.layer import Operand
from wattlayer.model import EnergyModel, load_model
from wattlayer.model.intervals import CLASSES
from wattlayer.model.launches import wait_s
from wattlayer.predict import trace_name
from wattlayer.report.outliers import WRITERS, outlier_tables, outliers, rows_file
from wattlayer.report.plots import accuracy_figure
from wattlayer.train import tell_launches
from wattlayer.train.calibration import calibrate
from wattlayer.train.networks import Tracer, traced_networks
from wattlayer.train.rows import merge
from wattlayer.train.transfer import from_data_sheet


def test_errors_are_hand_computed():
    measured, predicted = np.array([1.0, 2.0, 4.0, 10.0]), np.array([1.1, 1.0, 4.0, 20.0])
    found = errors(measured, predicted)
    assert found["mdape_frac"] == pytest.approx(np.median([0.1, 0.5, 0.0, 1.0]))
    assert found["p90_ape_frac"] == pytest.approx(np.quantile([0.1, 0.5, 0.0, 1.0], 0.9))
    assert found["signed_median_frac"] == pytest.approx(np.median([0.1, -0.5, 0.0, 1.0]))
    assert (found["spearman"], found["kendall"]) == (pytest.approx(0.8), pytest.approx(2 / 3))


@pytest.mark.parametrize("split", ["layer", "size", "family"])
def test_no_configuration_is_on_both_sides(device, layers, split):
    rows = [*device.measure(layers), *device.measure([x.with_tf32("none") for x in layers], run="no tf32")]
    families = {x.as_defined(): frozenset({"f" + str(i % 3)}) for i, x in enumerate(layers)}
    tested = 0
    for part in folds(split, rows, families, seed=0):
        inside, outside = ({m.layer.as_defined() for m in own} for own in (part.inside, part.outside))
        assert inside and outside and not inside & outside and len(part.inside) + len(part.outside) == len(rows)
        tested += 1
    assert tested == {"layer": FOLDS, "size": 1, "family": 3}[split]


def test_layer_folds_cover_every_row_once(device, layers):
    rows = device.measure(layers)
    assert Counter(m.layer for part in folds("layer", rows, None, 0) for m in part.outside) == Counter(layers)


def test_layers_that_share_a_reading_are_on_one_side(device, layers):
    rows = device.measure(layers)
    shared = [replace(m, time_s=1 / 3 + i % 5, energy_j=2 / 3 + i % 5) for i, m in enumerate(rows)]
    for part in folds("layer", shared, None, 0):
        inside, outside = ({(m.time_s, m.energy_j) for m in own} for own in (part.inside, part.outside))
        assert not inside & outside
    rounded = [replace(m, time_s=0.25, energy_j=0.5) for m in rows]
    parts = [{m.layer for m in part.outside} for part in folds("layer", rounded, None, 0)]
    assert parts == [{m.layer for m in part.outside} for part in folds("layer", rows, None, 0)], "equal by chance"


def test_size_leaves_out_the_largest(device, layers):
    rows = device.measure(layers)
    [part] = folds("size", rows, None, 0)
    assert min(m.layer.flop for m in part.outside) >= max(m.layer.flop for m in part.inside)


def test_sizes_are_judged_on_layers_below_the_largest_fifth(device, monkeypatch):
    """As models/check_sizes.py does: what the cards' split leaves out is neither learned from nor judged on."""
    monkeypatch.setitem(sys.modules, "build", models_script("build"))  # beside it, not PyPI's
    script = models_script("check_sizes")
    rows = device.measure(draw_layers(100))
    [part] = folds("size", rows, None, 0)
    largest = min(m.layer.flop for m in part.outside)
    for train, test in script.nested(rows):
        assert max(m.layer.flop for m in train) <= min(m.layer.flop for m in test)
        assert max(m.layer.flop for m in test) <= largest
        largest = min(m.layer.flop for m in test)
    rows, error, inside, plain = script.judge(train, test)
    model, measured = EnergyModel.train(train), np.array([m.energy_j for m in test])
    alike = replace(model.metadata.conformal, factors=(1.0,) * CLASSES)
    for share, asked in ((inside, model), (plain, replace(model, metadata=replace(model.metadata, conformal=alike)))):
        p = asked.predict([m.layer for m in test])
        assert rows == len(test) and error == pytest.approx(np.median(np.abs(p.energy_j / measured - 1)))
        assert share == np.mean((p.energy_low_j <= measured) & (measured <= p.energy_high_j))


def test_the_split_family_needs_families(device, layers, model):
    with pytest.raises(InputError, match="give layers that occur in networks of torchvision"):
        evaluate(model, device.measure(layers), splits=["family"])


@pytest.fixture(scope="module")
def larger(device, layers, model):
    return evaluate(model, device.measure(layers), splits=["size"])


def test_wattlayer_beats_every_trained_baseline_on_larger_layers(larger):
    ours = larger.find("size").mdape_frac
    for name in {*BASELINES, "constant power x time"} - {"TDP x roofline"}:
        assert ours < larger.find("size", name).mdape_frac, name


@pytest.mark.xfail(
    strict=True, reason="14.9 % and 10.0 %: the made-up device is a plain roofline, the scaffold reckons with tiles and waves"
)
def test_wattlayer_beats_every_baseline_on_larger_layers(larger):
    ours = larger.find("size").mdape_frac
    assert ours < larger.find("size", "TDP x roofline").mdape_frac
    assert ours < 0.12


def passes(layers, rows):
    """Graph and eager passes of four networks on a host that takes 0.2 s an operator."""
    found = []
    for number in range(4):
        own = layers[number * 15 : number * 15 + 15]
        trace = wl.trace(torch.nn.ReLU(), torch.empty(2, 3))
        trace = replace(trace, network=f"n{number}", layers=tuple(own), paths=("",) * len(own))
        kernels = [m for x in own for m in rows if m.layer == x]
        time_s, energy_j = sum(m.time_s for m in kernels), sum(m.energy_j for m in kernels)
        whole = replace(rows[0], layer=None, network=f"n{number}", input_shapes=((2, 3),), time_s=time_s, energy_j=energy_j)
        waited_s = float(wait_s(time_s, 0.2 * len(own)))
        eager = replace(whole, mode="eager", time_s=time_s + waited_s, energy_j=energy_j + waited_s * 30.0)
        found += [(replace(whole, mode="graph"), trace), (eager, trace)]
    return found


def test_a_model_is_told_of_launches_by_networks(device, layers, model):
    rows = device.measure(layers)
    told = tell_launches(model, passes(layers, rows), rows).launches
    assert told.idle_w == pytest.approx(30.0, rel=0.02)
    assert told.displaced_time_frac < 0.02 and told.displaced_energy_frac < 0.02  # what the model itself is off by
    assert set(told.host_s) == {"conv2d", "linear", "relu", "*"} and told.issue_s(layers) == pytest.approx(
        0.2 * len(layers), rel=0.1
    )
    assert told.basis == "measured"


def test_the_order_of_networks_and_rows_tells_nothing_else_of_launches(device, layers, model):
    rows = device.measure(layers)
    given = passes(layers, rows)
    in_order = tell_launches(model, given, rows).sha256
    for seed in range(3):
        random = np.random.default_rng(seed)
        networks, shuffled = ([x[i] for i in random.permutation(len(x))] for x in (given, rows))
        assert tell_launches(model, networks, shuffled).sha256 == in_order


def test_without_networks_the_host_is_that_of_measured_boards_or_in_every_layer(device, layers, model):
    rows = device.measure(layers)
    told = tell_launches(model, [], rows).launches
    assert told.basis == "carried over" and told.host_s == from_data_sheet(model.hardware).launches.host_s
    assert told.idle_w == wl.HARDWARE[model.hardware].idle_w and told.displaced_time_frac == 0
    assert tell_launches(model, [], [replace(m, mode="eager") for m in rows]) is model


@pytest.mark.slow
def test_a_network_unseen_is_judged_without_its_layers_and_without_its_passes(device, layers, model):
    """Each of four networks is told by the other three and by their layers."""
    rows = device.measure(layers[:80])
    scores = [x for x in evaluate(model, rows, passes(layers, rows), ["network"], baselines=False).scores if x.unit == "network"]
    assert [(x.split, x.subset, x.rows) for x in scores] == [
        ("network", "all", 8), ("network", "eager", 4), ("network", "graph", 4)
    ]  # fmt: skip
    assert 0 < scores[2].mdape_frac < 0.5  # its own layers are unseen
    assert scores[1].time_mdape_frac < 0.1  # the host decides, and the others told of it


def texts_and_images(layers, rows):
    """`passes`, two networks of them on token ids and two on images."""
    ids, image = Operand("ids", (2, 3), "int64"), Operand("image", (2, 3, 8, 8), "float32")
    told = {"n0": ids, "n1": ids, "n2": image, "n3": image}
    return [(m, replace(trace, inputs=(told[m.network],))) for m, trace in passes(layers, rows)]


@pytest.mark.parametrize(
    ("inputs", "tasks"),
    [
        ([("int64", (2, 9)), ("float32", (2, 9))], {"language"}),
        ([("float32", (2, 3, 8, 8))], {"vision"}),
        ([("float16", (2, 8, 3, 9, 9))], {"vision"}),
        ([("int64", (2, 9)), ("bfloat16", (2, 3, 8, 8))], {"language", "vision"}),
        ([("float32", (2, 4, 64, 64)), ("int64", (1,))], {"vision"}),  # a step of a denoising network is no token
        ([("uint8", (2, 3, 8, 8))], {"other"}),
        ([("float32", (2, 80, 3000))], {"other"}),
        ([], {"other"}),
    ],
)
def test_what_a_network_is_for_is_seen_from_its_inputs(inputs, tasks):
    traced = wl.trace(torch.nn.ReLU(), torch.empty(2, 3))
    assert tasks_of(replace(traced, inputs=tuple(Operand("x", shape, dtype) for dtype, shape in inputs))) == tasks


def test_a_task_is_told_by_what_occurs_in_networks_of_other_tasks_alone(device, layers):
    rows = device.measure(layers[:100])
    rows[99] = replace(rows[99], source="llm:some prefill")
    rows[98] = replace(rows[98], source="n3")
    networks = texts_and_images(layers, rows)
    text, image, loose = set(layers[:30]), set(layers[30:60]), {layers[98], layers[99]}
    assert not (text | image) & loose
    parts = {part.name: part for part in folds("task", rows, layer_tasks(rows, networks), 0)}
    assert {m.layer for m in parts["language"].outside} == {m.layer for m in parts["vision"].inside} == text | {layers[99]}
    assert {m.layer for m in parts["vision"].outside} == {m.layer for m in parts["language"].inside} == image | {layers[98]}
    whole = {part.name: part for part in unseen_networks("task", rows, networks)}
    for name, own in (("language", {"n0", "n1"}), ("vision", {"n2", "n3"})):
        assert (
            {m.network for m, _ in whole[name].passes}
            == own
            == {"n0", "n1", "n2", "n3"} - {m.network for m, _ in whole[name].known}
        )
        assert {m.layer for m in whole[name].rows} == {m.layer for m in parts[name].inside}


def test_what_occurs_in_both_tasks_is_told_of_neither(device, layers):
    rows = device.measure(layers[:60])
    networks = texts_and_images(layers, rows)
    both = layers[0]
    networks = [(m, replace(t, layers=(*t.layers, both), paths=(*t.paths, ""))) for m, t in networks]
    for part in folds("task", rows, layer_tasks(rows, networks), 0):
        assert both in {m.layer for m in part.outside} and both not in {m.layer for m in part.inside}


def test_splits_that_rows_do_not_allow_are_refused_and_not_feasible(device, layers):
    rows = device.measure(layers[:80])
    networks = passes(layers, rows)  # of floats without images: all of one task
    tasks = layer_tasks(rows, networks)
    with pytest.raises(InputError, match="two tasks: these are all of other; measure one of another"):
        list(unseen_networks("task", rows, networks))
    with pytest.raises(InputError, match="of the task other: leaving it out leaves none to train on; add others"):
        list(folds("task", rows, tasks, 0))
    with pytest.raises(InputError, match="needs measured networks"):
        list(unseen_networks("network", rows, []))
    with pytest.raises(InputError, match="task of at least 8 of these layers; give measured networks"):
        list(folds("task", rows, {}, 0))
    with pytest.raises(InputError, match="campaign of at least 8 of these layers; give rows of larger campaigns"):
        list(folds("campaign", rows[:5], None, 0))
    twice = [*rows, *device.measure(layers[:80], run="r2")]
    with pytest.raises(InputError, match="every layer of these rows is of the campaign r1"):
        list(folds("campaign", twice, None, 0))
    assert feasible("network", rows, None, networks) and not feasible("network", rows, None, [])
    assert not feasible("task", rows, tasks, networks) and not feasible("family", rows, None, networks)
    split = texts_and_images(layers, rows)
    assert feasible("task", rows, layer_tasks(rows, split), split)
    few = rows[:45]  # 15 of them images: too few to train on
    assert not feasible("task", few, layer_tasks(few, split), split)


@pytest.mark.slow
def test_networks_of_an_unseen_task_are_judged_beside_sums_of_the_baselines(device, layers, model):
    rows = device.measure(layers[:80])
    networks = texts_and_images(layers, rows)
    found = evaluate(model, rows, networks, ["task"])
    ours = [x for x in found.scores if x.unit == "network" and x.predictor == "wattlayer"]
    assert [(x.split, x.subset, x.rows) for x in ours] == [
        ("task", "all", 8), ("task", "eager", 4), ("task", "graph", 4)
    ]  # fmt: skip
    assert found.find("task").rows == 60
    (part,) = (x for x in unseen_networks("task", rows, networks) if x.name == "vision")
    train = merge(part.rows)
    graphs = [(m, trace) for m, trace in networks if m.mode == "graph"]
    for name, predict in BASELINES.items():
        score = found.find("task", name, "graph", "network")
        assert (score.rows, score.coverage_frac, score.time_mdape_frac) == (4, None, None)
        if name == "TDP x roofline":  # nothing is fitted: summed by hand
            sums = [predict(train, merge(device.measure(list(t.layers))), "a30").sum() for _, t in graphs]
            off = [abs(x / m.energy_j - 1) for x, (m, _) in zip(sums, graphs)]
            assert score.mdape_frac == pytest.approx(np.median(off))
    assert {x.predictor for x in found.scores if x.unit == "network"} == {"wattlayer", "constant power x time", *BASELINES}


def test_rows_a_model_was_trained_on_are_called_so(device, layers, model):
    rows = device.measure(layers)
    assert evaluate(model, rows).find("training rows").rows == len(rows)
    assert evaluate(model, rows[:-1]).find("given").rows == len(rows) - 1


def test_rows_may_come_one_by_one(device, layers, model):
    rows = device.measure(layers[:30])
    assert evaluate(model, iter(rows), iter([]), baselines=False).scores == evaluate(model, rows, baselines=False).scores


def test_the_noise_floor_comes_from_repeats_only(device, layers, model):
    once = device.measure(layers)
    assert evaluate(model, once).scores[0].noise_floor_frac is None
    twice = [*once, *(replace(m, energy_j=m.energy_j * 1.02) for m in once)]
    of_a_pair = 0.0198 / 2**0.5  # what parts the two is more than the scatter of either, by sqrt(2)
    assert evaluate(model, twice).scores[0].noise_floor_frac == pytest.approx(of_a_pair, abs=2e-4)


@pytest.mark.parametrize("repeats", [2, 3, 4, 9])
def test_the_noise_floor_is_that_of_one_measurement(device, layers, model, repeats):
    noisy = replace(device, noise_frac=0.05)
    rows = [m for seed in range(20 * repeats) for m in noisy.measure(layers, seed=seed, run=f"campaign {seed % 20}")]
    alone = 0.6745 * 0.05  # the median of what is normal lies at 0.6745 of its standard deviation
    assert evaluate(model, rows, baselines=False).scores[0].noise_floor_frac == pytest.approx(alone, rel=0.1)


def test_layers_that_all_carry_one_reading_are_refused(device, layers):
    rows = [replace(m, time_s=1 / 3, energy_j=2 / 3) for m in device.measure(layers)]
    with pytest.raises(InputError, match="two layers that do not carry one reading"):
        list(folds("layer", rows, None, 0))
    with pytest.raises(InputError, match="carry one reading: measure layers one by one"):
        EnergyModel.train(rows)
    with pytest.raises(InputError, match="carry one reading: measure layers one by one"):
        calibrate(load_model("rtx2080ti"), rows)
    two = [replace(m, time_s=1 / 3 + i % 2, energy_j=2 / 3 + i % 2) for i, m in enumerate(rows)]
    assert [len(part.outside) for part in folds("layer", two, None, 0)] == [len(rows) / 2] * 2, "no fold is empty"
    assert calibrate(load_model("rtx2080ti"), two).hardware == "a30"


def test_whole_networks_are_scored_on_their_sum(model, device):
    traced = wl.trace(Block().eval(), torch.empty(8, 3, 32, 32))
    truth = wl.estimate(traced, model)
    row = wl.Measurement("a30", truth.time_s, truth.energy_j * 1.1, network="block", input_shapes=((8, 3, 32, 32),))
    score = evaluate(model, [], [(row, traced)]).scores[0]
    assert (score.unit, score.rows) == ("network", 1)
    assert score.mdape_frac == pytest.approx(1 - 1 / 1.1)
    assert evaluate(model, [], [(replace(row, run="elsewhere"), traced)]).scores[0] == score, "in the reference board state"


def test_measured_networks_are_traced_by_their_names(model, tmp_path):
    path = tmp_path / "net.py"
    path.write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 8, 3)\n")
    row = wl.Measurement("a30", 1e-3, 0.1, network=f"{path}:make", input_shapes=((8, 3, 32, 32),), tf32="none")
    traced = wl.trace(nn.Conv2d(3, 8, 3), torch.empty(8, 3, 32, 32), tf32="none")
    assert evaluate(model, [], [row]).scores == evaluate(model, [], [(row, traced)]).scores
    path.write_text("raise SystemExit('run')\n")
    with pytest.raises(InputError, match="is Python code that measured rows name, and --no-run-code"):
        traced_networks([row], tracer=Tracer(run_code=False))
    with pytest.raises(InputError, match="none of the rows is of a30"):
        evaluate(model, [], [replace(row, hardware="gtx1070")])


def test_networks_are_traced_with_the_attention_that_was_measured():
    name = "torchvision:vit_b_16"
    row = wl.Measurement("a30", 1e-3, 0.1, network=name, input_shapes=((2, 3, 224, 224),))
    of = Tracer()
    fast, slow = (of(x) for x in (row, replace(row, mha_fastpath=False)))
    assert fast == of(replace(row, mha_fastpath=True)) == trace_name(name, batch=2)
    shapes = [next(x.inputs[0].shape for x in traced.layers if x.kind == "linear") for traced in (fast, slow)]
    assert shapes == [(2, 197, 768), (197, 2, 768)]
    assert wl.Measurement.from_json(replace(row, mha_fastpath=False).to_json()).mha_fastpath is False


def test_measured_and_assumed_energies_are_not_judged_together(device, layers, model):
    rows = device.measure(layers)
    mixed = [replace(m, meter="assumed-power" if i % 2 else "measured") for i, m in enumerate(rows)]
    for given in ((mixed, []), (rows, passes(layers, [replace(m, meter="assumed-power") for m in rows]))):
        with pytest.raises(InputError, match="measured and assumed-power rows are mixed: judge a model by one of them"):
            evaluate(model, *given)
    assumed = [replace(m, meter="assumed-power") for m in rows]
    assert evaluate(model, assumed).find("given").rows == len(rows)


def test_splits_are_checked_before_anything_is_trained(device, layers, model):
    rows = device.measure(layers)
    with pytest.raises(InputError, match="'bogus' is not one of given, layer"):
        evaluate(model, [], passes(layers, rows), ["given", "bogus"])
    for split in ("network", "task"):
        for measured, networks in ((rows, []), ([], passes(layers, rows))):
            with pytest.raises(InputError, match=f"'{split}' needs rows of layers and of whole networks"):
                evaluate(model, measured, networks, [split])


def test_foreign_rows_are_refused(device, layers, model):
    with pytest.raises(InputError, match="none of the rows is of a30"):
        evaluate(model, [replace(m, hardware="gtx1070") for m in device.measure(layers)])


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_answer_for_every_row_and_learn_from_the_training_rows(device, layers, name):
    train, test = merge(device.measure(layers[:100])), merge(device.measure(layers[100:]))
    answer = BASELINES[name](train, test, "a30")
    assert answer.shape == (50,) and np.isfinite(answer).all() and (answer > 0).all()
    doubled = replace(train, power_w=train.power_w * 2)
    ratio = np.median(BASELINES[name](doubled, test, "a30") / answer)
    assert ratio == pytest.approx(1.0 if name == "TDP x roofline" else 2.0, rel=0.05)


@needs_torchvision
@pytest.mark.slow
def test_unseen_families_of_the_a30_stay_within_what_the_card_promises(shared_data):
    from wattlayer.dataset.tables import read_table
    from wattlayer.evaluate.families import families_of

    rows = [m for m in read_table(shared_data / "heidelberg" / "layers.csv").measurements if m.hardware == "a30"]
    families = families_of(m.layer for m in rows)
    score = evaluate(wl.load_model("a30"), rows, splits=["family"], families=families, baselines=False).find("family")
    assert score.mdape_frac <= 0.10
    assert score.p90_ape_frac <= 0.40
    assert 0.87 <= score.coverage_frac <= 0.93


def test_a_figure_shows_every_split(model, device, layers, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    result = evaluate(model, device.measure(layers[:40]), splits=("given",))
    accuracy_figure(result, tmp_path / "accuracy.svg")
    drawn = (tmp_path / "accuracy.svg").read_text()
    assert drawn.count('id="axes_') == 3
    with pytest.raises(InputError, match="cannot be written"):
        accuracy_figure(result, tmp_path / "accuracy.xyz")
    with pytest.raises(InputError, match="nothing to plot"):
        accuracy_figure(replace(result, predicted=()), tmp_path / "accuracy.svg")


def test_scores_are_a_frame(device, layers, model):
    scored = evaluate(model, device.measure(layers), baselines=False)
    frame = scored.to_frame()
    assert len(frame) == len(scored.scores) and list(frame.columns) == list(scored.to_json()["scores"][0])


# --- the single rows


@pytest.fixture(scope="module")
def planted(device, layers, model):
    """Sixty layers, five of them measured again in their campaign and five in another, and four networks; of two layers the
    energy was written wrong, one of which was measured twice."""
    rows = [*device.measure(layers[:60]), *device.measure(layers[:5], seed=1), *device.measure(layers[5:10], seed=2, run="r2")]
    rows = [replace(m, place=("mine.csv", number)) for number, m in enumerate(rows, 2)]
    networks = passes(layers, device.measure(layers))
    for place, factor in ((3, 5.0), (20, 0.2)):
        rows[place] = replace(rows[place], energy_j=rows[place].energy_j * factor)
    return evaluate(model, rows, networks, ["given", "layer"], baselines=False)


def read(text: str | bytes, suffix: str, tmp_path) -> list[dict]:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        assert json.loads(table.schema.metadata[b"wattlayer"])["scores"]
        return table.to_pylist()
    if suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    numbers = {"energy_j", "time_s", "predicted_energy_j", "predicted_time_s", "predicted_low_j", "predicted_high_j", "ape_frac"}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: float(v) if k in numbers or (k == "noise_frac" and v) else v or None for k, v in row.items()}
        | {"inside": row["inside"] == "True"}
        for row in rows
    ]


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_scores_are_those_of_the_rows_in_the_file_to_the_last_digit(planted, suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    rows = read(rows_file(planted, tmp_path / f"rows{suffix}"), suffix, tmp_path)
    scores = planted.to_json()["scores"]
    assert {(s["unit"], s["split"]) for s in scores} == {("layer", "given"), ("layer", "layer"), ("network", "given")}
    for s in scores:
        own = [x for x in rows if (x["unit"], x["split"]) == (s["unit"], s["split"]) and s["subset"] in ("all", x["subset"])]
        assert len(own) == s["rows"]
        assert np.median([x["ape_frac"] for x in own]) == s["mdape_frac"]
        assert np.quantile([x["ape_frac"] for x in own], 0.9) == s["p90_ape_frac"]
        assert np.median([x["predicted_energy_j"] / x["energy_j"] - 1 for x in own]) == s["signed_median_frac"]
        assert np.mean([x["predicted_low_j"] <= x["energy_j"] <= x["predicted_high_j"] for x in own]) == s["coverage_frac"]
        assert np.mean([x["inside"] for x in own]) == s["coverage_frac"]
        assert np.median([abs(x["predicted_time_s"] / x["time_s"] - 1) for x in own]) == s["time_mdape_frac"]
        noise = [x["noise_frac"] for x in rows if x["split"] == s["split"] and x["noise_frac"] is not None]
        assert s["unit"] == "network" or np.median(noise) == s["noise_floor_frac"]


def test_a_row_says_which_it_is_and_without_what_it_was_judged(planted, layers):
    frame = planted.rows_to_frame()
    assert list(frame.columns) == list(planted.rows()[0]) and len(frame) == 70 * 2 + 8
    judged = frame[(frame["unit"] == "layer") & (frame["split"] == "layer")]
    assert sorted(judged["line"]) == list(range(2, 72)) and set(judged["file"]) == {"mine.csv"}
    assert set(judged["without"]) == {f"fold {n + 1} of {FOLDS}" for n in range(FOLDS)}
    row = next(x for x in planted.rows() if x["line"] == 2 and x["split"] == "layer")
    layer = layers[0]
    told = {"kind": layer.kind, "layer": layer.digest(), "flop": layer.flop, "run": "r1", "hardware": "a30", "network": None}
    assert told.items() <= row.items() and row["input_shapes"] == [list(x.shape) for x in layer.inputs]
    kinds = [x.kind for x in layers[:60]]
    assert 0 < row["kind_layers"] < kinds.count(layer.kind), "fewer than there are: its own fold is left out"
    whole = next(x for x in planted.predicted if x.unit == "network")
    assert (whole.without, whole.subset, whole.noise_frac) == (None, "graph", None) and whole.flop > 0


def test_only_repeats_in_one_campaign_tell_of_noise(planted):
    known = {x["line"] for x in planted.rows() if x["noise_frac"] is not None}
    assert known == {*range(2, 7), *range(62, 67)}


def test_planted_outliers_are_told_first_whether_too_large_or_too_small(planted):
    worst = outliers(planted, "layer")
    assert {x.measurement.place[1] for x in worst[:2]} == {5, 22} and {x.split for x in worst} == {"layer"}
    assert not any(x.inside for x in worst[:2])
    assert max(abs(x.ape_frac - 1) for x in worst if x.measurement.place[1] == 5) < 0.5, "a right answer errs by no more than 1"
    [table, whole] = outlier_tables(planted)
    cells = {c.header: list(c.cells) for c in table.columns}
    hints = dict(zip(cells["row"], cells["hint"]))
    assert hints["mine.csv, line 5"] == "its other readings are far from it: measure it again"
    assert hints["mine.csv, line 22"] == "measured once: check it, or measure it again"
    assert len(cells["row"]) == 5 and "network" in whole.title and "n0" in " ".join(whole.columns[1].cells)


def test_readings_of_one_layer_do_not_crowd_out_others(planted):
    rows = [x for x in planted.predicted if x.unit == "layer" and x.split == "layer"]
    bad = next(x for x in rows if x.measurement.place[1] == 22)
    readings = [
        replace(bad, measurement=replace(bad.measurement, energy_j=bad.measurement.energy_j / (2 + n), place=("again.csv", n)))
        for n in range(7)
    ]
    every = replace(planted, predicted=(*rows, *readings))
    worst = outliers(every, "layer")
    assert worst[0] is readings[-1] and len({x.measurement.layer for x in worst}) == 5
    assert worst[1].measurement.place == ("mine.csv", 5), "the other layer that was written wrong"
    more = outliers(every, "layer", count=len(rows) + 7)
    assert len(more) == len(rows) + 7 and more[60:62] == readings[5:3:-1], "further readings stand behind"


def test_what_a_model_could_not_know_is_said_of_a_row(planted):
    row = next(x for x in planted.predicted if x.measurement.place == ("mine.csv", 22) and x.split == "layer")

    def hint(**changes) -> str:
        [table] = outlier_tables(replace(planted, predicted=(replace(row, **changes),)))
        return next(iter(table.columns[-1].cells))

    assert hint(kind_layers=1) == "only 1 layer of its kind to learn from"
    assert hint(extrapolated_frac=1.0) == "far outside what was measured"
    assert hint(covered_frac=0.0, extrapolated_frac=1.0, kind_layers=0) == "its kind was not measured"
    assert hint(measurement=replace(row.measurement, flags=("thermal",))) == "marked thermal"
    assert hint(predicted_low_j=0.0, predicted_high_j=1e9) == ""


def test_a_wrong_time_counts_as_a_wrong_energy_does_and_rows_that_a_model_knew_are_shown_last(planted):
    rows = [x for x in planted.predicted if x.unit == "layer" and x.split == "layer"]
    right = [x for x in rows if x.measurement.place[1] in (10, 11, 12)]
    slow = replace(right[0], measurement=replace(right[0].measurement, time_s=100 * right[0].predicted_time_s))
    every = replace(planted, predicted=(*rows, slow))
    assert outliers(every, "layer")[0].measurement.place == slow.measurement.place
    family = tuple(replace(x, split="family") for x in right)
    known = tuple(x for x in planted.predicted if x.split == "given")
    assert {x.split for x in outliers(replace(planted, predicted=(*known, *family)), "layer")} == {"family"}


def test_a_reading_nearer_to_the_prediction_than_the_others_is_not_blamed_for_them(planted):
    row = next(x for x in planted.predicted if x.measurement.place == ("mine.csv", 5) and x.split == "layer")
    readings = [
        replace(row, predicted_energy_j=1e-3, measurement=replace(row.measurement, energy_j=j, flags=(), place=("mine.csv", i)))
        for i, j in enumerate((2e-3, 4e-3, 4e-3))
    ]
    [table] = outlier_tables(replace(planted, predicted=tuple(readings)))
    hints = dict(zip(*({c.header: list(c.cells) for c in table.columns}[x] for x in ("row", "hint"))))
    assert hints["mine.csv, line 0"].startswith("its other readings are farther off")
    assert hints["mine.csv, line 1"].startswith("its other readings agree")
