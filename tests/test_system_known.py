"""Numbers that are measured once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peft_nb.system import known


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFT_NB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_number_is_measured_once_for_what_it_depends_on() -> None:
    calls: list[int] = []

    def measure() -> list[float]:
        calls.append(1)
        return [0.1, 1 / 3]

    assert known.once("loss", {"base": "a"}, measure) == [0.1, 1 / 3]
    assert known.once("loss", {"base": "a"}, measure) == [0.1, 1 / 3]
    assert len(calls) == 1
    known.once("loss", {"base": "b"}, measure)
    known.once("time", {"base": "a"}, measure)
    assert len(calls) == 3


def test_files_hold_numbers_and_no_names(root: Path) -> None:
    known.keep("loss", {"base": "secret-project"}, [1.5])
    (file,) = root.rglob("*.json")
    assert file.read_text() == "[1.5]"
    assert "secret" not in str(file.relative_to(root))


def test_what_is_old_unreadable_or_cannot_be_kept_is_measured_again(root: Path) -> None:
    known.keep("time", {}, 2.0)
    (file,) = root.rglob("*.json")
    assert known.recall("time", {}, days=1) == 2.0
    os.utime(file, (0, 0))
    assert known.recall("time", {}, days=1) is None
    assert known.recall("time", {}) == 2.0
    file.write_text("{half")
    assert known.once("time", {}, lambda: 3.0) == 3.0
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")
    assert known.once("time", {}, lambda: 4.0) == 4.0


def test_a_machine_is_its_processor_its_cores_and_its_pytorch() -> None:
    assert known.machine().keys() == {"processor", "cores", "torch"}
    assert known.machine() == known.machine()
