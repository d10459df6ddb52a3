"""What is installed: the package with its models, typed, and callable without its script."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import resources
from importlib.metadata import requires
from pathlib import Path

import pytest

import wattlayer as wl
from wattlayer.files import user_folder
from wattlayer.model.folders import shipped_models, user_models
from wattlayer.model.residual import Residual

ROOT = Path(__file__).parent.parent


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (resources.files("wattlayer") / "py.typed").is_file()


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "wattlayer", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("wattlayer ") and done.stderr == ""


def test_an_xgboost_that_reads_other_trees_is_refused(monkeypatch) -> None:
    """Before 3.1 it takes 0.5, and says nothing, for the number that newer ones write as a list."""
    import xgboost

    assert "xgboost>=3.1" in (requires("wattlayer") or ())
    record = wl.load_model("a30").regressor.time.to_json()
    saved, parameters = xgboost.Booster.save_config, record["trees"]["learner"]["learner_model_param"]
    features, written = int(parameters["num_feature"]), parameters["base_score"]
    assert written.startswith("["), "as newer ones write it"
    assert Residual.from_json(record, features).trees.num_boosted_rounds() > 0
    monkeypatch.setattr(xgboost.Booster, "save_config", lambda self: saved(self).replace(written, "5E-1"))
    with pytest.raises(wl.InputError, match=rf"XGBoost {xgboost.__version__} reads .* wrongly: install xgboost 3.1 or newer"):
        Residual.from_json(record, features)


def test_a_user_without_a_home_has_no_models_of_their_own(monkeypatch) -> None:
    """As in a container that runs as a number: no HOME and no entry among the users."""
    pwd = pytest.importorskip("pwd")

    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("WATTLAYER_HOME", "HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert not user_folder().exists() and user_models() == []
    assert wl.load_model("a30").hardware == "a30"


def test_names_between_colons_are_no_emoji(tmp_path, run) -> None:
    folder = tmp_path / "a[red]b:key:"
    folder.mkdir()
    (folder / "net.py").write_text("from torch import nn\n\ndef factory():\n    return nn.Conv2d(3, 8, 3)\n")
    name = f"{folder}/net.py:factory"
    for command in ("trace", "predict"):
        code, out, _ = run(command, name, "--input", "2x3x8x8")
        assert code == 0 and out.startswith(name), out


def test_names_of_files_that_are_no_text_are_written_as_numbers(tmp_path, run) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xe9t.py"))
    path.write_text("from torch import nn\n\ndef factory():\n    return nn.Conv2d(3, 8, 3)\n")
    for command in ("report", "predict", "trace", "compare"):
        output = tmp_path / f"{command}.txt"
        csv = ("--format", "csv") if command == "compare" else ()
        assert run(command, f"{path}:factory", "--input", "2x3x8x8", "--output", output, *csv)[::2] == (0, "")
        assert r"n\udce9t.py" in output.read_text(encoding="utf-8").replace("\\\\", "\\")


@pytest.mark.slow
def test_the_wheel_works_on_its_own_and_the_source_archive_has_its_tests(tmp_path) -> None:
    subprocess.run([sys.executable, "-m", "build", "--quiet", "--outdir", tmp_path, ROOT], check=True)
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"wattlayer/models/{name}.json" for name in shipped_models()} | {"wattlayer/py.typed"} <= set(names)
    assert not [x for x in names if x.startswith("wattlayer/models/") and x.endswith(".py")], "scripts of this repository"
    with tarfile.open(archive) as opened:
        held = {x.partition("/")[2] for x in opened.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert {x for x in tracked if x and not x.startswith((".ci", ".gitignore"))} <= held
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    command = [sys.executable, "-c", "import wattlayer as wl; print(wl.__file__, wl.load_model('a30').metadata.rows)"]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert told.startswith(str(tmp_path / "installed")) and int(told.split()[1]) > 1000
