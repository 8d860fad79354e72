"""README and docs tell the truth: Python snippets run, commands and their options exist, links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


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


@pytest.mark.parametrize(("page", "line", "code"), SNIPPETS, ids=[f"{p.name}:{n}" for p, n, _ in SNIPPETS])
def test_snippet_runs(page, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command):
    words = command.split()[1:]
    names = [word for word in words if not word.startswith("-")]
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    name = names[: 2 if names[0] == "bench" and len(names) > 1 else 1]
    done = subprocess.run([sys.executable, "-m", "tost", *name, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unknown = {option for option in options if option not in done.stdout}
    assert not unknown, f"{command}: not in the help: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_there_are_snippets_and_commands():
    assert any(page.name == "README.md" for page, _, _ in SNIPPETS)
    assert COMMANDS
