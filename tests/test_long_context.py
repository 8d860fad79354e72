"""The example of long sequences on many processes: the same training on every grid, and what a lost process leaves."""

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

pytest.importorskip("accelerate")
if not torch.distributed.is_available():
    pytest.skip("this torch has no distributed package", allow_module_level=True)

from examples.long_context import main
from tests.accelerated_context import problem

ROOT = Path(__file__).parents[1]
EXAMPLE = str(ROOT / "examples" / "long_context.py")
SMALL = {"tokens": 101, "rows": 4, "dim": 16, "every": 2}
ARGUMENTS = [f"--{name}={value}" for name, value in SMALL.items()]
TORCHRUN = ["torch.distributed.run", "--nproc_per_node=4", "--no-python", sys.executable]
ACCELERATE = [
    *("accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
    "--num_cpu_threads_per_process=1",
]
pytestmark = pytest.mark.xdist_group("context")


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", **more}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def losses(told):
    return torch.tensor([float(loss) for loss in re.findall(r"loss ([\d.]+)", told)])


def launched(launcher, *rest):
    """What the processes of a launcher printed."""
    port = f"--{'main_process' if launcher[0].startswith('accelerate') else 'master'}_port={free_port()}"
    command = [sys.executable, "-m", launcher[0], port, *launcher[1:], *rest]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def one(folder, **options):
    """What this process alone prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(folder=folder, **{**SMALL, **options})
    return out.getvalue()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(what six steps of one process print, its checkpoint)."""
    folder = tmp_path_factory.mktemp("alone")
    told = one(folder, steps=6)
    assert len(losses(told)) == 6
    return told, load_file(folder / "checkpoint.safetensors")


@pytest.mark.parametrize(
    ("launcher", "shard"),
    [(TORCHRUN, "false"), ([*ACCELERATE, "--num_processes=4"], "true")],
    ids=["torchrun-DDP", "accelerate-FSDP2"],
)
def test_four_processes_train_like_one(alone, launcher, shard, tmp_path):
    options = ["--steps=6", "--context=2", f"--shard={shard}", f"--folder={tmp_path}"]
    told = launched(launcher, EXAMPLE, *ARGUMENTS, *options)
    assert_close(losses(told), losses(alone[0]), rtol=1e-5, atol=2e-6)
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert kept.keys() == alone[1].keys()
    for name, expected in alone[1].items():  # the optimiser's averages of the gradients among them
        size = 1e-3 * float(expected.abs().max())
        assert_close(kept[name], expected, rtol=1e-3, atol=size if "exp_avg" in name else 1e-4, msg=name)
    sent = [set(re.findall(r"sent (\d+) bytes", text)) for text in (told, alone[0])]
    assert len(sent[0]) == 1 and int(*sent[0]) * 2 == int(*sent[1])  # half the rows


def test_what_is_sent_does_not_grow_with_the_sequence(alone, tmp_path):
    long = one(tmp_path, tokens=16 * 101, steps=1)
    assert re.findall("sent .*", long)[0] == re.findall("sent .*", alone[0])[0]


def test_a_loop_of_accelerate():
    model, optimizer, x, labels = problem()
    expected = []
    for _ in range(4):
        loss = F.cross_entropy(model(x).transpose(1, 2), labels)
        expected.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    told = launched([*ACCELERATE, "--num_processes=2"], "-m", "tests.accelerated_context")
    assert told.count("DistributedDataParallel of 2") == 4 and expected[-1] < expected[0]
    assert_close(losses(told), torch.tensor(expected), rtol=1e-5, atol=2e-6)


def pair(folder, *options):
    """Two processes without a launcher, which would end one for the other."""
    shared = environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORLD_SIZE="2")
    command = [sys.executable, EXAMPLE, *ARGUMENTS, "--context=2", "--steps=1000000", f"--folder={folder}", *options]
    return [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**shared, "RANK": str(rank)})
        for rank in range(2)
    ]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(("how", "patience"), [("SIGKILL", 60), ("SIGSTOP", 4)], ids=["killed", "stuck"])
def test_when_a_process_dies_the_other_ends_and_the_checkpoint_is_whole(alone, tmp_path, how, patience):
    file = tmp_path / "checkpoint.safetensors"
    processes = pair(tmp_path, f"--patience={patience}", "--shard=true")
    try:
        while not file.exists():
            assert all(process.poll() is None for process in processes), processes[0].communicate()[1].decode()
            time.sleep(0.02)
        processes[1].send_signal(getattr(signal, how))
        error = processes[0].communicate(timeout=60)[1].decode()
        assert processes[0].returncode > 0 and "RuntimeError" in error, error[-2000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    with safe_open(file, "pt") as stored:
        done = int(stored.metadata()["step"])
    again = losses(one(tmp_path, steps=done + 2))  # another grid goes on from there
    assert done % 2 == 0 and len(again) == 2
    if done <= 4:
        assert_close(again, losses(alone[0])[done : done + 2], rtol=1e-5, atol=2e-6)


def test_a_grid_that_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"expect a context that divides them and rows .* got context=3 and rows=4"):
        one(tmp_path, context=3)
    torch.distributed.destroy_process_group()
