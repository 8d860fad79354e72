"""A saved model, and its `tost generate`."""

import pytest

from tests.textmodels import save_model
from tost.cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, *save_model(folder, position_mode="clamped")


@pytest.fixture
def run(saved, capsys):
    """Calls the command: (exit code, what it printed, what it said on standard error)."""

    def call(*options, folder=saved[0]):
        capsys.readouterr()
        code = main(["generate", str(folder), *map(str, options)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
