"""One table of commands; errors in one line, exit codes 0, 2 and 130."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tost import cli
from tost.cli import COMMANDS, main
from tost.models import create_model


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", printed, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_explains_itself(name, capsys):
    module, _, function = COMMANDS[name].target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert main([*name.split(), "--help"]) == 0
    assert "usage: tost" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"tost \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "unknown command 'trian', did you mean train?"),
        (["train", "vision-digit"], "unknown recipe 'vision-digit', did you mean vision-digits"),
        (["train", "--run.epochs", "3"], "expected the recipe before its settings"),
        (["train", "vision-digits", "--run.epoch", "3"], "unknown option --run.epoch, did you mean --run.epochs"),
        (["train", "vision-digits", "--run.epochs", "three"], "--run.epochs: expected float, got 'three'"),
        (["train", "vision-digits", "--run.precision", "int8"], "'float32', 'bfloat16', 'float16'"),
        (["train", "vision-digits", "more"], "unknown argument more"),
        (["train", "vision-fashion-mnist"], "--data.path"),
        (["train", "vision-fashion-mnist", "--data.path", "/absent"], "/absent: no such folder"),
        (["train", "vision-finetune", "--data.path", "/absent/folder"], "no Hugging Face dataset there"),
        (["evaluate"], "run"),
        (["evaluate", ".", "--jsn"], "unknown option --jsn, did you mean --json?"),
        (["models", "tost_smal_*"], "no model matches"),
        (["bench", "op"], "--group: expected one of"),
        (["bench"], "group"),
        (["bench", "ops", "--dtype", "int8"], "--dtype: expected one of"),
        (["bench", "ops", "--rounds", "0"], "at least 1 round, got 0"),
        (["bench", "ops", "--tokens", "3"], "unknown option --tokens"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_one_line(arguments, told, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert told in printed.err and printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith(f"tost {arguments[0]}: " if arguments[0] in COMMANDS else "tost: ")


def test_no_command_prints_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_debug_shows_where_an_error_came_from(monkeypatch):
    monkeypatch.setenv("TOST_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown recipe"):
        main(["train", "vision-digit"])


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "tost models: interrupted"),
        (OSError(28, "No space left on device"), 2, "No space left"),
        (ImportError("this needs kornia:\npip install it"), 2, "this needs kornia: pip install it"),
    ],
)
def test_exit_codes(error, code, told, monkeypatch, capsys):
    def fails(arguments):
        raise error

    monkeypatch.setattr(cli, "models", fails)
    assert main(["models"]) == code
    printed = capsys.readouterr().err
    assert told in printed and printed.count("\n") == 1


def test_models_are_listed_with_their_sizes(capsys):
    assert main(["models", "tost_nano_*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["tost_nano_6_p1", "tost_nano_6_p2", "tost_nano_6_p4", "tost_nano_6_p8"]
    assert [line.split()[0] for line in lines] == ["name", *names]
    count = sum(p.numel() for p in create_model("tost_nano_6_p4").parameters())
    assert lines[3].split()[1:] == [f"{count:,}", "96", "6", "4", "4"]


def test_train_help_lists_recipes_and_a_recipes_help_its_values(capsys):
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    for name in ("vision-digits", "vision-fashion-mnist", "vision-finetune", "vision-imagenet"):
        assert f"\n  {name} " in printed
    assert main(["train", "vision-imagenet", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "peak learning rate (type: float, default: 0.0002)" in printed


def test_print_config_is_a_recipe_again(capsys, tmp_path):
    from tost.training import load_recipe

    assert main(["train", "vision-digits", "--run.epochs", "7", "--print_config"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    mine = load_recipe(tmp_path / "mine.yaml")
    assert mine.run.epochs == 7 and mine.optim == load_recipe("vision-digits").optim


def test_a_closed_pipe_is_no_error():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "tost", "models"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        process.stdout.close()
        assert process.wait(timeout=100) == 0
        assert not process.stderr.read()


def test_help_loads_nothing_heavy():
    code = (
        "import sys, tost; before = set(sys.modules)\n"
        "from tost.cli import main; main(['--help'])\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "heavy = new & {'torch', 'transformers', 'accelerate', 'kornia', 'sklearn', 'numba', 'PIL', 'datasets'}\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100)
    assert result.returncode == 0, result.stderr
