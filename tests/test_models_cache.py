"""A prepared base is made once, whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from peft_nb.models import cache


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFT_NB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quietly(share: float, text: str) -> None:
    pass


def fill(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def test_a_folder_lies_in_the_cache_and_is_filled_once(root: Path) -> None:
    assert cache.folder("base").is_relative_to(root.resolve())
    assert not cache.folder("base").exists()
    made = cache.prepared("base", fill, quietly)
    assert made == cache.folder("base")
    assert (made / "config.json").read_text() == "{}"

    def again(folder: Path) -> None:
        raise AssertionError("it is there")

    assert cache.prepared("base", again, quietly) == made


def test_what_goes_wrong_leaves_nothing_and_the_next_succeeds() -> None:
    def broken(folder: Path) -> None:
        fill(folder)
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        cache.prepared("base", broken, quietly)
    assert not cache.folder("base").exists()
    assert cache.prepared("base", fill, quietly).is_dir()


def test_one_waits_for_another_that_is_at_work_on_the_same() -> None:
    begun, told, go_on, filled = threading.Event(), threading.Event(), threading.Event(), []

    def slowly(folder: Path) -> None:
        begun.set()
        assert go_on.wait(10)
        fill(folder)
        filled.append(1)

    def heard(share: float, text: str) -> None:
        assert text == "waiting for another process that prepares base"
        told.set()

    first = threading.Thread(target=cache.prepared, args=("base", slowly, quietly))
    second = threading.Thread(target=cache.prepared, args=("base", slowly, heard))
    first.start()
    assert begun.wait(10)
    second.start()
    assert told.wait(10)
    go_on.set()
    first.join(10)
    second.join(10)
    assert filled == [1]
