"""README and docs tell the truth: Python snippets run, commands and their options exist, links lead somewhere."""

import contextlib
import functools
import io
import re
import sys
from pathlib import Path

import pytest
import torch

import tost.models.vision_config
import tost.nn
import tost.ops.api
from tost.cli import main
from tost.models import create_model, list_models
from tost.shipped import SHIPPED

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(page, language):
    """(line, text) of every block in `language`."""
    text = page.read_text("utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
        yield text[: match.start()].count("\n") + 2, match.group(1)


SNIPPETS = [(page, line, code) for page in PAGES for line, code in fenced(page, "python")]
COMMANDS = sorted(
    {
        command.strip().removeprefix(".venv/bin/")
        for page in PAGES
        for language in ("bash", "sh", "console")
        for _, block in fenced(page, language)
        for command in re.findall(r"^(?:\$ )?((?:\.venv/bin/)?tost [^#\n]*)", block, re.M)
    }
)


@pytest.fixture
def tables(monkeypatch):
    """Snippets may add to the tables of mixers, models and backends; afterwards these are as they were."""
    monkeypatch.setattr(tost.ops.api, "BACKENDS", tost.ops.api.BACKENDS)
    known = [dict(table) for table in (tost.nn.MIXERS, tost.models.vision_config.VARIANTS)]
    yield
    for table, entries in zip((tost.nn.MIXERS, tost.models.vision_config.VARIANTS), known):
        table.clear()
        table.update(entries)
    for name in [name for name in sys.modules if name == "tost.ops.mine"]:
        del sys.modules[name], tost.ops.api._loaded["mine"]


@pytest.mark.parametrize(("page", "line", "code"), SNIPPETS, ids=[f"{p.name}:{n}" for p, n, _ in SNIPPETS])
def test_snippet_runs(page, line, code, tmp_path, monkeypatch, tables):
    monkeypatch.chdir(tmp_path)
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), {"__name__": "snippet"})


@functools.cache
def help_of(*name):
    """What `tost NAME --help` prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        assert main([*name, "--help"]) == 0
    return told.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command):
    words = command.split()[1:]
    names = [word for word in words if not word.startswith("-")]
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    text = help_of(*names[: 2 if names[0] == "bench" and len(names) > 1 else 1])
    unknown = {option for option in options if option not in text}
    assert not unknown, f"{command}: not in the help: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for target in [*re.findall(r"\]\(([^)#]+)[^)]*\)", text), *pictures]:
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_there_are_snippets_and_commands():
    assert any(page.name == "README.md" for page, _, _ in SNIPPETS)
    assert COMMANDS


def test_the_table_of_models_is_the_registry():
    rows = re.findall(r"^\| `(tost_\w+_)p16`, `_p8` \| (.*)$", (ROOT / "docs/models.md").read_text("utf-8"), re.M)
    told = {}
    for stem, cells in rows:
        *_, p16, p8, _, _ = cells.split("|")
        told |= {f"{stem}p16": int(p16.replace(",", "")), f"{stem}p8": int(p8.replace(",", ""))}
    with torch.device("meta"):
        counts = {name: sum(p.numel() for p in create_model(name).parameters()) for name in told}
    assert told == counts
    assert set(told) == {name for name in list_models() if "nano" not in name}


def test_shipped_models_are_on_the_page():
    section = (ROOT / "docs/models.md").read_text("utf-8").partition("## Models that ship")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == set(SHIPPED)
