"""What would be uploaded: built as `make release` does, installed elsewhere, and at work there on its own."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build", reason="pip install 'tost-transformer[test]'")

ROOT = Path(__file__).parent.parent
NOT_SOURCE = shutil.ignore_patterns(
    ".*", "__pycache__", "*.pyc", "*.nbi", "*.nbc", "*.egg-info", "build", "dist", "runs", "site"
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the sdist, and the wheel that was built from it."""
    source, out = tmp_path_factory.mktemp("source") / "tost", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """Runs Python with the installed wheel, in a folder of its own and without the Hub."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    (wheel,) = dist.glob("*.whl")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(pip, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment, timeout=200
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert Path(run("-c", "import tost; print(tost.__file__)").strip()).is_relative_to(site)
    return run


def test_the_wheel_holds_the_whole_package_and_nothing_else(dist):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ignored = (".pyc", ".nbi", ".nbc")
    files = (path for path in (ROOT / "tost").rglob("*") if path.is_file() and path.suffix not in ignored)
    assert names == {path.relative_to(ROOT).as_posix() for path in files}


def test_the_sdist_holds_what_its_tests_need(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "constraints.txt",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "tests/conftest.py",
        "tests/ops/conftest.py",
    } <= names
    assert {"docs/math.md", "benchmarks/scaling.py", "examples/sensors.py"} <= names


def test_the_installed_commands_and_models_work(installed):
    assert "tost train lra-listops" in installed("-m", "tost", "train", "lra-listops", "--quick", "--help")
    assert "tost_small_12_p16" in installed("-m", "tost", "models", "tost_small*")
    said = installed("-m", "tost", "generate", "stdlib", "--prompt", "class ", "--max_new_tokens", "4")
    assert said.startswith("class ")
