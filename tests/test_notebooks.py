"""The notebooks run from start to end, say what their pages say, and are kept without outputs."""

import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parent.parent / "docs/notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.fixture
def notebooks(monkeypatch):
    """The script that runs notebooks and writes their pages."""
    monkeypatch.syspath_prepend(str(FOLDER.parent / "scripts"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import notebooks

    yield notebooks
    del sys.modules["notebooks"]


def said(notebook):
    return "".join(o.text for cell in notebook.cells for o in cell.get("outputs", ()) if o.get("name") == "stdout")


def test_the_drop_in_layer_learns(notebooks):
    told = said(notebooks.executed(FOLDER / "drop-in-layer.ipynb"))
    accuracy = {name: float(value) for name, value in re.findall(r"^(\w+) .* ([\d.]+) % of the held-out", told, re.M)}
    weights = {name: int(n.replace(",", "")) for name, n in re.findall(r"^(\w+) +([\d,]+) weights", told, re.M)}
    assert accuracy.keys() == {"softmax", "TSSA"} and min(accuracy.values()) > 94
    assert weights["TSSA"] < weights["softmax"]


def test_a_trained_model_is_read(notebooks):
    told = said(notebooks.executed(FOLDER / "read-a-model.ipynb"))
    changes = [float(change) for change in re.findall(r"([+-][\d.]+) % by attention", told)]
    assert len(changes) == 6 and max(changes) < 0  # every attention half compresses
    heads = [[float(n) for n in line.split()[1:]] for line in re.findall(r"^ +\d+ +\d\..*$", told, re.M)]
    assert len(heads) == 3 and all(a < b for a, b in zip(heads[0], heads[1]))  # the dilution


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped_and_the_page_is_this_notebook(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    page = (FOLDER / f"{name}.md").read_text("utf-8")
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert cell.source in page, (
            f"{name}.md is of another notebook: `python docs/scripts/notebooks.py {name}` writes it"
        )
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page):
        assert (FOLDER / picture).is_file()
    assert not re.search(r"/(root|home|tmp|Users)/", page)
