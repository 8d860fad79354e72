"""What the tests of benchmarks leave out, for speed."""

import pytest

from tost.bench import peak, presence


@pytest.fixture()
def no_compiler(monkeypatch):
    monkeypatch.setattr(presence, "compiler_reason", lambda device: "torch.compile does not work here (none)")


@pytest.fixture()
def no_child(monkeypatch):
    """Peaks are measured in this process: not what a number should be, but the same calls, and quick."""

    def here(target, arguments, timeout):
        return [peak.Peak(n) for n in peak.child_peaks(peak.resolve(target)(*arguments))]

    monkeypatch.setattr(peak, "_child_peaks", here)
    monkeypatch.setattr(peak, "settled", lambda: 0)
