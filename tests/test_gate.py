"""Budgets: what passes and what fails, baselines that may not be compared, and reports as their readers parse them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import network, one_line  # noqa: F401  (fixtures)
from torch import nn

import wattlayer as wl
from wattlayer.errors import InputError
from wattlayer.model.launches import Launches
from wattlayer.whatif import change
from wattlayer.whatif.gate import Verdict, _differences, budgets, github_commands, junit

ROOT = Path(__file__).parents[1]


@cache
def net(width: int = 16, depth: int = 3) -> wl.Estimate:
    with torch.device("meta"):
        layers = [nn.Conv2d(3, width, 3), *(nn.Conv2d(width, width, 3) for _ in range(depth)), nn.ReLU()]
    return wl.predict(nn.Sequential(*layers).eval(), torch.empty(8, 3, 64, 64, device="meta"))


@pytest.fixture
def baseline(tmp_path) -> Path:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(net().to_json()))
    return path


def judged(frac_of: object, estimate: wl.Estimate) -> Verdict:
    return budgets(None, str(frac_of))[0].judge(estimate)


def test_the_same_network_keeps_to_its_own_baseline(baseline):
    verdict = judged(baseline, net())
    assert not verdict.over and verdict.notes == ()
    assert verdict.says.endswith("within the budget of 1"), "and no word of a difference"
    assert not judged(f"{baseline}=0.9999999", net()).over, "a millionth is rounding"
    assert judged(f"{baseline}=0.99", net()).over


def test_the_share_decides_between_the_old_and_the_new_network(baseline):
    old, new = net(), net(depth=4)
    ratio = new.energy_j / old.energy_j
    assert ratio > 1.05
    assert judged(f"{baseline}={ratio * 1.01}", new).over is False
    over = judged(f"{baseline}={ratio * 0.99}", new)
    assert over.over and f"{ratio:.4g} x baseline.json" in over.says
    assert over.limit_j == pytest.approx(old.energy_j * ratio * 0.99)


@pytest.mark.parametrize("after", [{"depth": 5}, {"width": 24}, {"width": 24, "depth": 1}])
def test_the_interval_of_the_difference_is_that_of_whatif(baseline, after):
    old, new = net(), net(**after)
    low, high = (x * 8 for x in change(old, new).interval_j)  # per pass, as the baseline
    assert f"({low:+.4g} to {high:+.4g} J)" in judged(baseline, new).says
    assert ("cannot tell it from no change" in judged(baseline, new).says) is (low < 0 < high)


@pytest.mark.parametrize("sum_spread_frac", [0.0, 0.5])
def test_launch_gaps_and_sums_of_layers_widen_the_interval_as_in_whatif(tmp_path, sum_spread_frac):
    told = replace(net().model, launches=Launches(sum_spread_frac=sum_spread_frac))
    old, new = (
        replace(net(depth=d), model=told, mode="eager", gap_energy_j=0.05 * d, gap_interval_j=(0.03 * d, 0.09 * d))
        for d in (3, 5)
    )
    path = tmp_path / "eager.json"
    path.write_text(json.dumps(old.to_json()))
    low, high = (x * 8 for x in change(old, new).interval_j)
    assert f"({low:+.4g} to {high:+.4g} J)" in judged(path, new).says


def test_layers_of_equal_shapes_that_cost_otherwise_do_not_cancel():
    cheap, dear = (("conv2d [] []", 0.9 * x, x, x / 0.9) for x in (1.0, 2.0))
    assert sorted(_differences([cheap], [dear])[0].tolist()) == [-1.0, 2.0]
    assert _differences([cheap], [cheap])[0].tolist() == [0.0]
    near, same = (("conv2d [] []", 0.9 * x, x, x / 0.9) for x in (1.001, 1.000001))
    assert sorted(_differences([cheap], [near])[0].tolist()) == [-1.0, 1.001]
    assert _differences([cheap], [same])[0].tolist() == [0.0], "a millionth is rounding"


@pytest.mark.parametrize("change", [{"total": 2.0}, {"total": True}, {"layers": []}])
def test_a_baseline_whose_layers_are_not_its_total_is_refused(baseline, change):
    record = json.loads(baseline.read_text())
    if "total" in change:
        change = {"total": record["total"] | {"energy_j": change["total"]}}
    baseline.write_text(json.dumps(record | change))
    with pytest.raises(InputError, match="is no prediction of schema 1"):
        judged(baseline, net())


@pytest.mark.parametrize(("factor", "sound"), [(1 + 1e-4, False), (1 + 1e-7, True)])
def test_a_total_may_differ_from_its_layers_by_rounding_alone(baseline, factor, sound):
    record = json.loads(baseline.read_text())
    record["total"]["energy_j"] *= factor
    baseline.write_text(json.dumps(record))
    if sound:
        assert not judged(baseline, net()).over
    else:
        with pytest.raises(InputError, match="is no prediction of schema 1"):
            judged(baseline, net())


@pytest.mark.parametrize("end", ["energy_low_j", "energy_high_j"])
def test_a_baseline_with_a_layer_outside_its_interval_is_refused(baseline, end):
    record = json.loads(baseline.read_text())
    layer = record["layers"][0]
    layer[end] = layer["energy_j"] * (1.1 if end == "energy_low_j" else 0.9)
    baseline.write_text(json.dumps(record))
    with pytest.raises(InputError, match="is no prediction of schema 1"):
        judged(baseline, net())


def test_a_condition_that_only_the_prediction_states_is_refused_as_well(baseline):
    record = json.loads(baseline.read_text())
    del record["tf32"]
    baseline.write_text(json.dumps(record))
    with pytest.raises(InputError, match="tf32 not stated against conv"):
        judged(baseline, net())


def test_a_saving_is_told_with_its_sign(baseline):
    old, new = net(), net(depth=1)
    verdict = judged(f"{baseline}=0.5", new)
    assert f"; the difference is {new.energy_j - old.energy_j:+.4g} J (-" in verdict.says


def test_a_verdict_names_its_budget_as_it_was_given(baseline):
    assert judged(f"{baseline}=1.0625", net()).budget == f"budget-frac-of {baseline}=1.0625"
    assert judged(baseline, net()).budget == f"budget-frac-of {baseline}=1"
    assert budgets(123456.789, None)[0].judge(net()).budget == "budget-j 123456.789"


@pytest.mark.parametrize(
    ("name", "value"),
    [("gap_energy_j", None), ("gap_low_j", None), ("gap_high_j", None), ("gap_low_j", 1.0), ("gap_high_j", -1.0)],
)
def test_a_baseline_that_does_not_say_what_gaps_cost_is_refused(baseline, name, value):
    record = json.loads(baseline.read_text())
    total = {key: x for key, x in (record["total"] | {name: value}).items() if x is not None}
    baseline.write_text(json.dumps(record | {"total": total}))
    with pytest.raises(InputError, match="is no prediction of schema 1"):
        judged(baseline, net())


def test_an_input_of_another_shape_is_said_and_does_not_decide(baseline):
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()).eval()
    small = wl.predict(module, torch.empty(8, 3, 32, 32, device="meta"))
    verdict = judged(baseline, small)
    assert not verdict.over and "the baseline reads another input: 8x3x64x64 against 8x3x32x32" in verdict.notes


def test_a_verdict_writes_as_many_digits_as_it_takes_to_see_why():
    joules = net().energy_j
    verdict = budgets(joules * (1 - 1e-5), None)[0].judge(net())
    spent, allowed = re.fullmatch(r"(\S+) J is over the budget of (\S+) J", verdict.says).groups()
    assert float(spent) > float(allowed)
    close = budgets(joules * (1 - 1e-9), None)[0].judge(net())
    assert close.says == f"{joules:.4g} J is within the budget of {joules:.4g} J", "no budget turns on a millionth"
    assert budgets(1e9, None)[0].judge(net()).says == f"{joules:.4g} J is within the budget of 1e+09 J"


def test_the_baseline_of_another_network_has_fewer_errors_in_common(baseline):
    after = net(width=24, depth=1)
    baseline.write_text(json.dumps(json.loads(baseline.read_text()) | {"network": "other"}))
    low, high = (x * 8 for x in change(net(), after, of_one_network=False).interval_j)
    assert f"({low:+.4g} to {high:+.4g} J)" in judged(baseline, after).says
    assert change(net(), after, of_one_network=False).interval_j != change(net(), after).interval_j


def test_another_network_or_version_is_said_and_does_not_decide(baseline):
    record = json.loads(baseline.read_text())
    baseline.write_text(json.dumps(record | {"network": "other", "wattlayer": "0.0.1", "torch": "2.0.0"}))
    verdict = judged(baseline, net())
    assert f"the baseline was traced by torch 2.0.0, this by {torch.__version__}" in verdict.notes
    assert not verdict.over
    assert "another network: other" in verdict.notes[0] and "0.0.1" in verdict.notes[1]


@pytest.mark.parametrize(
    ("was", "named"),
    [
        ({"hardware": "rtx2080ti"}, "hardware rtx2080ti against a30"),
        ({"dtype": "float16"}, "dtype float16 against float32"),
        ({"tf32": "none"}, "tf32 none against conv"),
        ({"mode": "eager"}, "mode eager against graph"),
        ({"batch": 1}, "batch 1 against 8"),
        ({"stated later": "twice"}, "stated later twice against not stated"),
        ({"model": {"sha256": "0123456789abcdef"}}, "model file 0123456789ab against"),
    ],
)
def test_a_baseline_under_other_conditions_is_refused(baseline, was, named):
    baseline.write_text(json.dumps(json.loads(baseline.read_text()) | was))
    with pytest.raises(InputError, match=re.escape(named)):
        judged(baseline, net())


def test_a_power_limit_is_a_condition(run, network, tmp_path):  # noqa: F811
    arguments = ("predict", network, "--input", "4x3x64x64")
    saved = tmp_path / "saved.json"
    assert run(*arguments, "--format", "json", "--output", saved)[0] == 0
    code, _, err = run(*arguments, "--power-limit-w", "100", "--budget-frac-of", saved)
    assert code == 2 and "conditions none against" in err and "100 W" in err


def test_what_is_no_baseline_or_no_share_is_refused_in_one_line(baseline, tmp_path):
    for text, named in (
        ("nowhere.json", "cannot be read"),
        (f"{baseline}=0", "no share above 0"),
        (f"{baseline}=nan", "no share"),
        (f"{baseline}=inf", "no share"),
    ):
        with pytest.raises(InputError, match=named):
            budgets(None, text)
    for record in ("[]", "{", "{}", "[" * 100_000, '{"schema": 1}', json.dumps(json.loads(baseline.read_text()) | {"schema": 2})):
        baseline.write_text(record)
        with pytest.raises(InputError, match="no prediction of schema 1"):
            budgets(None, str(baseline))
    for budget_j in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            budgets(budget_j, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**1100) | st.floats() | st.text(max_size=5) | st.just("1e-3"),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["energy_j", "sha256", "kind", "x"]), x, max_size=3),
    max_leaves=5,
)
FIELDS = ("schema", "wattlayer", "network", "hardware", "batch", "mode", "model", "total", "layers", "energy_j", "layer")


@settings(max_examples=300, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_whatever_stands_in_a_baseline_it_is_judged_or_refused(tmp_path, field, value):
    record = json.loads(json.dumps(net().to_json()))
    if field == "energy_j":
        record["total"]["energy_j"] = value
    elif field == "layer":
        record["layers"][0]["energy_high_j"] = value
    else:
        record[field] = value
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(record))
    try:
        assert "\n" not in judged(path, net()).says
    except InputError as error:
        assert "\n" not in str(error)


def test_a_file_with_an_equals_sign_in_its_name_is_found(baseline):
    odd = baseline.rename(baseline.with_name("width=0.5"))
    assert not judged(odd, net()).over
    assert not judged(f"{odd}=1.01", net()).over


# --- reports


AWKWARD = Verdict(
    "budget-j 0.5", 'net <&"]]>\x01\ud800, 100%: a', "a30", 0.7, 0.5, "0.7 J\r\nis 140% of it\x00", ("a: note, too",)
)


def test_junit_is_xml_with_a_case_a_budget_and_a_failure_where_it_is_exceeded():
    fine = Verdict("budget-j 1", "net", "a30", 0.7, 1.0, "0.7 J is within the budget of 1 J")
    root = ElementTree.fromstring(junit([AWKWARD, fine]).encode())
    suite = root.find("testsuite")
    assert root.tag == "testsuites" and suite is not None
    for element in (root, suite):
        assert {k: element.get(k) for k in ("tests", "failures", "errors")} == {"tests": "2", "failures": "1", "errors": "0"}
    assert suite.get("skipped") == "0"
    bad, good = suite.findall("testcase")
    assert bad.get("classname") == 'net <&"]]>, 100%: a on a30' and bad.get("name") == "budget-j 0.5"
    failure = bad.find("failure")
    assert failure is not None and "140%" in str(failure.get("message")) and good.find("failure") is None
    assert "a: note, too" in bad.findtext("system-out", "")


def test_githubs_commands_are_escaped_as_the_runner_reads_them():
    error, warning = github_commands([AWKWARD])
    match = re.fullmatch(r"::error title=([^:,\r\n]*)::([^\r\n]*)", error)
    assert match, error
    text = match[2].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    title = match[1].replace("%3A", ":").replace("%2C", ",").replace("%25", "%")
    assert text == AWKWARD.says and title == f"{AWKWARD.network} on a30: budget-j 0.5"
    assert warning == "::warning title=budget-j 0.5::a: note, too"


def test_reports_say_what_is_to_be_minded_of_the_prediction_once():
    """A reader of the report alone sees no table: what the model rests on, kinds never measured, what was taken for granted."""
    with torch.device("meta"):
        celu = nn.Sequential(nn.Conv2d(3, 8, 3), nn.CELU())
    e = wl.predict(celu, torch.empty(1, 3, 16, 16, device="meta"), hardware="h100-pcie", dtype="bfloat16")
    e = replace(e, trace=replace(e.trace, assumptions=("images not given",)))
    verdicts = [budgets(x * e.energy_j, None)[0].judge(e) for x in (0.001, 1000)]
    assert all(v.minds == e.minds and v.notes == () for v in verdicts)
    assert "data sheet" in e.minds[0] and "celu" in e.minds[1] and "images not given" in e.minds
    for case in ElementTree.fromstring(junit(verdicts).encode()).iter("testcase"):
        assert case.findtext("system-out", "").splitlines()[1:] == list(e.minds)
    warnings = [x for x in github_commands(verdicts) if x.startswith("::warning title=Sequential on h100-pcie::")]
    assert [x.rpartition("::")[2].replace("%25", "%") for x in warnings] == list(e.minds)


def test_joules_within_the_interval_are_said_to_be_so_and_still_decide():
    low, high = net().interval_j
    said = f"the budget lies within the interval of the prediction, {low:.4g} to {high:.4g} J at 90%"
    for budget_j, over, notes in ((low * 0.99, True, ()), (low * 1.01, True, (said,)), (high * 0.99, False, (said,)),
                                  (high * 1.01, False, ())):  # fmt: skip
        verdict = budgets(budget_j, None)[0].judge(net())
        assert (verdict.over, verdict.notes) == (over, notes)


# --- on the command line


def test_exit_codes_and_reports_of_the_command(run, network, tmp_path):  # noqa: F811
    arguments = ("predict", network, "--input", "4x3x64x64", "--format", "json")
    saved, report = tmp_path / "saved.json", tmp_path / "report.xml"
    assert run(*arguments, "--output", saved) == (0, "", "")
    gate = ("--budget-frac-of", f"{saved}=1.01", "--budget-j", "1000", "--junit", report, "--github")
    code, out, err = run(*arguments, *gate)
    assert code == 0 and json.loads(out) == json.loads(saved.read_text()), "nothing but the result goes to stdout"
    assert err.count("::notice title=") == 2
    assert ElementTree.parse(report).getroot().get("failures") == "0"
    code, out, err = run(*arguments, *gate[:-1], "--input", "4x3x96x96", "--github")
    assert code == 1 and json.loads(out)["batch"] == 4
    assert err.count("::error title=") == 1 and err.count("::notice title=") == 1 and "over the budget of 1.01" in err
    assert ElementTree.parse(report).getroot().get("failures") == "1"
    one_line(run(*arguments, *gate, "--input", "8x3x64x64"), "batch 4 against 8")
    assert not report.exists(), "the verdict on an earlier run is none on one that was refused"
    report.write_text("earlier")
    one_line(run(*arguments, "--budget-frac-of", tmp_path / "none.json", "--junit", report), "none.json cannot be read")
    assert not report.exists()
    kept, link = tmp_path / "kept.xml", tmp_path / "link.xml"
    kept.write_text("earlier")
    link.symlink_to(kept)
    assert run(*arguments, *gate[:-3], "--junit", link)[0] == 0
    assert link.is_symlink() and ElementTree.parse(kept).getroot().get("failures") == "0"


def test_a_run_does_not_take_the_place_of_its_own_baseline(run, network, tmp_path):  # noqa: F811
    """It would exceed its budget once and keep to it ever after."""
    arguments = ("predict", network, "--input", "4x3x64x64", "--format", "json")
    saved, report = tmp_path / "saved.json", tmp_path / "report.xml"
    run(*arguments, "--output", saved)
    content, gate = saved.read_text(), ("--budget-frac-of", f"{saved}=1.01")
    one_line(run(*arguments, *gate, "--output", saved), f"--output {saved} is a file that is read")
    one_line(run(*arguments, *gate, "--junit", saved), f"--junit {saved} is a file that is read")
    one_line(run(*arguments, *gate, "--output", report, "--junit", report), f"--junit {report} is where --output goes")
    within = tmp_path / "folder" / ".." / "report.xml"
    within.parent.parent.mkdir()
    one_line(run(*arguments, *gate, "--output", report, "--junit", within), f"--junit {within} is where --output goes")
    assert saved.read_text() == content and not report.exists()


@pytest.mark.parametrize(
    "words",
    [("predict", "--budget-j", "1", "--junit"), *((x, "--output") for x in ("predict", "trace", "report", "advise", "compare"))],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_no_result_takes_the_place_of_the_networks_own_file(run, network, tmp_path, words):  # noqa: F811
    source = Path(network.rpartition(":")[0])
    before, (command, *options) = source.read_text(), words
    one_line(run(command, network, "--input", "4x3x64x64", *options, source), f"{options[-1]} {source} is a file that is read")
    assert source.read_text() == before


def test_every_budget_that_is_given_is_judged(run, network, tmp_path):  # noqa: F811
    arguments = ("predict", network, "--input", "4x3x64x64")
    assert run(*arguments, "--budget-j", "1e9", "--budget-j", "1e-9")[0] == 1
    code, _, err = run(*arguments, "--budget-j", "1e-9", "--budget-j", "1e9")
    assert code == 1 and "over the budget of 1e-09 J" in err and "within the budget of 1e+09 J" in err
    one_line(run(*arguments, "--budget-j", "inf"), "budget-j inf must be a finite number above 0")
    one_line(run(*arguments, "--budget-j", "1", "--budget-j", "0.5J"), "--budget-j", "'0.5J'")


def test_a_gate_without_a_budget_or_under_other_conditions_is_bad_input(run, network, tmp_path):  # noqa: F811
    arguments = ("predict", network, "--input", "4x3x64x64", "--format", "json")
    saved = tmp_path / "saved.json"
    run(*arguments, "--output", saved)
    one_line(run(*arguments, "--junit", tmp_path / "x.xml"), "--budget-j")
    one_line(run(*arguments, "--github"), "--budget-j")
    one_line(run("predict", network, "--input", "8x3x64x64", "--budget-frac-of", saved), "batch 4 against 8")
    one_line(run(*arguments, "--budget-frac-of", tmp_path / "no.json"), "no.json", "--format json")


def test_the_examples_of_the_page_are_yaml_whose_commands_run(run, network, tmp_path, monkeypatch):  # noqa: F811
    """The page's baseline, its pre-commit hook and its action, on a network of the name that the page gives it."""
    yaml = pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(Path(network.rpartition(":")[0]).read_text())
    page = (ROOT / "docs" / "gate.md").read_text()
    examples = [yaml.safe_load(text) for text in re.findall(r"^```yaml[^\n]*\n(.*?)^```", page, re.DOTALL | re.MULTILINE)]
    steps = [step["run"] for x in examples for job in x.get("jobs", {}).values() for step in job["steps"] if "run" in step]
    hooks = [hook["entry"] for x in examples for repo in x.get("repos", []) for hook in repo["hooks"]]
    assert len(steps) >= 2 and hooks
    saving = re.search(r"^wattlayer predict .*--output.*$", page, re.MULTILINE)
    assert saving
    commands = [saving[0], *(line for text in (*steps, *hooks) for line in text.splitlines() if line.startswith("wattlayer "))]
    assert len(commands) >= 3
    for command in commands:
        assert run(*shlex.split(command)[1:])[0] == 0, command
