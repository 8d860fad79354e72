"""A run on sequences is told from one on images or text, in one line."""

import pytest

from tests.training.test_sequence import TINY
from tost.analysis import analyze
from tost.app.models import choose_runs
from tost.data import sources
from tost.generation import load_language
from tost.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sources.SOURCES["toy"] = ("tests.training.toys", "load")
    folder = tmp_path_factory.mktemp("runs")
    yield train("lra-listops", **{**TINY, "run.steps": 2, "run.checkpoint_steps": 2, "run.folder": str(folder)})
    del sources.SOURCES["toy"]


def test_what_is_for_images_and_text_refuses_it(run):
    with pytest.raises(ValueError, match="run on sequences, and analyze draws images and text; `tost evaluate` scores"):
        analyze(run)
    with pytest.raises(ValueError, match="is a run on sequences, and the page shows images and text"):
        choose_runs([str(run)])
    with pytest.raises(ValueError, match="is a sequence run; this needs a language model"):
        load_language(run)
