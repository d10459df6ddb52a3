"""Tables measured elsewhere: each format from rows invented here, every row of the real ones where they are at hand."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from wattlayer.dataset import Measurement, read_measurements, write_measurements
from wattlayer.dataset.tables import Table, doubts, read_table
from wattlayer.dataset.tables.modules import build_module, layer_of
from wattlayer.errors import InputError
from wattlayer.kinds import MOMENTS_APART
from wattlayer.layer import Layer
from wattlayer.trace import trace

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

LAYERS = "hardware,layer_repr,input_shape,dtype,tf32,time_s,energy_j,run,train_mode,comment\n"
GOOD = 'a30,"Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), bias=False)",4x3x9x9,float32,conv,2e-5,0.003,r1,false,mine\n'

NETWORKS = "hardware,model,input_shape,dtype,tf32,mode,time_s,energy_j,run\n"

IRENE = (
    "gpu,model_name,batch_size,seq_len,op,scope,rows_M,in_features,out_features,hidden,heads,mem_MiB,time_s,"
    "gpu_energy_nvidia_smi_J\n"
)

GETZNER = (
    "op,batch_size,image_size,kernel_size,in_channels,out_channels,stride,padding,input_size,output_size,"
    "test,duration_s,cpu_power_W,forward_passes,cpu_energy_J_per_pass,time_s_per_pass\n"
)

NEURSTRUC = (
    "batch,c_in,h_in,w_in,c_out,h_out,w_out,kh,kw,stride_h,stride_w,pad_h,pad_w,dil_h,dil_w,groups,energy_total_J,time_s\n"
)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "table.csv"


def read(path: Path, text: str, skip_bad_rows: bool = False) -> Table:
    path.write_text(text)
    return read_table(path, skip_bad_rows)


def only(path: Path, text: str) -> Measurement:
    (measurement,) = read(path, text).measurements
    return measurement


def traced(module: nn.Module, *shape: int, tf32: str = "none") -> Layer:
    module.eval()
    (layer,) = trace(
        module, torch.empty(shape, dtype=torch.int64 if isinstance(module, nn.Embedding) else None), tf32=tf32
    ).layers
    return layer


def test_rows_of_a_table_know_their_lines(path):
    table = read(path, LAYERS + GOOD + GOOD.replace("0.003", "-1") + GOOD, skip_bad_rows=True)
    assert [m.place for m in table.measurements] == [(str(path), 2), (str(path), 4)]


# --- modules from their repr

MODULES = [
    (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), (2, 3, 9, 9)),
    (nn.Conv2d(8, 8, (3, 5), groups=8, dilation=2), (2, 8, 19, 19)),
    (nn.Conv2d(3, 8, 3, padding="same", padding_mode="zeros"), (2, 3, 9, 9)),
    (nn.Conv1d(4, 6, 3), (2, 4, 9)),
    (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 5)),
    (nn.Linear(5, 7), (2, 3, 5)),
    (nn.Linear(5, 7, bias=False), (2, 5)),
    (nn.BatchNorm2d(8), (2, 8, 4, 4)),
    (nn.LayerNorm((6,)), (2, 3, 6)),
    (nn.GroupNorm(2, 8), (2, 8, 4, 4)),
    (nn.MaxPool2d(3, stride=2, padding=1), (2, 8, 9, 9)),
    (nn.AvgPool2d(2), (2, 8, 9, 9)),
    (nn.AdaptiveAvgPool2d((1, 1)), (2, 8, 9, 9)),
    (nn.ReLU(inplace=True), (2, 8)),
    (nn.ReLU6(), (2, 8)),
    (nn.GELU(approximate="none"), (2, 8)),
    (nn.Hardswish(), (2, 8)),
    (nn.Softmax(dim=-1), (2, 8)),
    (nn.Embedding(50, 8), (2, 8)),
]


@pytest.mark.parametrize(("module", "shape"), MODULES, ids=[repr(m) for m, _ in MODULES])
def test_a_repr_gives_the_layer_that_the_module_runs(module, shape):
    assert layer_of(repr(module), (shape,), "float32", "all", False) == traced(module, *shape, tf32="all")


def test_dtype_and_train_mode_reach_the_layer():
    half = layer_of("Linear(5, 7)", ((2, 5),), "float16", "all", False)
    assert {x.dtype for x in half.inputs} == {"float16"}
    assert not half.tf32
    norm = layer_of("BatchNorm2d(8)", ((2, 8, 4, 4),), "float32", "none", True)
    assert norm.argument("training") is True
    assert norm.flop > layer_of("BatchNorm2d(8)", ((2, 8, 4, 4),), "float32", "none", False).flop


def test_stochastic_depth_is_a_layer_of_its_own():
    drops = layer_of("StochasticDepth(p=0.2, mode=row)", ((2, 8),), "float32", "none", True)
    assert (drops.kind, drops.flop) == ("stochastic_depth", 16)
    assert layer_of("StochasticDepth(p=0.0, mode=row)", ((2, 8),), "float32", "none", True).flop == 0


EVIL = "__import__('os')._exit(3)"


@pytest.mark.parametrize(
    ("text", "shape", "reason"),
    [
        ("Conv2d(__import__('os').system('x'), 3)", "2x3x9x9", "not a literal.*__import__"),
        (f"Conv2d(3, 8, {EVIL})", "2x3x9x9", "not a literal"),
        (f"Conv2d(3, 8, kernel_size=[{EVIL} for _ in (1,)])", "2x3x9x9", "not a literal"),
        ("Conv2d(3, 8, 10 ** 10 ** 10)", "2x3x9x9", "not a literal"),
        ("Conv2d(*(3, 8, 3))", "2x3x9x9", "not a literal"),
        ("Conv2d(**{'a': 1})", "2x3x9x9", "not the repr"),
        ("torch.nn.Conv2d(3, 8, 3)", "2x3x9x9", "not the repr"),
        ("Conv2d", "2x3x9x9", "not the repr"),
        ("(lambda: 1)()", "2x3", "not the repr"),
        ("", "2x3", "not the repr"),
        ("Conv2d(3, 8", "2x3", "not the repr"),
        ("Conv2d(3,\x008)", "2x3", "not the repr"),
        ("Conv2D(3, 8, 3)", "2x3x9x9", "'Conv2D'.*nearest: .*Conv2d"),
        ("system('x')", "2x3", "'system'.*not a layer of torch.nn"),
        ("Module()", "2x3", "Module"),
        ("Identity()", "2x3", "not one layer.*no operator"),
        ("StochasticDepth(p=0.2, mode=row)", "2x3", "not one layer in eval mode"),
        ("MultiheadAttention(8, 2)", "2x3x8;2x3x8;2x3x8", "not one layer.*it runs"),
        ("TransformerEncoderLayer(8, 2)", "2x3x8", "not one layer.*it runs"),
        ("Conv2d(3)", "2x3x9x9", "cannot be built"),
        ("Conv2d(3, 8, 3, groups=2)", "2x3x9x9", "cannot be built"),
        ("Conv2d(3, 8, a)", "2x3x9x9", "Conv2d"),
        ("Linear(5, 7, device=cpu)", "2x5", "device"),
        ("Linear(5, 7, True, 'cpu')", "2x5", "device"),
        ("Linear(5, 7)", "2x6", "does not run"),
        ("Conv2d(3, 8, 3)", "2x3x2x2", "does not run"),
        ("ReLU()", "99999999999999999999x3", "beyond"),
        ("ReLU()", "999999999999999999x999999999999999999", "beyond"),
        ("ReLU()", "0x3", "below 1"),
        ("ReLU()", "2x-3", "below 1"),
        ("ReLU()", "2*3", "not like"),
        ("ReLU()", "", "not like"),
        ("Bilinear(2, 3, 4)", "5x2", "does not run"),
        *[(f"Conv2d({'-' * n}1)", "2x3", "not") for n in (300, 1000, 30_000)],
        *[(f"Conv2d(a{'.b' * n})", "2x3", "not") for n in (300, 1000, 30_000)],
        *[(f"{'Conv2d(' * n}{')' * n}", "2x3", "not") for n in (100, 1000, 10_000)],
    ],
)
def test_what_is_not_a_layer_is_refused_and_never_evaluated(path, text, shape, reason):
    row = f'a30,"{text}",{shape},float32,conv,2e-5,0.003,,,\n'
    with pytest.raises(InputError, match=rf"table\.csv, line 3: .*{reason}") as caught:
        read(path, LAYERS + GOOD + row)
    assert len(str(caught.value)) < 600


def test_the_device_of_a_module_is_meta():
    assert build_module("Linear", (100_000, 100_000), {}).weight.is_meta


# --- the import tables of layers and networks


def test_a_row_of_the_layer_table(path):
    m = only(path, LAYERS + GOOD)
    assert m.layer == traced(nn.Conv2d(3, 8, 3, stride=2, bias=False), 4, 3, 9, 9, tf32="conv")
    assert (m.hardware, m.time_s, m.energy_j, m.dtype, m.tf32, m.mode, m.run) == (
        "a30",
        2e-5,
        0.003,
        "float32",
        "conv",
        "eager",
        "r1",
    )
    assert m.input_shapes == ((4, 3, 9, 9),)
    assert m.power_w == pytest.approx(150)


def test_several_inputs_and_defaults(path):
    m = only(path, "hardware,layer_repr,input_shape,dtype,tf32,time_s,energy_j\na30,CosineSimilarity(dim=1),5x2; 5x2,,,1,2\n")
    assert m.input_shapes == ((5, 2), (5, 2))
    assert (m.dtype, m.tf32, m.run) == ("float32", "conv", "")


@pytest.mark.parametrize("text", ["LSTM(8, 16, batch_first=True)", "GRU(8, 16)", "RNN(8, 16, nonlinearity='relu')"])
def test_a_recurrent_module_is_one_layer_without_the_zeros_that_it_starts_from(path, text):
    m = only(path, LAYERS + f'a30,"{text}",4x10x8,float32,none,2e-5,0.003,,,\n')
    assert m.layer is not None and m.layer.group == "recurrent" and m.layer.inputs[0].shape == (4, 10, 8)


def test_int8_holds_the_weights_of_a_linear_layer_and_of_no_other(path):
    m = only(path, LAYERS + "a30,Linear(8, 4),2x8,int8,none,2e-5,0.003,,,\n".replace("Linear(8, 4)", '"Linear(8, 4)"'))
    assert m.layer is not None and {x.name: x.dtype for x in m.layer.inputs} == {
        "input": "float16", "weight": "int8", "bias": "float16", "scale": "float16"
    }  # fmt: skip
    with pytest.raises(InputError, match="line 2: dtype 'int8' holds the weights of linear layers, which Conv2d is not"):
        read(path, LAYERS + GOOD.replace("float32", "int8"))


def test_advice_of_torch_stays_out_of_the_way(path, recwarn):
    only(path, LAYERS + "a30,Softmax(dim=None),2x8,float32,none,2e-5,0.003,,,\n")
    assert not recwarn.list


def test_a_campaign_that_measured_nothing_yet_is_an_empty_table(tmp_path):
    write_measurements(tmp_path / "empty.jsonl", [])
    assert read_table(tmp_path / "empty.jsonl") == Table(())


def test_a_row_of_the_network_table(path):
    m = only(path, NETWORKS + "rtx2080ti,timm:resnet18,8x3x224x224,float16,all,eager,0.01,1.5,r2\n")
    expected = Measurement("rtx2080ti", 0.01, 1.5, network="timm:resnet18", input_shapes=((8, 3, 224, 224),), dtype="float16",
                           tf32="all", mode="eager", run="r2")  # fmt: skip
    assert m == expected
    assert only(path, NETWORKS + "a30,resnet18,8x3x224x224,,,,0.01,1.5,\n").mode == "graph"
    with pytest.raises(InputError, match="line 2: dtype 'fp16' is not one of float32, float16"):
        read(path, NETWORKS + "a30,resnet18,8x3x224x224,fp16,,,0.01,1.5,\n")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("2e-5", "nan", "time_s 'nan' must be a finite number above 0"),
        ("2e-5", "-1", "time_s '-1' must be"),
        ("2e-5", "", "time_s '' is not a number"),
        ("0.003", "0", "energy_j '0' must be"),
        ("0.003", "-0.003", "energy_j '-0.003' must be"),
        ("0.003", "inf", "energy_j 'inf' must be"),
        ("0.003", "3 mJ", "energy_j '3 mJ' is not a number"),
        ("a30", "a31", "hardware 'a31' is not known; nearest: .*a30"),
        ("a30", "tpu-v4", "hardware 'tpu-v4' is not known; nearest: t4"),
        ("a30", "", "hardware '' is not known"),
        ("float32", "float12", "float12"),
        ("conv,2e-5", "yes,2e-5", "tf32 'yes' is not one of none, conv, all"),
        ("false", "perhaps", "train_mode 'perhaps' is neither true nor false"),
        (",mine", "", "another number of fields"),
        (",mine", ",mine,and more", "another number of fields"),
    ],
)
def test_a_bad_cell_is_named_with_its_line(path, old, new, reason):
    with pytest.raises(InputError, match=rf"table\.csv, line 4: .*{reason}.*--skip-bad-rows"):
        read(path, LAYERS + GOOD + GOOD + GOOD.replace(old, new, 1) + GOOD)


def test_bad_rows_are_counted_and_listed_where_they_may_be_skipped(path):
    bad = GOOD.replace("0.003", "0")
    table = read(path, LAYERS + GOOD + bad + "\n" + GOOD + bad.replace("a30", "a31"), skip_bad_rows=True)
    assert len(table.measurements) == 2
    assert [line for line, _ in table.bad_rows] == [3, 6]
    assert "energy_j" in table.bad_rows[0][1] and "a31" in table.bad_rows[1][1]


def test_damaged_lines_of_our_own_files_are_skipped_or_named_like_any_bad_row(tmp_path, path):
    rows, own = read(path, LAYERS + GOOD + GOOD.replace("a30", "h200-sxm")).measurements, tmp_path / "own.jsonl"
    write_measurements(own, rows)
    header, first, second = own.read_text().splitlines()
    own.write_text("\n".join([header, first[:40], first, second.replace('"energy_j"', '"joules"'), second, ""]))
    table = read_table(own, skip_bad_rows=True)
    assert table.measurements == rows
    assert [line for line, _ in table.bad_rows] == [2, 4] and "not JSON" in table.bad_rows[0][1]
    with pytest.raises(InputError, match=r"own\.jsonl, line 2: not JSON.*the first of 2 bad rows.*--skip-bad-rows"):
        read_table(own)


def test_a_row_over_two_lines_does_not_shift_those_after_it(path):
    comment = GOOD.replace("mine", '"mine,\nover two lines"')
    table = read(path, LAYERS + comment + GOOD.replace("0.003", "0"), skip_bad_rows=True)
    assert [line for line, _ in table.bad_rows] == [4]


def test_several_bad_rows_are_told_by_the_first_and_their_number(path):
    with pytest.raises(InputError, match=r"line 3: .*\(the first of 2 bad rows\)"):
        read(path, LAYERS + GOOD + 2 * GOOD.replace("0.003", "0"))


def test_a_table_without_a_good_row_is_refused(path):
    for text in (LAYERS, LAYERS + GOOD.replace("0.003", "0")):
        with pytest.raises(InputError, match="no measurement that can be used"):
            read(path, text, skip_bad_rows=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no column"),
        (LAYERS.replace("energy_j", "energy_mj") + GOOD, "has no column energy_j "),
        (NETWORKS.replace("mode,", ""), "has no column mode "),
        (LAYERS.replace("energy_j", "energy_mJ") + GOOD, "it has energy_mJ for energy_j: convert to SI units and name it so"),
        ("a,b\n1,2\n", "has no column"),
        (LAYERS + 'a30,"unclosed', "not a CSV table"),
        (LAYERS.strip() + ",energy_j\n" + GOOD, "two columns energy_j"),
        (LAYERS.replace(",", ";") + GOOD, "separated by ';': write commas"),
        (LAYERS.replace(",", "\t") + GOOD, r"separated by '\\t'"),
    ],
    ids=[
        "empty",
        "renamed",
        "network without mode",
        "millijoules",
        "another table",
        "unclosed quote",
        "twice",
        "semicolons",
        "tabs",
    ],
)
def test_a_file_of_no_known_format_is_refused(path, text, reason):
    with pytest.raises(InputError, match=reason):
        read(path, text, skip_bad_rows=True)


@pytest.mark.parametrize(
    "header", [LAYERS.replace("dtype", "precision"), LAYERS.replace("hardware", "device"), "layer_name,input_size\n"]
)
def test_columns_without_a_unit_are_not_taken_for_those_of_another(path, header):
    with pytest.raises(InputError, match=r"has no column [^;]*$"):
        read(path, header + GOOD)


def test_more_power_than_any_device_draws_is_a_slip_of_a_unit(path):
    """The A30 is limited to 165 W."""
    assert len(read(path, LAYERS + GOOD.replace("0.003", "0.0098")).measurements) == 1
    with pytest.raises(InputError, match=r"0.01 J in 2e-05 s is 500 W, of a device limited to 165 W: check the units"):
        read(path, LAYERS + GOOD.replace("0.003", "0.01"))


def test_less_power_than_an_idle_device_draws_is_one_as_well(path):
    """The A30 draws some 30 W idle; energy in watt-hours is 3,600 times less."""
    with pytest.raises(InputError, match=r"W, of a device that draws \d+ W idle: check the units"):
        read(path, LAYERS + GOOD.replace("0.003", str(0.003 / 3600)))


def test_more_arithmetic_than_any_device_does_is_one_as_well(path):
    """The A30 computes 330 TOP/s in int8 at most; this convolution is 4 * 8 * 27 * 16 * 2 FLOP."""
    flop = 2 * 4 * 8 * 27 * 16
    least_s = flop / (8 * 330e12)

    def row(time_s: float) -> str:
        return LAYERS + GOOD.replace("2e-5,0.003", f"{time_s:g},{150 * time_s:g}")

    assert len(read(path, row(1.01 * least_s)).measurements) == 1
    with pytest.raises(
        InputError, match=r"2.76e\+04 FLOP in .* s are 2.67e\+15 a second, of a device that computes .*check the units"
    ):
        read(path, row(0.99 * least_s))


def linears(factor: float = 1.0, slip: float = 1.0) -> list[Measurement]:
    """Layers of an A30 that take twice what its data sheet allows, times `factor`, and every second one `slip` times more."""
    found = []
    for i in range(20):
        layer = traced(nn.Linear(256 * (i + 1), 1024), 512, 256 * (i + 1))
        time_s = 2 * layer.flop / 10.3e12 * factor * (slip if i % 2 else 1.0)
        found.append(Measurement("a30", time_s, 150 * time_s, layer=layer, tf32="none"))
    return found


def test_rows_that_together_cannot_be_right_are_doubted():
    assert doubts(linears()) == doubts(linears(100.0)) == doubts([]) == []
    assert doubts(linears(1000.0)) == [
        "layers take 2e+03 times (median) as long as the data sheet of a30 allows: check the units"
    ]
    (mixed,) = [x for x in doubts(linears(0.3, 1000.0)) if "slowest tenth" in x]
    assert mixed.endswith("1e+03 times as long as the fastest: check that all rows have the same units")
    assert doubts(linears(1000.0)[:9]) == [], "few rows may all be odd"
    assert doubts([replace(x, hardware="board-of-elsewhere") for x in linears(1000.0)]) == []


@pytest.mark.parametrize(
    ("power_w", "told"),
    [
        (100.0, None),
        (180.0, "20 of 20 rows draw more than the 165 W of a30: check the device's name"),
        (29.0, "20 of 20 rows draw less than a30 idle, 30 W: energy is all that the device draws, idle included"),
    ],
)
def test_powers_that_another_device_would_draw_are_doubted(power_w, told):
    assert doubts([replace(x, energy_j=power_w * x.time_s) for x in linears()]) == ([told] if told else [])


def test_a_makers_own_board_may_draw_more_than_the_limit_but_none_draws_less_than_idle():
    rows, over, below = ([replace(x, energy_j=power_w * x.time_s) for x in linears()] for power_w in (100.0, 180.0, 29.0))
    assert doubts([*rows[:8], *over[8:]]) == [], "12 of 20"
    assert len(doubts([*rows[:7], *over[7:]])) == 1, "13 of 20"
    assert [x[:15] for x in doubts([*rows[:-1], below[-1]])] == ["1 of 20 rows dr"]


def test_layers_that_take_as_long_as_a_launch_are_not_doubted():
    """Eight to 27 numbers in 10 us: ten thousand times what moving them takes."""
    small = [traced(nn.ReLU(), n) for n in range(8, 28)]
    assert doubts([Measurement("a30", 1e-5, 5e-4, layer=x, tf32="none") for x in small]) == []


def test_repeats_that_contradict_one_another_are_doubted():
    rows = linears()
    alike = [replace(x, time_s=1.9 * x.time_s) for x in rows[:3]]
    apart = [replace(x, time_s=2.1 * x.time_s) for x in rows[:3]]
    assert doubts(rows + alike) == []
    assert doubts(rows + [replace(x, run="another") for x in apart]) == [], "a campaign is a state of the board"
    (doubt,) = doubts(rows + apart)
    assert doubt.startswith("3 of 20 layers have repeats in one run that take more than 2 times as long as others (a linear of")


def test_repeats_that_cost_twice_as_much_in_the_same_time_are_doubted():
    rows = linears()
    assert doubts(rows + [replace(x, energy_j=1.9 * x.energy_j) for x in rows[:3]]) == []
    (doubt,) = doubts(rows + [replace(x, energy_j=2.1 * x.energy_j) for x in rows[:3]])
    assert doubt.startswith("3 of 20 layers have repeats in one run that cost more than 2 times as much as others (a linear of")


def test_copies_to_the_last_digit_are_told():
    rows = linears()
    (doubt,) = doubts([*rows, rows[0], rows[1]])
    assert doubt == "2 rows are copies of others, to the last digit: each counts as a measurement of its own"


def test_rows_given_in_two_files_are_told(tmp_path, run):
    rows, paths = linears(), [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, own in zip(paths, (rows, rows[:7])):
        write_measurements(path, own)
    _, _, err = run("train", *paths, "--output", tmp_path / "model.json")
    assert f"{paths[1]}: 7 of its rows are in a file before it as well: each counts twice" in err


@pytest.mark.parametrize(("columns", "cells"), [("mode,meter", "graph,assumed-power"), ("meter", "assumed-power"), ("mode", "")])
def test_a_table_says_how_and_with_what_its_rows_were_measured(path, columns, cells):
    header, row = LAYERS.strip(), GOOD.strip()
    m = only(path, f"{header},{columns}\n{row},{cells}\n")
    told = dict(zip(columns.split(","), cells.split(",")))
    assert (m.mode, m.meter, m.run) == (told.get("mode") or "eager", told.get("meter") or "measured", "r1")
    with pytest.raises(InputError, match="mode 'grpah' is not one of graph, eager, compiled"):
        read(path, f"{header},mode\n{row},grpah\n")


def test_a_table_of_networks_says_with_what_its_rows_were_measured(path):
    row = "a30,torchvision:resnet18,1x3x224x224,,,eager,0.01,1.2,r1"
    assert only(path, f"{NETWORKS.strip()},meter\n{row},assumed-power\n").meter == "assumed-power"
    with pytest.raises(InputError, match="meter 'guess' is not one of measured, assumed-power"):
        read(path, f"{NETWORKS.strip()},meter\n{row},guess\n")


@pytest.mark.parametrize("column", ["flags", "regime", "energy_corrected_j"])
def test_a_column_that_would_be_lost_is_refused(path, column):
    header, row = LAYERS.strip(), GOOD.strip()
    said = rf"has a column {column}, which a table of layers does not hold .* mode, meter, run, train_mode\)"
    with pytest.raises(InputError, match=said):
        read(path, f"{header},{column}\n{row},thermal\n")
    assert only(path, f"{header},power_w\n{row},9\n").run == "r1", "columns of other things are nobody's business"
    assert only(path, f"{header},source,seed,clock_hz\n{row},my lab,3,9\n") == only(path, f"{header}\n{row}\n"), (
        "unknown, ignored"
    )


def test_names_of_columns_in_capitals_are_told(path):
    with pytest.raises(InputError, match="has a column Mode: write names of columns in lower case"):
        read(path, f"{LAYERS.strip()},Mode\n{GOOD.strip()},graph\n")
    with pytest.raises(InputError, match="it has TIME_S, ENERGY_J: write names of columns in lower case"):
        read(path, LAYERS.replace("time_s", "TIME_S").replace("energy_j", "ENERGY_J") + GOOD)


def test_a_table_that_is_read_as_a_dataset_is_told_how_to_become_one(path):
    path.write_text(LAYERS + GOOD)
    with pytest.raises(InputError, match=r"is not a wattlayer dataset: .*; `wattlayer import` makes one of a table"):
        read_measurements(path)


def test_a_module_made_of_others_is_no_layer(path):
    row = GOOD.replace("Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), bias=False)", str(nn.Sequential(nn.Conv2d(3, 8, 3))))
    with pytest.raises(InputError, match=r"'Sequential.* is of a module made of others: give each of its layers a row"):
        read(path, LAYERS + row)


@pytest.mark.parametrize(("written", "said"), [("false", "write False"), ("maybe", "bias=maybe is neither True nor False")])
def test_a_switch_that_python_does_not_know_is_refused(path, written, said):
    row = f'a30,"Linear(in_features=8, out_features=4, bias={written})",5x8,,,0.001,0.1\n'
    with pytest.raises(InputError, match=said):
        read(path, "hardware,layer_repr,input_shape,dtype,tf32,time_s,energy_j\n" + row)


def test_so_it_is_in_a_dataset_but_for_a_device_that_is_described_elsewhere(tmp_path, path):
    (row,) = read(path, LAYERS + GOOD).measurements
    own = tmp_path / "own.jsonl"
    write_measurements(own, [replace(row, energy_j=0.01)])
    with pytest.raises(InputError, match=r"own.jsonl, line 2: 0.01 J in 2e-05 s is 500 W.*check the units"):
        read_table(own)
    write_measurements(own, [replace(row, energy_j=0.01, hardware="board-of-elsewhere")])
    assert len(read_table(own).measurements) == 1


def test_blanks_around_the_names_of_columns_are_no_part_of_them(path):
    assert read(path, LAYERS.replace(",", " , ") + GOOD) == read(path, LAYERS + GOOD)


def test_gzip_byte_order_marks_and_our_own_files_are_read(tmp_path, path):
    expected = read(path, LAYERS + GOOD)
    packed, marked, own = tmp_path / "t.csv.gz", tmp_path / "excel.csv", tmp_path / "own.jsonl"
    packed.write_bytes(gzip.compress((LAYERS + GOOD).encode()))
    marked.write_text(LAYERS + GOOD, encoding="utf-8-sig")
    write_measurements(own, expected.measurements)
    assert read_table(packed) == read_table(marked) == read_table(own) == expected


def test_damaged_files_are_refused(tmp_path):
    packed = gzip.compress((LAYERS + GOOD * 200).encode())
    broken = packed[:40] + b"\xff" * 20 + packed[60:]
    for name, content in {
        "latin.csv": (LAYERS + GOOD).replace("mine", "Grüße").encode("latin-1"),
        "utf16.csv": (LAYERS + GOOD).encode("utf-16"),
        "cut.csv.gz": packed[:-20],
        "broken.csv.gz": broken,
        "plain.csv.gz": (LAYERS + GOOD).encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_table(tmp_path / name, skip_bad_rows=True)
    for missing in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_table(missing)


# --- tables of others


def irene(op: str, **cells: object) -> str:
    row = {
        "gpu": "GeForce GTX 1070", "model_name": "gpt2", "batch_size": "2.0", "seq_len": "6.0", "op": op, "scope": "h.0",
        "rows_M": "", "in_features": "", "out_features": "", "hidden": 24, "heads": 3, "mem_MiB": 1, "time_s": 1e-4,
        "gpu_energy_nvidia_smi_J": 0.02,
    } | cells  # fmt: skip
    return IRENE + ",".join(str(row[c]) for c in IRENE.strip().split(",")) + "\n"


def test_irene_rows(path):
    linear = only(path, irene("Linear", rows_M=12, in_features=24, out_features=96))
    assert linear.layer == traced(nn.Linear(24, 96), 2, 6, 24)
    assert (linear.hardware, linear.energy_j, linear.mode, linear.tf32, linear.run) == ("gtx1070", 0.02, "eager", "none", "gpt2")
    assert only(path, irene("Linear", rows_M=2, in_features=24, out_features=24)).input_shapes == ((2, 24),)
    assert only(path, irene("LayerNorm", gpu="GeForce GTX 1080 Ti")).hardware == "gtx1080ti"
    norm = traced(nn.LayerNorm(24), 2, 6, 24)
    assert only(path, irene("LayerNorm")).layer == replace(norm, arguments=(*norm.arguments, (MOMENTS_APART, True)))
    assert only(path, irene("Softmax")).layer == traced(nn.Softmax(-1), 2, 3, 6, 6)
    assert only(path, irene("Tanh")).layer == traced(nn.Tanh(), 2, 24)
    product = only(path, irene("MatMul")).layer
    assert (product.kind, product.flop) == ("matmul", 2 * 2 * 3 * 6 * 6 * 8)


@pytest.mark.parametrize(
    ("model", "scope", "looked_up", "rows"),
    [
        ("gpt2", "wte", 12, 50257),
        ("gpt2", "wpe", 6, 1024),
        ("bert-base-uncased", "embeddings.word_embeddings", 12, 30522),
        ("bert-base-uncased", "embeddings.position_embeddings", 6, 512),
        ("bert-base-uncased", "embeddings.token_type_embeddings", 12, 2),
        ("roberta-base", "embeddings.position_embeddings", 12, 514),
        ("roberta-base", "embeddings.token_type_embeddings", 12, 1),
    ],
)
def test_irene_embeddings(path, model, scope, looked_up, rows):
    mem_mib = looked_up * (24 * 4 + 8) / 2**20
    layer = only(path, irene("Embedding", model_name=model, scope=scope, mem_MiB=mem_mib)).layer
    assert layer == traced(nn.Embedding(rows, 24), looked_up // 6, 6)


def test_the_conv1d_of_gpt2_is_the_layer_that_transformers_runs(path):
    module = pytest.importorskip("transformers.pytorch_utils").Conv1D(96, 24)
    assert only(path, irene("Conv1D", rows_M=12, in_features=24, out_features=96)).layer == traced(module, 2, 6, 24)


@pytest.mark.parametrize(
    ("op", "cells", "reason"),
    [
        ("Dropout", {}, "'Dropout' cannot be mapped"),
        ("Linear", {"rows_M": 5, "in_features": 24, "out_features": 9}, "rows_M 5 is neither"),
        ("Linear", {}, "rows_M '' is not a number"),
        ("MatMul", {"heads": 0}, "heads '0' is not a whole number of at least 1"),
        ("MatMul", {"batch_size": 1.5}, "batch_size '1.5' is not a whole number"),
        ("Softmax", {"seq_len": 0}, "seq_len"),
        ("Embedding", {"mem_MiB": 1e-9, "seq_len": 0}, "seq_len"),
        ("Embedding", {"mem_MiB": 7}, "mem_MiB 7 fits neither"),
        ("Embedding", {"model_name": "t5", "scope": "wte", "mem_MiB": 6 * 104 / 2**20}, "'t5' has no known vocabulary"),
        ("Tanh", {"gpu": "GeForce GTX 480"}, "gpu 'GeForce GTX 480' is not one of"),
        ("Tanh", {"gpu_energy_nvidia_smi_J": 0}, "gpu_energy_nvidia_smi_J '0' must be"),
    ],
)
def test_irene_rows_that_fit_nothing_are_refused(path, op, cells, reason):
    with pytest.raises(InputError, match=f"line 2: .*{reason}"):
        read(path, irene(op, **cells))


def test_a_column_that_only_some_rows_need_is_asked_for_by_those(path):
    text = "\n".join(",".join(c for i, c in enumerate(line.split(",")) if i != 6) for line in irene("Linear").splitlines())
    with pytest.raises(InputError, match="no column rows_M"):
        read(path, text)
    text = "op,batch_size,duration_s,cpu_power_W,forward_passes,cpu_energy_J_per_pass,time_s_per_pass\nlinear,2,10,50,100,5,0.1\n"
    with pytest.raises(InputError, match="no column input_size"):
        read(path, text)


def getzner(op: str, **cells: object) -> str:
    row = {
        "batch_size": 2, "image_size": 9, "kernel_size": 3, "in_channels": 4, "out_channels": 6, "stride": 2, "padding": 1,
        "input_size": 16, "output_size": 8, "duration_s": 10, "cpu_power_W": 50, "forward_passes": 100,
        "cpu_energy_J_per_pass": 5.2, "time_s_per_pass": 0.1, "op": op, "test": "",
    } | cells  # fmt: skip
    return GETZNER + ",".join(str(row[c]) for c in GETZNER.strip().split(",")) + "\n"


def test_getzner_rows(path):
    conv = only(path, getzner("conv2d"))
    assert (conv.hardware, conv.time_s, conv.energy_j) == ("xeon-gold-5120", 0.1, 5.2)
    assert conv.layer == traced(nn.Conv2d(4, 6, 3, 2, 1), 2, 4, 9, 9)
    assert only(path, getzner("maxpool2d")).layer == traced(nn.MaxPool2d(3, 2, 1), 2, 4, 9, 9)
    assert only(path, getzner("linear")).layer == traced(nn.Linear(16, 8), 2, 16)
    assert only(path, getzner("softmax")).layer == traced(nn.Softmax(1), 2, 16)
    for name, module in (("relu", nn.ReLU()), ("sigmoid", nn.Sigmoid()), ("tanh", nn.Tanh())):
        assert only(path, getzner(name)).layer == traced(module, 2, 16)
    assert [only(path, getzner("relu", test=x)).run for x in ("", "0.0", "1.0")] == ["getzner", "getzner", "getzner-test"]


@pytest.mark.parametrize(
    ("op", "cells", "reason"),
    [
        ("relu", {"cpu_power_W": 60}, "differs from the energy by more than 10 %"),
        ("relu", {"cpu_power_W": 40}, "differs from the energy"),
        ("relu", {"batch_size": 0}, "below 1"),
        ("relu", {"cpu_energy_J_per_pass": 0}, "must be"),
        ("conv3d", {}, "'conv3d' cannot be mapped"),
        ("conv2d", {"image_size": 1, "padding": 0}, "does not run"),
        ("relu", {"test": "2.0"}, "'2.0' is not 0, 1 or empty"),
    ],
)
def test_getzner_rows_that_contradict_themselves_are_refused(path, op, cells, reason):
    with pytest.raises(InputError, match=reason):
        read(path, getzner(op, **cells))


def test_neurstruc_rows(path):
    m = only(path, NEURSTRUC + "1,4,9,8,6,5,8,3,1,2,1,1,0,1,1,2,0.02,0.004\n")
    assert (m.hardware, m.energy_j, m.run) == ("jetson-nano", 0.02, "neurstruc")
    assert m.layer == traced(nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0), groups=2), 1, 4, 9, 8)
    with pytest.raises(InputError, match=r"is \(1, 6, 5, 8\), not \(1, 6, 4, 8\)"):
        read(path, NEURSTRUC + "1,4,9,8,6,4,8,3,1,2,1,1,0,1,1,2,0.02,0.004\n")


def test_a_reading_of_irene_that_is_repeated_for_every_layer_counts_once(path):
    same, other = irene("Tanh"), irene("Tanh", time_s=2e-4)
    path.write_text(same + same.splitlines()[1] + "\n" + other.splitlines()[1] + "\n")
    assert [m.time_s for m in read_table(path).measurements] == [only(path, same).time_s, 2e-4]
    assert len(read(path, LAYERS + GOOD + GOOD).measurements) == 2, "elsewhere equal rows are repeats"


@pytest.mark.parametrize(
    ("name", "good", "refused"),
    [
        ("heidelberg/layers.csv", 3456, 0),
        ("irene/ops.csv.gz", 3404, 0),  # readings of its 37,195 rows
        ("getzner/layers_cpu.csv", 4712, 702),
        ("neurstruc/conv2d_layers.csv", 1055, 3),
    ],
)
def test_every_row_of_the_real_tables_is_mapped_or_refused_with_a_reason(name, good, refused):
    if not (SHARED_DATA / name).is_file():
        pytest.skip(f"{name} of the public measurements is not beside the project (looked for ../shared/data)")
    table = read_table(SHARED_DATA / name, skip_bad_rows=True)
    assert (len(table.measurements), len(table.bad_rows)) == (good, refused)
    assert {m.layer.known for m in table.measurements} == {True}
    assert all(reason for _, reason in table.bad_rows)
