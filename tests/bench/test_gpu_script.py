"""benchmarks/gpu.sh plans all groups within ten minutes, and goes on past a part that fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tost.bench.command import GROUPS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
pytestmark = pytest.mark.skipif(not (shutil.which("bash") and shutil.which("timeout")), reason="no bash or timeout")
STUB = """#!/bin/sh
echo "$@" >> "$STUB_LOG"
case "$*" in
  *pytest\\ -q*) exit 3 ;;
  *tune*) sleep 60 ;;
esac
"""


def call(*arguments, **environment):
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_the_script_is_right_for_bash():
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0


def test_the_plan_has_every_group_and_fits(tmp_path):
    done = call("--dry-run", tmp_path / "out")
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    for group in GROUPS:
        assert f"tost bench {group} --device cuda --dtype bfloat16 --out {tmp_path / 'out'}" in done.stdout
    assert "pytest -q -n 8 tests/ops/test_exact.py" in done.stdout and "tost.ops.triton.tune" in done.stdout
    assert int(re.search(r"(\d+) seconds in all", done.stdout)[1]) < 600
    assert sum(map(int, re.findall(r"at most +(\d+) s", done.stdout))) < 600


def test_a_failing_part_does_not_stop_the_rest(tmp_path):
    stub, log = tmp_path / "python", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)
    done = call(tmp_path / "out", PYTHON=str(stub), STUB_LOG=str(log), SECONDS_IN_ALL="8")
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert re.search(r"\| install \| \d+ \| done \|", summary)
    assert re.search(r"\| tests \| \d+ \| failed \(3\), see tests.log \|", summary)
    assert re.search(r"\| tune \| \d+ \| over \d s \|", summary)
    assert "| bench memory | 0 | left out: no time |" in summary
    ran = log.read_text()
    installs = [line for line in ran.splitlines() if "pip install" in line]
    assert any("--no-deps" in line for line in installs) and not any("torch" in line for line in installs)


def test_all_parts_run_and_the_exit_code_is_0(tmp_path):
    stub, log = tmp_path / "python", tmp_path / "log"
    stub.write_text('#!/bin/sh\necho "$@" >> "$STUB_LOG"\n')
    stub.chmod(0o755)
    done = call(tmp_path / "out", PYTHON=str(stub), STUB_LOG=str(log), WHEELS="/wheels")
    assert done.returncode == 0, done.stdout
    assert "--no-index --find-links /wheels --no-deps" in log.read_text()
    assert log.read_text().count(" bench ") == len(GROUPS)


def test_an_unknown_option_shows_the_usage():
    done = call("--quick")
    assert done.returncode == 2 and "FOLDER" in done.stderr
