"""The example for people who paste the layer into their own model runs and tells the truth."""

import re
import runpy
from pathlib import Path


def test_example(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "drop_in.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert float(re.search(r"real tokens by (\S+)", said)[1]) < 1e-4
    assert "-> (1, 32, 128, 160)" in said
