"""Two processes (gloo) take the steps that one process takes with as many micro-batches."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_crash import environment
from tests.training.test_language import TINY, corpus
from tost.training import load_run, train

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
TOST = ["-m", "tost"]
DDP = ["--multi_gpu", *TOST]
# Parameters, gradients and the optimiser's averages are spread over the processes.
FSDP2 = [
    "--use_fsdp",
    "--fsdp_version=2",
    "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap=ToSTBlock",
    "--fsdp_state_dict_type=SHARDED_STATE_DICT",
    "--fsdp_reshard_after_forward=true",
    str(Path(__file__).with_name("fsdp_on_cpu.py")),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(recipe, settings, how):
    """`accelerate launch -m tost train` with two processes on the CPU; what it printed."""
    told = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in settings.items()}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=2"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1"]
    command += [f"--main_process_port={free_port()}", *how, "train", recipe]
    command += [f"--{k}={v}" for k, v in told.items()]
    cpu = {**environment(), "ACCELERATE_USE_CPU": "true"}  # accelerate starts no MPI-less CPU processes
    result = subprocess.run(command, capture_output=True, text=True, env=cpu, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def losses(run, names=("loss", "validation_loss")):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line[name] for line in lines for name in names if name in line])


def test_two_processes_train_like_one(tiny, tmp_path):
    settings = {**tiny, "optim.ema": 0.9, "augment.mixup": 0.8, "model.drop_path_rate": 0.2}
    one = train("vision-digits", **{**settings, "run.name": "one", "run.accumulate": 2})
    told = launch("vision-digits", {**settings, "run.name": "two"}, DDP)
    assert told.count("held-out images") == 1, "every process reported"
    two = tmp_path / "runs" / "two"
    # not the validation loss: BatchNorm's statistics are those of one process
    torch.testing.assert_close(losses(two, ["loss"]), losses(one, ["loss"]), rtol=1e-5, atol=1e-5)
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name in a:
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-4)
    assert json.loads((two / "summary.json").read_text())["test"]["images"] == 359


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    settings = {
        **TINY, "model.options": {**TINY["model.options"], "num_hidden_layers": 2}, "run.steps": 12,
        "run.checkpoint_steps": 6, "data.path": str(corpus(folder / "text")), "run.folder": str(folder / "runs"),
    }  # fmt: skip
    return train("lm-stdlib", **settings, **{"run.name": "one", "run.accumulate": 2}), settings


def same(one, two):
    """The losses and the weights of two runs agree."""
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=1e-5)
    a, b = (load_file(run / "model.safetensors") for run in (one, two))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-4)
    scores = [json.loads((run / "summary.json").read_text())["test"] for run in (one, two)]
    assert scores[0]["tokens"] == scores[1]["tokens"] and abs(scores[0]["loss"] - scores[1]["loss"]) < 1e-4
    load_run(two)


def test_two_processes_learn_a_language_like_one(alone):
    one, settings = alone
    told = launch("lm-stdlib", {**settings, "run.name": "ddp"}, DDP)
    assert told.count("held-out bytes") == 1, "every process reported"
    same(one, one.with_name("ddp"))


def test_two_processes_share_a_sharded_language_model(alone):
    one, settings = alone
    told = launch("lm-stdlib", {**settings, "run.name": "fsdp2"}, FSDP2)
    assert "sharded: ToSTBlock ToSTBlock" in told and "ToSTForCausalLM" in told
    two = one.with_name("fsdp2")
    same(one, two)
    (two / "summary.json").unlink()
    shutil.rmtree(two / "checkpoints" / "checkpoint-12")
    whole = (two / "model.safetensors").read_bytes()
    launch("lm-stdlib", {**settings, "run.name": "fsdp2"}, FSDP2)
    assert json.loads((two / "summary.json").read_text())["resumed"]
    assert (two / "model.safetensors").read_bytes() == whole
