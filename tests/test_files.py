"""Files are whole or absent."""

import pytest

from tost.extras import require
from tost.files import atomic_write


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_write(path, "w") as file:
        file.write("one")
    with pytest.raises(RuntimeError), atomic_write(path, "w") as file:
        file.write("two, half")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_bytes_and_text(tmp_path):
    with atomic_write(tmp_path / "a") as file:
        file.write(b"\x00\xff")
    with atomic_write(tmp_path / "b", "w") as file:
        file.write("é")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "é".encode()


def test_a_missing_package_names_its_extra():
    with pytest.raises(ImportError, match=r"no_such_package.*tost-transformer\[app\]"):
        require("no_such_package.part", extra="app")


def test_a_broken_package_shows_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import another_missing_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="another_missing_package"):
        require("broken_package", extra="app")
