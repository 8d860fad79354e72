"""The documentation site builds without a warning and shows everything public; its pictures are the library's."""

import csv
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pytest import approx

pytest.importorskip("mkdocs")

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "ops": "tost.ops",
    "nn": "tost.nn",
    "models": "tost.models",
    "language": "tost.models.language",
    "multimodal": "tost.models.multimodal",
    "rates": "tost.rates",
    "analysis": "tost.analysis",
    "training": "tost.training",
    "evaluation": "tost.evaluation",
    "generation": "tost.generation",
    "deploy": "tost.deploy",
}
LOADED = re.compile(r'<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href|srcset)="([^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; mkdocs ends with an error for any warning, mkdocstrings' among them."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_comes_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(
            r'<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href|srcset)="([^"]+)"', page.read_text("utf-8")
        )
        assert loaded and not [address for address in loaded if re.match(r"(https?:)?//", address)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", sheet.read_text("utf-8")), sheet


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_documented(site, name):
    package = PACKAGES[name]
    shown = set(
        re.findall(rf'id="{re.escape(package)}\.(?:\w+\.)?(\w+)"', (site / "api" / f"{name}.html").read_text("utf-8"))
    )
    tables = {
        "MIXERS",
        "BACKENDS",
        "PRESETS",
        "IMAGE_TOKEN",
        "DARK",
        "LIGHT",
    }  # constants, shown where they have a docstring
    assert set(importlib.import_module(package).__all__) - shown <= tables


def test_arguments_become_items():
    sys.path.insert(0, str(ROOT / "docs/scripts"))
    try:
        from docstrings import listed
    finally:
        sys.path.pop(0)
    text = (
        "One sentence: this stays.\n\n    y = f(x)\n\nx: [B, N], the\ntokens.  mask, dtype: as in `g`.\n"
        "Returns [B].  Raises ValueError."
    )
    assert listed(text) == (
        "One sentence: this stays.\n\n    y = f(x)\n\n- `x`: [B, N], the\n  tokens.\n- `mask`, `dtype`: as in `g`.\n"
        "- **Returns** [B].\n- **Raises** ValueError."
    )
    prose = "First.\n\nProse with a colon: nothing else."
    assert listed(prose) == prose


def test_pictures_show_what_the_library_computes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/scripts"))
    import idea

    page = (ROOT / "docs/idea.md").read_text("utf-8")
    for name, make in idea.FIGURES.items():
        drawing, path = make(), ROOT / "docs/images" / f"idea-{name}.csv"
        told = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        assert len(told) == len(drawing.rows), f"{path.name}: `python docs/scripts/idea.py` draws it again"
        for row, again in zip(told, drawing.rows):
            for key, value in again.items():
                assert row[key] == value if isinstance(value, str) else float(row[key]) == approx(value, rel=1e-3), (
                    path.name
                )
        for theme in ("", "-dark"):
            assert path.with_name(f"idea-{name}{theme}.png").is_file() and f"images/idea-{name}{theme}.png" in page
