"""The doctor looks, and tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomllib

from tost import doctor


def test_every_section_is_told(capsys):
    doctor.doctor()
    told = capsys.readouterr().out
    for line in ("machine", "backends", "memory allocator", "torch.compile", "gpu"):
        assert f"\n{line}\n" in f"\n{told}"
    assert "  cpu: ready" in told and "  eager: ready" in told
    assert "wrong results" not in told
    assert "a clone of 50 MB takes" in told


def test_a_declining_backend_gives_its_reason(monkeypatch):
    import tost.ops.cpu

    monkeypatch.setattr(tost.ops.cpu, "decline", lambda w: "numba is not installed")
    assert any(line.startswith("cpu:") and "numba is not installed" in line for line in doctor.backends())


def test_missing_packages_name_their_extra(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ['no_such_package>=3; extra == "app"'])
    assert list(doctor.optional_packages()) == [
        "app: no_such_package not installed  (pip install 'tost-transformer[app]')"
    ]


def test_extras_are_the_packages_own():
    given = [
        "torch>=2.9",
        'av>=14; extra == "video"',
        "triton>=3.4; sys_platform == 'linux' and extra == 'gpu'",
        'matplotlib>=3.9; extra == "video"',
        'tost-transformer[video]; extra == "all"',
    ]
    assert doctor.extras(given) == {"video": ["av", "matplotlib"], "gpu": ["triton"]}
    written = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    asked = set(written["project"]["optional-dependencies"]) - set(doctor.NOT_ASKED)
    assert {line.partition(":")[0] for line in doctor.optional_packages()} == asked


def test_threads_are_told(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("torch.get_num_threads", lambda: 4096)
    told = "\n".join(doctor.threads())
    assert "OMP_NUM_THREADS=3" in told and "more threads than cores" in told


def test_no_gpu_says_why(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ["none that this torch can use" in line for line in doctor.gpus()] == [True]


@pytest.mark.parametrize(("command", "found"), [(["c++"], True), ([], False)])
def test_the_compiler_is_looked_for(command, found, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in command else None)
    assert ("/bin/c++" in doctor.compiler()) == found
