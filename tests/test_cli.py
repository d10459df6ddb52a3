"""The command line as a person meets it: results on stdout, one line on stderr, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from conftest import needs_torchvision
from test_estimate import SCHEMA_1

from wattlayer.dataset import Measurement, read_measurements, write_measurements
from wattlayer.evaluate import evaluate
from wattlayer.features import FEATURES_VERSION
from wattlayer.model import EnergyModel, load_model
from wattlayer.report.card import model_card
from wattlayer.train import transfer
from wattlayer.train.calibration import calibrate

HEADER = "hardware,layer_repr,input_shape,dtype,tf32,time_s,energy_j\n"
ROW = 'a30,"Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))",8x3x32x32,float32,conv,1e-4,{energy}\n'


@pytest.fixture
def network(tmp_path):
    """A network in a Python file, so that the command line needs no library of networks."""
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n"
        "def small():\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.Mish(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))\n"
    )
    return f"{path}:small"


@needs_torchvision
def test_the_main_job_gives_schema_1_and_its_layers_sum_to_the_total(run):
    code, out, err = run("predict", "resnet50", "--hardware", "a30", "--batch", "32", "--format", "json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    jsonschema.validate(record, SCHEMA_1)
    total = record["total"]
    assert sum(x["energy_j"] for x in record["layers"]) + total["gap_energy_j"] == pytest.approx(total["energy_j"], rel=1e-9)
    assert (record["network"], record["batch"], len(record["layers"])) == ("torchvision:resnet50", 32, 174)


def test_a_table_names_the_total_the_layers_and_what_was_not_measured(run, network):
    code, out, _ = run("predict", network, "--hardware", "a30", "--input", "4x3x64x64")
    assert code == 0
    assert "batch 4 · input 4x3x64x64 · graph mode" in out
    for part in ("energy", "conv2d", "by module", "by kind", "never measured on a30", "mish"):
        assert part in out


def test_csv_has_one_line_per_layer(run, network):
    _, out, _ = run("predict", network, "--input", "4x3x64x64", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["kind"] for r in rows] == ["conv2d", "relu", "conv2d", "mish", "adaptive_avg_pool2d", "linear"]
    assert rows[0]["input_shapes"] == "4x3x64x64;16x3x3x3;16"
    assert all(float(r["energy_j"]) > 0 for r in rows)


def test_csv_of_a_layer_that_reads_nothing_has_an_empty_cell_of_shapes(run, tmp_path):
    path = tmp_path / "made.py"
    path.write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x + torch.rand(3, device=x.device)\ndef net():\n    return Net()\n"
    )
    rows = list(csv.DictReader(io.StringIO(run("predict", f"{path}:net", "--input", "2x3", "--format", "csv")[1])))
    assert [row["input_shapes"] for row in rows] == ["", "2x3;3"]


def test_what_a_pass_takes_for_granted_goes_to_stderr_beside_csv(run, network):
    words = ("predict", network, "--input", "4x3x64x64", "--hardware", "a30", "--format")
    assumptions = json.loads(run(*words, "json")[1])["assumptions"]
    assert any("launch" in text for text in assumptions)
    assert run(*words, "csv")[2].splitlines() == [f"wattlayer: {text}" for text in assumptions]


def test_csv_in_eager_mode_ends_with_the_gaps_and_sums_to_the_total(run, network):
    words = ("predict", network, "--input", "4x3x64x64", "--mode", "eager", "--format")
    rows = list(csv.DictReader(io.StringIO(run(*words, "csv")[1])))
    assert [r["kind"] for r in rows[-2:]] == ["linear", "(launch gaps)"]
    assert sum(float(r["energy_j"]) for r in rows) == pytest.approx(json.loads(run(*words, "json")[1])["total"]["energy_j"])
    table = run(*words, "table")[1]
    assert table.count("(launch gaps)") == 2  # by module and by kind


def test_the_result_goes_to_a_file_when_asked(run, network, tmp_path):
    path = tmp_path / "result.json"
    code, out, _ = run("predict", network, "--input", "4x3x64x64", "--format", "json", "--output", path)
    assert (code, out) == (0, "")
    assert json.loads(path.read_text())["batch"] == 4


def test_a_budget_decides_the_exit_code(run, network):
    assert run("predict", network, "--input", "4x3x64x64", "--budget-j", "1000")[0] == 0
    code, out, err = run("predict", network, "--input", "4x3x64x64", "--budget-j", "1e-9")
    assert code == 1
    assert "over the budget" in err and "conv2d" in out


def test_strict_refuses_kinds_never_measured(run, network):
    code, out, err = run("predict", network, "--input", "4x3x64x64", "--strict")
    assert (code, out) == (2, "")
    assert "mish" in err


def test_trace_needs_no_model(run, network):
    code, out, _ = run("trace", network, "--input", "4x3x64x64", "--format", "json")
    assert code == 0
    assert json.loads(out)["layers"][0]["flop"] == 2 * 4 * 62 * 62 * 16 * 27


def test_flops_are_checked_against_fvcore(run, network):
    code, _, err = run("predict", network, "--input", "4x3x64x64", "--check-flops")
    assert code == 0
    assert "fvcore" in err


def test_tables_are_imported_trained_on_and_evaluated(run, tmp_path, device, layers):
    from wattlayer import write_measurements

    data, model = tmp_path / "data.jsonl", tmp_path / "mine.json"
    write_measurements(data, device.measure(layers))
    assert run("train", data, "--output", model)[0] == 0
    code, out, err = run("evaluate", model, "--layers", data, "--split", "given", "--split", "size", "--format", "json")
    assert (code, err) == (0, "")
    splits = {(s["split"], s["predictor"]) for s in json.loads(out)["scores"]}
    assert {("training rows", "wattlayer"), ("size", "wattlayer"), ("size", "XGBoost, raw shapes"), ("size", "FLOP")} <= splits


def test_rows_are_written_beside_the_errors_and_the_farthest_are_shown(run, tmp_path, device, layers):
    data, rows = tmp_path / "data.jsonl", tmp_path / "rows.jsonl"
    measured = device.measure(layers[:30])
    odd = measured[8]
    write_measurements(data, [*measured[:8], replace(odd, time_s=odd.time_s / 20, energy_j=odd.energy_j / 20), *measured[9:]])
    common = ("evaluate", "a30", "--layers", data, "--split", "given")
    plain = run(*common)
    assert run(*common, "--rows", rows) == plain and plain[0] == 0
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(x["file"], x["line"]) for x in found] == [(str(data), n) for n in range(2, 32)]
    lines = plain[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("farthest off in the split given (layer)"))
    assert lines[start + 1].split()[0] == "row" and len(lines) == start + 7
    assert lines[start + 2].startswith("data.jsonl, line 10 ")
    for path, named in (
        (tmp_path / "rows.xlsx", ".jsonl, .csv, .parquet"), (tmp_path / "rows", "name it so"), (data, "is a file that is read"),
    ):  # fmt: skip
        one_line(run(*common, "--rows", path), str(path), named)
    one_line(run(*common, "--rows", tmp_path / "a.csv", "--output", tmp_path / "a.csv", "--format", "table"), "another result")
    one_line(run("evaluate", "a30", "--layers", data, "--split", "hardware", "--rows", rows), "alone")
    assert run(*common, "--rows", rows, "--format", "json")[1].startswith('{"schema": 1') and "farthest" not in rows.read_text()


def test_a_card_is_written_for_a_model_of_ones_own(run, tmp_path, device, layers):
    """It tells the errors of the split, what the files say of their meter, and where the model stops to be known."""
    data, model, card = tmp_path / "data.jsonl", tmp_path / "mine.json", tmp_path / "mine.md"
    header = {
        "meter": {"name": "Board 7", "label": "measured", "power_limit_w": 165.0, "driver": "1.2"},
        "character": {"meter": {"name": "nvml-counter"}}, "device": {"torch": "2.13.0"},
    }  # fmt: skip
    rows = [replace(m, flags=("outlier_step",) * (n < 3)) for n, m in enumerate(device.measure(layers[:40]))]
    write_measurements(data, rows, header)
    assert run("train", data, "--output", model, "--source", "my own\nboard")[0] == 0
    common = ("evaluate", model, "--layers", data, "--no-baselines", "--format", "json")
    code, out, err = run(*common, "--split", "given", "--split", "size", "--card", card)
    text, told = card.read_text(), json.loads(out)
    assert (code, err) == (0, "") and text.startswith("# mine: NVIDIA A30") and f"`{told['model']['sha256'][:16]}…`" in text
    assert "measurements**: my own board\n" in text
    assert "Meter**: Board 7, by nvml-counter, measured, power limit 165 W, driver 1.2, torch 2.13.0\n" in text
    assert "Every split except the first retrains" in text and "No split above" not in text and "### Whole networks" not in text
    for s in told["scores"]:
        shown = f"{s['split']} | {'**wattlayer**' if s['subset'] == 'all' else s['subset']} | {s['rows']} |"
        figures = f"| {s['mdape_frac']:.1%} | {s['p90_ape_frac']:.1%} | {s['signed_median_frac']:+.1%} |"
        found = [line for line in text.splitlines() if line.startswith(f"| {shown}") and figures in line]
        assert len(found) == (s["subset"] == "all" or s["split"] == "size")
    assert "\n- Judged on 40 rows of layers (float32 (40)) and 0 passes of networks, of data.jsonl.\n" in text
    assert "\n- No whole network was judged" in text and "\n- 3 of the judged rows were marked" in text
    for path, named in ((model, "does not end in .md"), (data, "does not end in .md"), (tmp_path, "directory")):
        one_line(run(*common, "--card", path), str(path), named)
    one_line(run(*common, "--card", card, "--plot", tmp_path / "a.svg", "--output", card), str(card), "another result")
    one_line(run("evaluate", "a30", "--layers", data, "--split", "hardware", "--card", card), "alone")
    assert card.read_text() == text, "nothing is lost to what is refused"


@pytest.fixture(scope="module")
def judged(tmp_path_factory, device, layers):
    """A model, the folder of two files of one name, and their rows, that it was not trained on."""
    model, folder = EnergyModel.train(device.measure(layers[:30]), name="mine", source="mine"), tmp_path_factory.mktemp("rows")
    files = [folder / name / "rows.jsonl" for name in ("a", "b")]
    for file, own in zip(files, (layers[30:60], layers[60:90])):
        file.parent.mkdir()
        write_measurements(file, device.measure(own), {"meter": {"name": "Board 7", "power_limit_w": "165"}})
    return model, folder, [m for file in files for m in read_measurements(file)]


def test_a_card_names_the_meter_of_rows_that_the_model_did_not_learn_from_as_theirs(judged):
    """And files of one name by their paths, and rows of no file; a limit that is no number is left out."""
    model, folder, rows = judged
    text = model_card(model, evaluate(model, rows, splits=["given"], baselines=False))
    assert "Meter**: not stated: the model was not trained on exactly the rows judged here\n" in text
    assert "\n- Meter of the judged rows: Board 7.\n" in text
    assert f"of {folder / 'a' / 'rows.jsonl'}, {folder / 'b' / 'rows.jsonl'}.\n" in text
    mixed = [*rows[:5], *(replace(m, place=None) for m in rows[5:9])]
    assert ", of rows.jsonl, memory.\n" in model_card(model, evaluate(model, mixed, splits=["given"], baselines=False))


def test_which_splits_of_a_card_train_anew_does_not_hang_on_their_order(judged):
    model, _, rows = judged
    found = evaluate(model, rows, splits=["given"], baselines=False)
    left_out = [replace(s, split="layer") for s in found.scores]
    last = model_card(model, replace(found, scores=(*left_out, *found.scores)))
    assert "Every split except `given` retrains" in last and "Every split retrains" not in last
    assert "Every split except the first retrains" in model_card(model, replace(found, scores=(*found.scores, *left_out)))
    assert "Every split retrains" in model_card(model, replace(found, scores=tuple(left_out)))


def test_a_card_says_that_other_splits_judge_other_models_than_a_calibrated_one(judged, layers, device):
    model, _, rows = judged
    found = evaluate(model, rows, splits=["given"], baselines=False)
    found = replace(found, scores=(*found.scores, *(replace(s, split="layer") for s in found.scores)))
    told = "`given` alone judges it, every other split models trained anew on the judged rows."
    assert told not in model_card(model, found)
    adapted = calibrate(model, device.measure(layers[90:120]))
    assert f"- The model is calibrated: {told}\n" in model_card(adapted, found)
    sheet = model_card(load_model("h100-sxm"), found)
    assert f"- The model is made from a data sheet: {told}\n" in sheet and "Launched" not in sheet and "digest" not in sheet
    assert "- **Meter**: none: nothing was measured on this device\n" in sheet
    assert "- **Rows**: none of this device; every kind gets the scaffold's cost" in sheet


def test_text_of_files_is_no_markup_in_a_card(judged):
    """Neither a heading, nor HTML, nor a link, nor another cell."""
    model, _, rows = judged
    evil = "x\n## Hacked <script>alert(1)</script> [a](http://b) | `c"
    hostile = replace(model, metadata=replace(model.metadata, name=evil, source=evil, runs=(evil,), run_power_shift=(0.0,)))
    marked = [replace(m, flags=(evil,), place=(f"{n % 2}{evil}", n)) for n, m in enumerate(rows)]
    text = model_card(hostile, evaluate(model, marked, splits=["given"], baselines=False))
    assert not any(line.startswith("## Hacked") for line in text.splitlines())
    bare = re.sub(r"`[^`\n]*`", "", text.replace("\\`", ""))
    assert "<script" not in bare and not re.search(r"(?<!\\)\[a(?<!\\)\]\(", bare.partition("\n")[2])


def test_a_card_of_networks_alone_says_nothing_of_layers(judged, layers):
    model, _, rows = judged
    found = evaluate(model, rows, splits=["given"], baselines=False)
    networks = tuple(replace(s, unit="network", subset="graph") for s in found.scores if s.subset == "all")
    text = model_card(model, replace(found, scores=networks))
    assert "No layer was judged." in text and "error of a layer's energy" not in text and "### By group" not in text
    told = text.partition("### Whole networks")[2]
    assert "For `given` nothing was left out." in told
    assert not [x for x in ("For `network`", "For `task`", "Baselines") if x in told]


def test_what_is_judged_by_name_and_code_that_rows_name_are_not_overwritten(run, tmp_path, home, network, judged):
    model, folder, _ = judged
    (home / "models").mkdir(parents=True)
    own, rows, code = home / "models" / "mine.json", folder / "a" / "rows.jsonl", tmp_path / "net.py"
    model.save(own)
    before = own.read_bytes(), code.read_bytes()
    common = ("evaluate", "mine", "--split", "given", "--no-baselines", "--format", "json")
    one_line(run(*common, "--layers", rows, "--output", own), str(own), "is a file that is read")
    passes = tmp_path / "passes.jsonl"
    write_measurements(passes, [Measurement("a30", 0.01, 1.0, network=network, input_shapes=((1, 3, 32, 32),))])
    one_line(run(*common, "--networks", passes, "--output", code), str(code), "is a file that is read")
    assert before == (own.read_bytes(), code.read_bytes())


def test_a_configuration_is_not_overwritten(run, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 100}
    (tmp_path / "llama").mkdir()
    for path, name in ((tmp_path / "llama.json", "llama.json"), (tmp_path / "llama" / "config.json", "llama")):
        path.write_text(json.dumps({"model_type": "llama", **sizes}))
        before = path.read_bytes()
        for command in (("report", "--prefill", "3"), ("predict",), ("compare",)):
            found = run(command[0], f"hf:{tmp_path / name}", *command[1:], "--output", path, "--format", "json")
            one_line(found, str(path), "is a file that is read")
        assert path.read_bytes() == before


@needs_torchvision
def test_a_result_may_be_called_as_the_network_of_a_library_is(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time the file is there
        assert run("predict", "torchvision:alexnet", "--output", "alexnet", "--format", "json") == (0, "", "")


def test_a_card_says_what_its_figures_cannot_tell(run, tmp_path, device, layers):
    table, model, card = tmp_path / "data.jsonl", tmp_path / "mine.json", tmp_path / "mine.md"
    write_measurements(table, [replace(m, meter="assumed-power") for m in device.measure(layers[:30])])
    assert run("train", table, "--output", model)[0] == 0
    assert run("evaluate", model, "--layers", table, "--split", "given", "--no-baselines", "--card", card)[0] == 0
    text = card.read_text()
    for line in (
        "- **Source of the measurements**: not stated (`wattlayer train --source` keeps it)",
        "- **Meter**: not stated in the files of the rows",
        "- No split above leaves rows out: what is unlike the rows that the model learned from is predicted worse.",
        "- Energies of the judged rows: assumed-power (30). Only measured ones are ground truth.",
    ):
        assert line in text.splitlines()
    assert "Nothing was left out." in text and "It rests on: energies are measured times a stated power" in text
    assert "| training rows | conv |" in text, "groups are told where nothing else is"


def test_few_layers_are_asked_what_they_allow(run, tmp_path, device, layers):
    """Twenty layers train a model; a fifth less does not."""
    data, model = tmp_path / "data.jsonl", tmp_path / "mine.json"
    write_measurements(data, device.measure(layers[:20]))
    assert run("train", data, "--output", model)[0] == 0
    code, out, err = run("evaluate", model, "--layers", data, "--format", "json")
    assert (code, err) == (0, "") and {s["split"] for s in json.loads(out)["scores"]} == {"training rows"}


def test_what_judges_other_models_says_so(run, tmp_path, device, layers):
    data = tmp_path / "data.jsonl"
    write_measurements(data, [replace(m, hardware="rtx3090") for m in device.measure(layers[:40])])
    code, _, err = run("evaluate", "rtx3090", "--layers", data, "--split", "given", "--split", "layer", "--no-baselines")
    assert (code, err) == (0, "rtx3090 is data sheet: 'given' alone judges it, every other split trains anew on these rows\n")
    assert run("evaluate", "rtx3090", "--layers", data, "--split", "given")[2] == ""


def test_import_writes_all_rows_or_nothing(run, tmp_path):
    table, output = tmp_path / "table.csv", tmp_path / "out.jsonl"
    table.write_text(HEADER + ROW.format(energy="0.01") + ROW.format(energy="-1"))
    code, out, err = run("import", table, "--output", output)
    assert (code, out) == (2, "")
    assert "line 3" in err and "-1" in err and "--skip-bad-rows" in err
    assert not output.exists()
    code, out, err = run("import", table, "--output", output, "--skip-bad-rows")
    assert code == 0
    assert "1 measurements" in out and "skipped 1 bad row\n" in err and "line 3: energy_j '-1'" in err
    for name in ("other.json", "other.JSONL"):  # which no command would take for a dataset
        other = tmp_path / name
        one_line(
            run("import", table, "--output", other, "--skip-bad-rows"), "not end in .jsonl", f"write {tmp_path / 'other.jsonl'}"
        )
        assert not other.exists()


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (HEADER.replace(",energy_j", "") + "a30,x,1x1,float32,conv,1\n", "energy_j"),
        (HEADER + ROW.format(energy="nan"), "nan"),
        (HEADER + ROW.format(energy="-3"), "-3"),
        (HEADER + ROW.format(energy="abc"), "abc"),
        (HEADER + ROW.format(energy="1").replace("a30", "a31"), "a31"),
        (HEADER + ROW.format(energy="1").replace("Conv2d(3", "Conv2d(__import__('os').getcwd()"), "not a literal"),
        (HEADER + ROW.format(energy="1").replace("8x3x32x32", "8x3x32"), "8x3x32"),
        ("", "column"),
    ],
)
def test_bad_tables_end_in_one_line(run, tmp_path, table, named):
    path, output = tmp_path / "bad.csv", tmp_path / "out.jsonl"
    path.write_text(table)
    one_line(run("import", path, "--output", output), named if named != "8x3x32" else "Conv2d")
    assert not output.exists()


def one_line(result: tuple[int, str, str], *named: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("wattlayer: ") and err.count("\n") == 1 and "Traceback" not in err
    for value in named:
        assert value in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch", "0"], ["batch 0", "at least 1"]),
        (["--batch", "99999999999999999999"], ["batch 99999999999999999999", "at most"]),
        (["--input", "99999999999999999999999x3x64x64"], ["99999999999999999999999x3x64x64", "elements"]),
        (["--input", "8x3x64x64", "--image-size", "32"], ["8x3x64x64", "leave image-size out"]),
        (["--input", "8x3x64x64", "--batch", "4"], ["8x3x64x64", "leave batch 4 out"]),
        (["--hardware", "a31"], ["a31", "a30"]),
        (["--hardware", "nowhere.json"], ["nowhere.json", "cannot be read"]),
        (["--dtype", "float31"], ["float31"]),
        (["--top", "0"], ["top 0"]),
        (["--budget-j", "-1"], ["budget-j -1"]),
        (["--input", "8xax3"], ["8xax3", "8x3x224x224"]),
        (["--input", "8x3x64"], ["8x3x64"]),
        (["--nonsense"], ["--nonsense"]),
        (["--output", "/nowhere/at/all"], ["/nowhere/at/all"]),
        (["--image-size", "1000000000"], ["image-size 1000000000", "elements"]),
    ],
)
def test_bad_options_end_in_one_line(run, network, arguments, named):
    defaults = [] if {"--input", "--image-size"} & set(arguments) else ["--input", "4x3x64x64"]
    if arguments[0] == "--batch":
        defaults = ["--image-size", "64"]
    one_line(run("predict", network, *defaults, *arguments), *named)


def test_where_a_result_cannot_go_is_told_before_the_work(run, tmp_path):
    nowhere, told = tmp_path / "none" / "x", f"{tmp_path}/none/x cannot be written: No such file"
    for option in ("--output", "--junit"):
        one_line(run("predict", tmp_path / "no-network.json", option, nowhere, "--budget-j", "1"), told)
    one_line(run("import", tmp_path / "no-table.csv", "--output", nowhere), told)
    (tmp_path / "file").write_text("")
    one_line(run("predict", tmp_path / "no-network.json", "--output", tmp_path / "file" / "x"), "file/x cannot be written: Not a")
    for words in (("train", "none.jsonl"), ("calibrate", "a30", "none.jsonl")):
        one_line(run(*words, "--output", nowhere), told)
    for words in (("evaluate", "none.json"), ("compare", "none")):
        one_line(run(*words, "--plot", nowhere), told)
    one_line(run("report", tmp_path / "no-network.json", "--output", tmp_path), f"{tmp_path} cannot be written: Is a directory")


@pytest.mark.parametrize(
    "words", [("import", "t.csv"), ("train", "m.jsonl"), ("calibrate", "a30", "m.jsonl")], ids=lambda x: x[0]
)
def test_files_that_are_no_result_do_not_go_to_stdout(run, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    one_line(run(*words, "--output", "-"), "stdout (-): name it")
    assert not list(tmp_path.iterdir())


def test_help_is_what_no_argument_asks_for(run):
    code, out, err = run()
    assert (code, err) == (0, "") and "predict" in out


def test_a_full_disk_behind_stdout_ends_in_one_line(network):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", "from wattlayer.cli import main; main()", "predict", network, "--input", "4x3x64x64"]
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    one_line((done.returncode, "", done.stderr), "the result cannot be written")


def started(network, *words, redirected="", **environment):
    """Run the command in a shell of its own, with its streams `redirected`."""
    command = shlex.join([sys.executable, "-c", "from wattlayer.cli import main; main()", *map(str, words)])
    variables = os.environ | environment
    return subprocess.run(f"{command} {redirected}", check=False, shell=True, capture_output=True, timeout=120, env=variables)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_console_that_lacks_a_character_gets_its_number(network, encoding):
    done = started(network, "predict", network, "--input", "4x3x64x64", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"") and b"costliest" in done.stdout and rb"\u2020" in done.stdout


@pytest.mark.parametrize(
    ("words", "redirected", "code", "said"),
    [
        (["--input", "4x3x64x64"], "2>&-", 0, ""),
        (["--input", "4x3x64x64"], ">&-", 2, "there is no standard output: give --output FILE"),
        (["--input", "4x3x64x64", "--output", "out.txt"], ">&- 2>&-", 0, ""),
        (["--batch", "0"], "2>/dev/full", 2, ""),
    ],
)
def test_a_closed_stream_does_not_end_a_command(network, tmp_path, monkeypatch, words, redirected, code, said):
    monkeypatch.chdir(tmp_path)
    done = started(network, "predict", network, *words, redirected=redirected)
    assert done.returncode == code and said in done.stderr.decode() and b"Traceback" not in done.stderr
    assert bool(done.stdout) == (redirected == "2>&-") and Path("out.txt").exists() == ("out.txt" in words)


def test_an_interrupted_command_says_so_and_ends_as_shells_expect(run, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["wattlayer.predict"], "load_network", interrupt)
    code, out, err = run("predict", "resnet18")
    assert (code, out, err) == (130, "", "wattlayer: interrupted\n")


@pytest.mark.parametrize("body", ["raise SystemExit(1)", "import sys; sys.exit(7)", "raise Mute"])
def test_a_forward_that_ends_the_process_or_cannot_say_why_it_failed_is_an_error(run, tmp_path, body):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n\nclass Mute(Exception):\n    def __str__(self): raise ValueError\n\n"
        f"class Net(nn.Module):\n    def forward(self, x):\n        {body}\n"
    )
    one_line(run("predict", f"{path}:Net", "--input", "2x3"), "Net does not run on 2x3")


def test_results_go_where_links_lead_and_pipes_and_devices_stay_what_they_are(run, network, tmp_path):
    table, rows, link = tmp_path / "rows.csv", tmp_path / "rows.jsonl", tmp_path / "link.jsonl"
    table.write_text(HEADER + ROW.format(energy="1e-3"))
    rows.write_text("old\n")
    link.symlink_to(rows)
    assert run("import", table, "--output", link)[0] == 0
    assert link.is_symlink() and rows.read_text().count("\n") > 1, "what the link leads to is written"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    assert run("import", table, "--output", pipe)[0] == 0
    assert reader.communicate(timeout=60)[0] == rows.read_text() and stat.S_ISFIFO(pipe.stat().st_mode)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    one_line(run("import", table, "--output", loop), str(loop), "cannot be written")
    one_line(run("import", table, "--output", ""), "cannot be written")
    assert loop.is_symlink()


def test_results_go_through_dev_stdout_wherever_that_leads(tmp_path):
    table, log = tmp_path / "rows.csv", tmp_path / "log"
    table.write_text(HEADER + ROW.format(energy="1e-3"))
    done = started(None, "import", table, "--output", "/dev/stdout", redirected="| cat")
    assert done.stdout.startswith(b"{") and b"cannot" not in done.stderr
    log.write_text("before\n")
    started(None, "import", table, "--output", "/dev/stdout", redirected=f">> {log}")
    assert log.read_text().startswith("before\n{"), "what the shell wrote to stays"


def test_a_file_that_is_written_again_keeps_who_may_read_it(run, tmp_path):
    table, rows = tmp_path / "rows.csv", tmp_path / "rows.jsonl"
    table.write_text(HEADER + ROW.format(energy="1e-3"))
    rows.touch(0o600)
    assert run("import", table, "--output", rows)[0] == 0
    assert stat.S_IMODE(rows.stat().st_mode) == 0o600 and rows.stat().st_size


def test_measurements_are_not_written_over(run, tmp_path, device, layers):
    rows, table, image = tmp_path / "rows.jsonl", tmp_path / "rows.csv", tmp_path / "link.jsonl"
    write_measurements(rows, device.measure(layers[:60]))
    table.write_text(HEADER + ROW.format(energy="1e-3"))
    image.symlink_to(rows)
    before = rows.read_bytes(), table.read_bytes()
    for output in (rows, image):
        for words in (["train", rows], ["calibrate", "a30", rows], ["evaluate", "a30", "--layers", rows]):
            one_line(run(*words, "--output", output), "is a file that is read: name another")
    one_line(run("import", table, "--output", table), "is a file that is read: name another")
    assert (rows.read_bytes(), table.read_bytes()) == before


def test_rows_of_somebody_else_run_no_code_where_that_is_asked(run, measured_networks):
    one_line(
        run("evaluate", "a30", "--networks", measured_networks, "--no-run-code"), "line 2", "is Python code that measured rows"
    )


@pytest.mark.parametrize("words", [["train"], ["calibrate", "a30"], ["evaluate", "a30", "--layers"]])
@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_seeds_out_of_range_end_in_one_line(run, tmp_path, device, layers, words, seed):
    write_measurements(tmp_path / "rows.jsonl", device.measure(layers[:60]))
    one_line(run(*words, tmp_path / "rows.jsonl", "--seed", seed), "--seed")


@pytest.mark.parametrize("words", [["advise", "--batch"], ["whatif", "--dtype", "float16", "--from-batch"]])
def test_two_batches_are_refused_everywhere(run, network, words):
    one_line(run(words[0], network, "--input", "8x3x64x64", *words[1:], "4"), "8x3x64x64 says the batch", "batch 4 out")


def test_what_a_network_prints_is_no_result(run, tmp_path):
    path = tmp_path / "loud.py"
    path.write_text(
        "from torch import nn\nclass Loud(nn.Module):\n    def forward(self, x):\n        print('in forward')\n"
        "        return x + 1\nprint('in the file')\ndef make():\n    print('in the factory')\n    return Loud()\n"
    )
    code, out, err = run("predict", f"{path}:make", "--input", "2x3", "--format", "json")
    assert code == 0 and json.loads(out)["network"] == f"{path}:make"
    assert {"in the file", "in the factory", "in forward"} <= set(err.splitlines())
    code, out, err = run("predict", f"{path}:make", "--input", "2x3", "--format", "json", "--check-flops")
    assert code == 0 and json.loads(out) and err.splitlines().count("in forward") > 1


def test_what_programs_write_that_a_network_starts_is_no_result(tmp_path):
    path = tmp_path / "loud.py"
    path.write_text("import os\nfrom torch import nn\ndef make():\n    os.system('echo from a program')\n    return nn.ReLU()\n")
    done = started(None, "predict", f"{path}:make", "--input", "2x3", "--format", "json")
    assert done.returncode == 0 and json.loads(done.stdout) and b"from a program" in done.stderr


@pytest.fixture
def measured_networks(tmp_path, network):
    """A table of whole networks: a module alone, a factory with inputs, one that does not exist, one on other inputs."""
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\nfrom torch import nn\ndef alone():\n    return nn.Linear(8, 4)\ndef whole():\n"
        "    return nn.Bilinear(8, 8, 4), (torch.zeros(2, 8), torch.zeros(2, 8))\n"
    )
    table, rest = tmp_path / "networks.csv", "float32,none,graph,1e-3,0.1,\n"
    names = {f"{path}:alone": "2x8", f"{path}:whole": "2x8;2x8", f"{path}:nowhere": "2x8", network: "2x3x64x64"}
    lines = [f"a30,{name},{shape},{rest}" for name, shape in names.items()]
    lines.append(f"a30,{path}:whole,3x8;3x8,{rest}")
    table.write_text("hardware,model,input_shape,dtype,tf32,mode,time_s,energy_j,run\n" + "".join(lines))
    return table


def test_a_measured_network_that_cannot_be_traced_is_told_by_its_line(run, measured_networks):
    one_line(run("evaluate", "a30", "--networks", measured_networks), "line 4", "nowhere", "--skip-bad-rows")
    code, out, err = run("evaluate", "a30", "--networks", measured_networks, "--skip-bad-rows", "--format", "json")
    assert code == 0 and json.loads(out)["scores"][0]["rows"] == 3
    assert "skipped 2 bad rows" in err and "line 4: " in err and "line 6: " in err
    assert "takes inputs of 2x8; 2x8 and not of 3x8; 3x8" in err


def test_files_are_given_one_after_the_other_or_again_and_again(run, measured_networks, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(measured_networks.read_text())
    common = ("evaluate", "a30", "--skip-bad-rows", "--format", "json")
    together = run(*common[:2], "--networks", measured_networks, other, *common[2:])
    apart = run(*common, "--networks", measured_networks, "--networks", other)
    assert together == apart and json.loads(together[1])["scores"][0]["rows"] == 6
    one = run(*common, "--networks", measured_networks)
    assert run("evaluate", "--networks", measured_networks, "a30", *common[2:]) == one, "before MODEL an option takes one value"
    late = ["--seed", "0", "--skip-bad-rows", "a30", f"--networks={measured_networks}", other]
    assert run("evaluate", "--format", "json", *late) == together


@needs_torchvision
def test_an_unknown_network_gets_the_nearest_names(run):
    one_line(run("predict", "resnet5o"), "resnet5o", "resnet50")


def test_a_corrupt_model_file_ends_in_one_line(run, network, tmp_path):
    path = tmp_path / "model.json"
    path.write_text('{"wattlayer_model": 1, "metad')
    one_line(run("predict", network, "--input", "4x3x64x64", "--hardware", path), "model.json", "truncated")


def test_the_split_by_hardware_stands_alone_and_needs_rows_of_the_device(run, tmp_path, device, layers):
    data = tmp_path / "two.jsonl"
    other = replace(device, hardware="rtx2080ti")
    write_measurements(data, [*device.measure(layers[:60]), *other.measure(layers[:60])])
    one_line(run("evaluate", "a30", "--layers", data, "--split", "hardware", "--split", "layer"), "alone")
    one_line(run("evaluate", "gtx1070", "--layers", data, "--split", "hardware"), "none of the rows is of gtx1070")


def test_missing_rows_to_evaluate_end_in_one_line(run):
    one_line(run("evaluate", "a30"), "--layers")


def test_hardware_lists_devices_and_names_one(run):
    assert "NVIDIA A30" in run("hardware")[1]
    assert "sources" in run("hardware", "a30")[1]
    assert "transforms: no  [measured (data/h200-sxm)" in run("hardware", "h200-sxm")[1]
    record = Path(__file__).parents[1] / "models" / "evaluations" / "a30.json"
    score = next(x for x in json.loads(record.read_text())["scores"] if x["split"] == "layer")
    median, inside = (f"{100 * score[f'{x}_low_frac']:.1f}–{score[f'{x}_high_frac']:.1%}" for x in ("mdape", "coverage"))
    told = run("hardware", "a30")[1]
    assert f"layer: median error of energy {score['mdape_frac']:.1%} (95% bounds {median}) over {score['rows']} rows" in told
    assert f"{score['coverage_frac']:.0%} (95% bounds {inside}) in the interval" in told
    figure = next(x for x in json.loads(run("hardware", "a30", "--json")[1])["figures"] if x["split"] == "layer")
    assert {key: score[key] for key in figure} == figure and {"mdape_low_frac", "coverage_high_frac"} <= set(figure)
    one_line(run("hardware", "a31"), "a31", "a30")


@pytest.mark.parametrize(("features", "told"), [(FEATURES_VERSION, False), (FEATURES_VERSION - 1, True)])
def test_error_figures_of_earlier_features_are_called_so(run, monkeypatch, features, told):
    learned = transfer.read_learned()
    monkeypatch.setattr(transfer, "read_learned", lambda: learned | {"curves_features": features})
    out = run("hardware", "l4")[1]
    assert "unmeasured a30: median error" in out
    assert (f"measured with features version {features}, not with today's" in out) is told
    assert json.loads(run("hardware", "l4", "--json")[1])["figures_features"] == features
    assert "features version" not in run("hardware", "a30")[1]


@pytest.mark.parametrize("words", [("train",), ("calibrate", "a30")])
def test_a_model_is_written_where_it_can_be_opened(run, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "none.csv"
    Path("mine.txt").write_text("of somebody")
    one_line(run(*words, table, "--output", "mine.txt"), "mine.txt does not end in .json", "mine.txt.json")
    assert Path("mine.txt").read_text() == "of somebody"
    for opened in ("mine.json", tmp_path / "mine.txt"):
        one_line(run(*words, table, "--output", opened), "none.csv cannot be read")


def test_measuring_without_a_meter_names_each_that_was_tried(run, tmp_path):
    if Path("/sys/class/powercap/intel-rapl:0").exists():
        pytest.skip("this machine has RAPL, and the command would begin to measure")
    one_line(run("measure", "--output", tmp_path, "--device", "cpu", "--meter", "rapl"), "rapl", "because", "--assumed-power-w")


@needs_torchvision
def test_a_dry_run_prints_the_plan_and_measures_nothing(run, tmp_path):
    arguments = ["--meter", "assumed-power", "--assumed-power-w", "50", "--device", "cpu", "--networks", "torchvision:resnet18"]
    code, out, _ = run("measure", "--output", tmp_path / "data", "--dry-run", "--layers", "20", *arguments)
    assert code == 0
    assert "distinct layers" in out and "minutes" in out
    assert not (tmp_path / "data").exists()


def test_the_version_is_printed(run):
    assert run("--version")[1].startswith("wattlayer 0.")
    root, version = Path(__file__).parents[1], run("--version")[1].split()[1]
    assert f'\nversion = "{version}"\n' in (root / "pyproject.toml").read_text(), "as it is installed"
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text(), "as it is cited"


def test_help_is_light():
    code = (
        "import sys; sys.argv = ['wattlayer', '--help']; from wattlayer.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'xgboost', 'pandas', 'sklearn', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


@pytest.mark.parametrize(
    ("command", "name", "begins"),
    [
        ("predict", "a.json", '{"schema"'), ("predict", "a.CSV", "index,path"), ("predict", "a.html", "<!doctype"),
        ("predict", "a.txt", "torchvision:resnet18 on a30"), ("compare", "a.json", '{"schema"'), ("trace", "a.json", "{"),
    ],
)  # fmt: skip
def test_a_result_has_the_format_of_its_file_unless_one_is_named(tmp_path, run, command, name, begins):
    path = tmp_path / name
    assert run(command, "resnet18", "--output", path)[0] == 0
    assert path.read_text().startswith(begins)
    assert run(command, "resnet18", "--output", path, "--format", "table")[0] == 0
    table = path.read_text()
    assert "resnet18" in table and not table.startswith(("{", "<", "index,"))


def test_a_format_that_a_command_does_not_write_is_refused_before_the_work(tmp_path, run):
    for command, name, known in (("trace", "a.csv", "table, json"), ("compare", "a.parquet", "table, json, csv")):
        code, _, err = run(command, "no-such-network", "--output", tmp_path / name)
        assert code == 2 and f"is not one of {known}" in err and not (tmp_path / name).exists()
    assert "[table|json|csv]" in run("compare", "--help")[1] and "parquet" in run("predict", "--help")[1]


@pytest.mark.parametrize(("arguments", "named"), [
    (["trace", "hf:gpt2", "--format", "xyz"], "format 'xyz' is not one of table, json\n"),
    (["predict", "hf:gpt2", "--format", "xyz"], "format 'xyz' is not one of table, json, csv, html, "),
    (["predict", "hf:"], "hf: names no network"),
    (["predict", "hf:gpt2", "--junit", ""], "an empty name and the folder '.' cannot be written"),
    (["whatif", "hf:gpt2", "--align", "--input", ""], "input '' is not a shape"),
    (["advise", "hf:gpt2", "--input", ""], "input '' is not a shape"),
    (["compare", "hf:gpt2", "--plot", "picture.xyz"], "picture.xyz has no suffix of a picture: name it .png, .svg or .pdf"),
    (["evaluate", "a30", "--layers", "x.csv", "--plot", "picture"], "picture has no suffix of a picture"),
    (["zoo", "torchvision", "--jobs", "0"], "jobs 0 must be at least 1"),
])  # fmt: skip
def test_mistakes_are_named_before_any_work_is_done(run, arguments, named):
    one_line(run(*arguments), named)


def test_a_result_is_no_table_of_rows(run, tmp_path):
    result = tmp_path / "result.json"
    result.write_text('{"dtype": "float32", "dtype": "float32"}\n')
    one_line(run("import", result, "--output", tmp_path / "rows.jsonl"), f"{result} is no table", ".jsonl")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are the shell's")
def test_a_result_that_cannot_be_finished_leaves_the_one_before(tmp_path):
    """A limit of one block stands for a disk that is full."""
    kept = tmp_path / "kept.json"
    kept.write_text("before\n")
    command = f"ulimit -f 1; {sys.executable} -m wattlayer predict hf:gpt2 --format json --output {kept}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot be written" in done.stderr
    assert kept.read_text() == "before\n" and [x.name for x in tmp_path.iterdir()] == ["kept.json"]
