"""Every notebook runs from top to bottom in a fresh kernel, in its own folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NEEDS = {"1": ("torchvision",), "2": ("torchvision",), "4": ("transformers",)}


def test_there_are_five_and_none_holds_an_output():
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not [cell for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)], path.name


def test_the_simulated_one_says_so_first():
    first = nbformat.read(FOLDER / "2-your-own-hardware.ipynb", as_version=4).cells[0].source
    assert "Everything below is simulated" in first


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    for library in NEEDS.get(path.stem[0], ()):
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert shown, "a notebook that shows nothing"
    told = [o.text for o in shown if o.output_type == "stream" and o.name == "stderr"]
    assert not [text for text in told if "Warning" in text and "TqdmWarning" not in text]  # tqdm misses a widget library
