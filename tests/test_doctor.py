"""The doctor looks, and tells."""

from __future__ import annotations

import pytest

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
    monkeypatch.setattr(doctor, "OPTIONAL", {"app": ("no_such_package",)})
    assert list(doctor.optional_packages()) == [
        "app: no_such_package not installed  (pip install 'tost-transformer[app]')"
    ]


@pytest.mark.parametrize(("command", "found"), [(["c++"], True), ([], False)])
def test_the_compiler_is_looked_for(command, found, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in command else None)
    assert ("/bin/c++" in doctor.compiler()) == found
