"""The index: where it lies, and what is said when it cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.errors import StoreError
from peft_nb.events import Notice
from peft_nb.store import Store
from tests.stores import line, new, start, step


def test_the_folder_is_the_argument_else_the_variable_else_peft_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFT_NB_STORE", raising=False)
    assert Store().folder == tmp_path / "peft_runs"
    monkeypatch.setenv("PEFT_NB_STORE", str(tmp_path / "shared"))
    assert Store().folder == tmp_path / "shared"
    assert Store("mine").folder == tmp_path / "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "a\\b", "/etc", "a\0b", "a\n", "x" * 65, "a b"])
def test_names_never_leave_the_store(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a run"):
        new(store, name)
    with pytest.raises(StoreError, match="cannot name a run"):
        store.folder_of(name)
    with pytest.raises(StoreError, match="cannot name a run"):
        store.create("", method=f"{name}/x", model="m")
    assert store.all() == []
    assert list((store.folder / "runs").iterdir()) == []


def test_a_link_out_of_the_store_is_refused(store: Store, tmp_path: Path) -> None:
    id = new(store)
    store.folder_of(id).rmdir()
    (store.folder / "runs" / id).symlink_to(tmp_path)
    with pytest.raises(StoreError, match="leads out of the store"):
        store.folder_of(id)


@pytest.mark.parametrize("place", ["a-file", "a-file/store", "/proc/nowhere"])
def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("kept")
    with pytest.raises(StoreError, match=r"^cannot write /[^\n]*; [^\n]*$"):
        Store(tmp_path / place)


def test_an_index_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"^cannot use .*index.sqlite: this account may not use it; .*$"):
        Store(tmp_path)


def test_a_full_disk_is_one_clear_line_and_keeps_what_was_recorded(store: Store) -> None:
    code = """
        import resource
        from peft_nb.errors import StoreError
        id = store.create("", method="lora", model="m")
        print(id, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        n = 0
        try:
            while True:
                store.record(id, Notice(f"{n}" + "." * 500))
                n += 1
        except StoreError as error:
            print(n)
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.record(id, Notice("there is room again"))
    """
    with start(code, store.folder) as process:
        id, count, message = line(process), int(line(process)), line(process)
    assert process.returncode == 0
    assert message.startswith(f"cannot use {store.folder / 'index.sqlite'}: the disk ")
    assert message.endswith("choose another folder")
    recorded = [event.text.strip(".") for event in store.events(id) if isinstance(event, Notice)]
    assert recorded == [*map(str, range(count)), "there is room again"]


@pytest.mark.parametrize("damage", ["not a database at all", "a broken page"])
def test_a_damaged_index_is_one_clear_line(store: Store, damage: str) -> None:
    id = new(store)
    for n in range(200):
        store.record(id, step(n))
    store.close()
    index = store.folder / "index.sqlite"
    content = index.read_bytes()
    index.write_bytes(damage.encode() * 300 if "not" in damage else content[:100] + b"\xff" * 4000)
    with pytest.raises(StoreError, match=r"^cannot use .*index.sqlite: it is damaged; move it away[^\n]*$"):
        Store(store.folder).get(id)
