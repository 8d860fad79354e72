"""Trains in forked children and kills them with SIGKILL at chosen file operations in the run's folder.

    python kill.py RECIPE FOLDER SETTINGS(JSON)   -> prints {"kills": [...what each child was doing...]}

One process imports everything once; a child is cheap.
"""

import importlib
import json
import os
import signal
import sys

import torch

from tost.training import train

torch.set_num_threads(1)  # no thread pool before the forks
for module in ("engine", "vision", "language", "callbacks"):
    importlib.import_module(f"tost.training.{module}")
for module in ("kornia.augmentation.auto", "sklearn.datasets", "numba"):
    importlib.import_module(module)

TOUCHES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "tempfile.mkstemp"}


def child(recipe, settings, moment=None, log=None):
    """Train in a child that dies at its `moment`-th touch of the run's folder; True if it finished."""
    process = os.fork()
    if process:
        _, status = os.waitpid(process, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise SystemExit(f"a child failed with exit code {os.WEXITSTATUS(status)}")
        return os.WIFEXITED(status)
    count = 0
    run = os.path.join(settings["run.folder"], settings["run.name"])

    def watch(event, arguments):
        nonlocal count
        if event in TOUCHES and any(run in str(a) for a in arguments[:2]):
            count += 1
            if count == moment:
                os.write(log, f"{event} {os.path.relpath(str(arguments[0]), run)}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        if moment is not None:
            sys.addaudithook(watch)
        train(recipe, **settings)
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def main(recipe, folder, settings):
    settings = {**settings, "run.folder": folder}
    child(recipe, {**settings, "run.name": "whole"})
    read, write = os.pipe()
    moment, kills = 2, 0
    while not child(recipe, {**settings, "run.name": "killed"}, moment, write):
        kills += 1
        moment += 5 + kills % 4
    os.close(write)
    with os.fdopen(read) as told:
        print(json.dumps({"kills": told.read().splitlines()}))


if __name__ == "__main__":
    main(*sys.argv[1:3], json.loads(sys.argv[3]))
