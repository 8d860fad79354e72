"""The floors of the house: imports point down, and `import tost` is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "tost"

# A file may import its own room and rooms on lower floors. docs/design.md shows the same picture.
FLOORS = [
    {"__main__"},
    {"cli", "demo", "app"},
    {"doctor", "evaluation", "deploy"},
    {"generation"},
    {"bench"},
    {"analysis"},
    {"training"},
    {"models", "data"},
    {"rates"},
    {"nn"},
    {"ops"},
    {"files", "extras", "shipped"},
]
LEAVES = {"integrations"}  # may import anything, imported by nobody

FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = (
    "transformers",
    "timm",
    "triton",
    "numba",
    "kornia",
    "huggingface_hub",
    "jsonargparse",
    "matplotlib",
    "sklearn",
    "datasets",
)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(source: str, package: str):
    """Rooms of tost that a source imports, anywhere in it, TYPE_CHECKING blocks and functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, module] if module else base)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "tost" else [module]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "tost" and len(parts) > 1 and (parts[1] in FLOOR_OF or parts[1] in LEAVES):
                yield parts[1], node.lineno


def violation(importer: str, imported: str) -> str | None:
    if importer == imported or importer in LEAVES or importer == "__init__":
        return None
    if imported in LEAVES:
        return f"{imported} is imported by nobody"
    if FLOOR_OF[imported] <= FLOOR_OF[importer]:
        return f"{importer} may not look up (or sideways) to {imported}"
    return None


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in FLOOR_OF or room in LEAVES or room == "__init__", (
        f"{room} has no floor: add it to FLOORS and docs/design.md"
    )
    package = ".".join(["tost", *path.relative_to(ROOT).parts[:-1]])
    wrong = [(violation(room, other), line) for other, line in imported_rooms(path.read_text("utf-8"), package)]
    assert not [f"line {line}: {why}" for why, line in wrong if why]


@pytest.mark.parametrize(
    ("importer", "source", "bad"),
    [
        ("ops", "from tost.nn import TSSA", True),
        ("nn", "from tost.ops import tssa", False),
        ("rates", "def f():\n    import tost.models.vision", True),
        ("models", "from .. import data", True),
        ("bench", "import importlib\nimportlib.import_module('tost.cli')", True),
        ("training", "from tost import models", False),
        ("ops", "from tost.integrations import timm", True),
    ],
)
def test_the_rule_can_fail(importer, source, bad):
    found = [violation(importer, other) for other, _ in imported_rooms(source, f"tost.{importer}")]
    assert any(found) == bad


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in out.stdout.split()}


def test_import_loads_nothing_heavier_than_torch():
    own = loaded_after("import tost") - loaded_after("import torch")
    assert not own & set(HEAVY)
    own = loaded_after("import tost; tost.tssa; tost.TSSA") - loaded_after("import torch")
    assert not own & set(HEAVY)


def test_the_light_import_test_can_fail():
    assert "numba" in loaded_after("import tost, numba") - loaded_after("import torch")
