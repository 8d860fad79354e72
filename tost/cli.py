"""The `tost` command: one table of commands, each imported when it is called."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tost.training.parsing import did_you_mean, parse, parse_with


class Command(NamedTuple):
    """Where a command's function lies and what it does.

    The parser is made from the function's signature and docstring; with `raw` the function parses its arguments itself.
    """

    target: str
    summary: str
    raw: bool = False


COMMANDS = {
    "train": Command("tost.training.command:run", "train a recipe, or go on with a stopped run", raw=True),
    "evaluate": Command("tost.evaluation.command:evaluate", "how good a run is on images or text it has not seen"),
    "analyze": Command(
        "tost.analysis.command:analyze", "what a run's layers do: figures, scores and a report", raw=True
    ),
    "generate": Command("tost.generation.command:generate", "write on from a prompt"),
    "serve": Command("tost.generation.serve:serve", "answer clients of the OpenAI protocol"),
    "demo": Command("tost.demo:demo", "train on scanned digits and on source code, and show the models at work"),
    "app": Command("tost.app.command:app", "look inside a trained model in the browser", raw=True),
    "bench": Command("tost.bench.command:bench", "time and memory beside the rivals, after checking what is timed"),
    "quantize": Command("tost.deploy.quantize_command:quantize", "a run in eight bits, if nothing is lost by it"),
    "export": Command("tost.deploy.export_command:export", "a model for another runtime: ONNX, ExecuTorch, OpenVINO"),
    "plan": Command("tost.deploy.plan_command:plan", "the memory that a language model needs, before it exists"),
    "models": Command("tost.cli:models", "list the models and their sizes", raw=True),
    "doctor": Command("tost.doctor:doctor", "what this machine has, which backends work here"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 after a user's error (one line on stderr), 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for library in ("torchao", "torch.utils._pytree"):  # on import they warn of kernels for other machines
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        code = dispatch(given)
        sys.stdout.flush()  # a closed pipe is noticed here, not while Python shuts down
        return code
    except KeyboardInterrupt as interrupt:
        return fail(given, str(interrupt) or "interrupted", 130)
    except SystemExit as done:  # --help of one command
        return int(done.code or 0)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("TOST_DEBUG"):
            raise
        return fail(given, " ".join(str(error).split()), 2)


def fail(given: Sequence[str], message: str, code: int) -> int:
    """Say in one line what went wrong, and return the exit code."""
    name = next((n for n in COMMANDS if given[: len(n.split())] == n.split()), "")
    print(f"tost{' ' if name else ''}{name}: {message}", file=sys.stderr)
    return code


def dispatch(given: list[str]) -> int:
    """Find the command that `given` starts with and run it with the rest."""
    if not given or given[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if given else 2
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"tost {version('tost-transformer')}")
        return 0
    name = next((n for n in COMMANDS if given[: len(n.split())] == n.split()), None)
    if name is None:
        group = [n for n in COMMANDS if n.startswith(f"{given[0]} ")]
        asked = " ".join(given[:2]) if group else given[0]
        near = f", did you mean {' or '.join(group)}?" if group else did_you_mean(asked, COMMANDS)
        raise ValueError(f"unknown command {asked!r}{near}; `tost --help` lists them")
    command, rest = COMMANDS[name], given[len(name.split()) :]
    module, _, function = command.target.partition(":")
    call = getattr(importlib.import_module(module), function)
    if command.raw:
        result = call(rest)
    else:
        result = call(**parse(call, rest, prog=f"tost {name}", description=command.summary))
    return result if isinstance(result, int) else 0


def usage() -> str:
    """What `tost --help` prints."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: tost COMMAND [ARGUMENT ...]\n\nToken Statistics Transformer (arXiv 2412.17810)\n\ncommands:\n"
        f"{lines}\n\n`tost COMMAND --help` explains one; TOST_DEBUG=1 shows where an error came from.\n"
    )


def models(arguments: Sequence[str]) -> None:
    """Print the models whose names match a shell pattern, with their sizes."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="tost models", description=COMMANDS["models"].summary, exit_on_error=False)
    parser.add_argument("pattern", nargs="?", default="*", help="a shell pattern such as 'tost_small_*'")
    pattern = parse_with(parser, arguments)["pattern"]

    import torch

    from tost.models import create_model, list_models, model_config

    names = list_models(pattern)
    if not names:
        raise ValueError(f"no model matches {pattern!r}{did_you_mean(pattern, list_models())}; `tost models` lists all")
    print(f"{'name':<22}{'parameters':>12}{'dim':>6}{'layers':>8}{'heads':>7}{'patch':>7}")
    for name in names:
        config = model_config(name)
        with torch.device("meta"):
            count = sum(p.numel() for p in create_model(name, img_size=config.img_size).parameters())
        print(f"{name:<22}{count:>12,}{config.dim:>6}{config.num_layers:>8}{config.num_heads:>7}{config.patch_size:>7}")
