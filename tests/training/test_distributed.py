"""Two processes (gloo) take the steps that one process takes with as many micro-batches."""

import json
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_crash import environment
from tost.training import train


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_train_like_one(tiny, tmp_path):
    settings = {**tiny, "optim.ema": 0.9, "augment.mixup": 0.8, "model.drop_path_rate": 0.2}
    one = train("vision-digits", **{**settings, "run.name": "one", "run.accumulate": 2})
    settings["model.options"] = json.dumps(settings["model.options"])
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
    ]
    launch += [
        "--mixed_precision=no",
        "--dynamo_backend=no",
        f"--main_process_port={free_port()}",
        "--num_cpu_threads_per_process=1",
    ]
    launch += ["-m", "tost", "train", "vision-digits", "--run.name=two", *(f"--{k}={v}" for k, v in settings.items())]
    cpu = {**environment(), "ACCELERATE_USE_CPU": "true"}  # accelerate starts processes without MPI for GPUs alone
    result = subprocess.run(launch, capture_output=True, text=True, env=cpu, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("held-out images") == 1, "every process reported"
    two = tmp_path / "runs" / "two"

    def losses(run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return torch.tensor([line["loss"] for line in lines if "loss" in line])

    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=1e-5)
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name in a:
        if "running" not in name and "num_batches" not in name:  # BatchNorm's statistics are those of one process
            torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-4)
    assert json.loads((two / "summary.json").read_text())["test"]["images"] == 359
