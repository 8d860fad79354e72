"""A run that dies is as good as one that doesn't."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import test_language as language
from tests.training.conftest import TINY
from tost.training import train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork, SIGKILL and file size limits")


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def killed_often(recipe, settings, tmp_path):
    """(undisturbed run, run that was killed at many file operations and went on each time)."""
    script = [sys.executable, str(Path(__file__).with_name("kill.py")), recipe, str(tmp_path), json.dumps(settings)]
    result = subprocess.run(script, capture_output=True, text=True, env=environment(), timeout=250)
    assert result.returncode == 0, result.stderr[-2000:]
    kills = json.loads(result.stdout)["kills"]
    assert len(kills) >= 5 and any(".unfinished/" in kill for kill in kills), kills
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("model.safetensors", "metrics.jsonl", "parameters.csv"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), f"{name} differs after {kills}"
    assert not list(killed.glob(".*"))
    return whole, killed


def test_killed_runs_end_in_the_same_bits(tmp_path):
    settings = {**TINY, "optim.ema": 0.9, "augment.mixup": 0.8, "augment.erasing": 0.25, "model.drop_path_rate": 0.2}
    settings["run.checkpoint_epochs"] = 0.5
    _, killed = killed_often("vision-digits", settings, tmp_path)
    assert sorted(p.name for p in (killed / "checkpoints").iterdir()) == ["checkpoint-15", "checkpoint-20"]


def test_killed_language_runs_end_in_the_same_bits(tmp_path):
    text = str(language.corpus(tmp_path / "text"))
    settings = {**language.TINY, "data.path": text, "run.steps": 15, "run.checkpoint_steps": 5}
    settings |= {"data.tokenizer": "bpe", "data.vocab_size": 300}
    whole, killed = killed_often("lm-stdlib", settings, tmp_path)
    for name in ("tokenizer.json", "data.json", "generation_config.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


@pytest.mark.parametrize("limit", [40_000, 100_000], ids=["weights", "optimiser"])
def test_failed_writes_leave_nothing_half_written(tiny, tmp_path, limit):
    import resource

    reference = train("vision-digits", **tiny, **{"run.name": "reference"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            OSError, match=r"cannot write the checkpoint of step 3 .*the same command goes on"
        ) as caught:
            train("vision-digits", **tiny, **{"run.name": "full"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    run = tmp_path / "runs" / "full"
    assert not list((run / "checkpoints").iterdir()) and not list(run.glob("model*"))
    train("vision-digits", **tiny, **{"run.name": "full"})
    assert (run / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()


def test_interrupt_saves_and_the_same_command_goes_on(tiny, tmp_path):
    arguments = [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in tiny.items()]
    arguments += ["--run.epochs", "400", "--run.checkpoint_epochs", "100"]
    command = [sys.executable, "-m", "tost", "train", "vision-digits", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    run = tmp_path / "runs" / "vision-digits"
    assert process.stderr is not None
    for line in process.stderr:  # the progress bar, one line at a time in text mode
        if " 0/4000" not in line and "/4000" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=100)[1]
    assert process.returncode == 130
    last = rest.strip().splitlines()[-1]
    assert "interrupted at step" in last and "Traceback" not in rest
    (saved,) = (run / "checkpoints").iterdir()
    assert f"step {saved.name.removeprefix('checkpoint-')} of 4000" in last
    state = json.loads((saved / "trainer_state.json").read_text())
    assert state["global_step"] < 4000
