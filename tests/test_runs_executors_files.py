"""Files between two disks: whole, as they were, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peft_nb.errors import RunError
from peft_nb.runs.executors.files import encoded, pack, resumable, unpack


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A run's folder with a checkpoint, an adapter and encoded rows."""
    run = tmp_path / "there" / "runs" / "lora-abc"
    for name in (
        "adapter/adapter.bin",
        "checkpoints/checkpoint-4/a",
        "checkpoints/checkpoint-12/a/b",
        "checkpoints/best/a",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(name.encode())
    (run / "examples.json").write_text(json.dumps({"keys": ["k1"], "held_out": []}))
    (run / ".hidden").write_text("x")
    (tmp_path / "there" / "examples" / "k1").mkdir(parents=True)
    (tmp_path / "there" / "examples" / "k1" / "ids.npy").write_bytes(b"\x00\x01")
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_it_takes_to_go_on_arrives_elsewhere(there: Path, tmp_path: Path) -> None:
    store, here = there.parents[1], tmp_path / "here"
    for folder in resumable(there):
        unpack(here, "lora-abc", pack(store, folder))
    found = contents(here)
    before = contents(store)
    wanted = {"runs/lora-abc/examples.json", "examples/k1/ids.npy"}
    wanted |= {f"runs/lora-abc/checkpoints/{name}" for name in ("checkpoint-12/a/b", "best/a")}
    assert found == {name: before[name] for name in wanted}
    assert [*encoded(there)] == [store / "examples" / "k1"]


def test_a_folder_is_replaced_as_a_whole(there: Path, tmp_path: Path) -> None:
    old = tmp_path / "here" / "runs" / "lora-abc" / "adapter" / "old.bin"
    old.parent.mkdir(parents=True)
    old.write_text("x")
    unpack(tmp_path / "here", "lora-abc", pack(there.parents[1], there / "adapter"))
    assert contents(old.parent) == contents(there / "adapter")


def test_what_was_changed_on_the_way_is_refused(there: Path, tmp_path: Path) -> None:
    parcel = pack(there.parents[1], there / "adapter")
    parcel["files"]["adapter.bin"] = b"other weights"
    with pytest.raises(RunError, match=r"adapter/adapter\.bin did not arrive as it was sent; resume"):
        unpack(tmp_path / "here", "lora-abc", parcel)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"folder": "runs/lora-other/adapter"},
        {"folder": "runs/lora-abc/../lora-other"},
        {"folder": "../outside"},
        {"folder": "/etc"},
        {"files": {"../../index.sqlite": b""}},
        {"files": {"/etc/passwd": b""}},
        {"files": {"a/../../b": b""}},
    ],
    ids=str,
)
def test_nothing_is_written_outside_the_run(changed: dict[str, object], there: Path, tmp_path: Path) -> None:
    parcel = pack(there.parents[1], there / "adapter") | changed
    with pytest.raises(RunError, match="not those of run lora-abc"):
        unpack(tmp_path / "here", "lora-abc", parcel)
    assert not (tmp_path / "here").exists()
