"""Two processes (gloo) take the steps that one process takes with as many micro-batches."""

import json
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_crash import environment
from tests.training.test_language import TINY, corpus
from tost.training import load_run, train

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
DDP = ["--multi_gpu"]
# Fully sharded: parameters, gradients and the optimiser's averages are spread over the processes.
FSDP2 = [
    "--use_fsdp",
    "--fsdp_version=2",
    "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap=ToSTBlock",
    "--fsdp_state_dict_type=FULL_STATE_DICT",
    "--fsdp_reshard_after_forward=true",
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(recipe, settings, sharding):
    """`accelerate launch -m tost train` with two processes on the CPU; what it printed."""
    told = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in settings.items()}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=2"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1"]
    command += [f"--main_process_port={free_port()}", *sharding, "-m", "tost", "train", recipe]
    command += [f"--{k}={v}" for k, v in told.items()]
    cpu = {**environment(), "ACCELERATE_USE_CPU": "true"}  # accelerate starts no MPI-less CPU processes
    result = subprocess.run(command, capture_output=True, text=True, env=cpu, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line[k] for line in lines for k in ("loss", "validation_loss") if k in line])


def test_two_processes_train_like_one(tiny, tmp_path):
    settings = {**tiny, "optim.ema": 0.9, "augment.mixup": 0.8, "model.drop_path_rate": 0.2}
    one = train("vision-digits", **{**settings, "run.name": "one", "run.accumulate": 2})
    told = launch("vision-digits", {**settings, "run.name": "two"}, DDP)
    assert told.count("held-out images") == 1, "every process reported"
    two = tmp_path / "runs" / "two"
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=1e-5)
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name in a:
        if "running" not in name and "num_batches" not in name:  # BatchNorm's statistics are those of one process
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


@pytest.mark.parametrize("sharding", [DDP, FSDP2], ids=["ddp", "fsdp2"])
def test_two_processes_learn_a_language_like_one(sharding, alone, request):
    one, settings = alone
    told = launch("lm-stdlib", {**settings, "run.name": request.node.callspec.id}, sharding)
    assert told.count("held-out bytes") == 1, "every process reported"
    two = one.with_name(request.node.callspec.id)
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=1e-5)
    a, b = (load_file(run / "model.safetensors") for run in (one, two))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-4)
    scores = [json.loads((run / "summary.json").read_text())["test"] for run in (one, two)]
    assert scores[0]["tokens"] == scores[1]["tokens"] and abs(scores[0]["loss"] - scores[1]["loss"]) < 1e-4
    load_run(two)
