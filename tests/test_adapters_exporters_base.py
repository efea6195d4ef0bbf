from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from peft_nb.adapters.exporters import EXPORTERS, Exportable, Exporter, Side, export
from peft_nb.data.examples import gather
from peft_nb.errors import RunError
from peft_nb.spec import RunSpec


def written(run: Exportable, path: Path) -> Path:
    path.write_text(run.id)
    return path


@pytest.fixture
def run() -> Exportable:
    """A run whose parts nobody asks for."""
    return Exportable("lora-1", RunSpec(data="a"), {}, Path, Path, pytest.fail)


def test_nothing_is_in_the_way_unless_a_format_says_so(run: Exportable) -> None:
    assert Exporter("note", "one line", ".txt", written).obstacle(run) == ""


@pytest.mark.parametrize("why", ["", "lora-1 is too short for a note"])
def test_a_format_writes_what_it_sees_no_obstacle_to(
    run: Exportable, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def obstacle(run: Exportable) -> str:
        seen.append(run.id)
        return why

    monkeypatch.setitem(EXPORTERS, "note", Exporter("note", "one line", ".txt", written, obstacle))
    if why:
        with pytest.raises(RunError, match=f"^{why}$"):
            export(run, tmp_path / "out", "note")
    else:
        assert export(run, tmp_path / "out", "note").read_text() == "lora-1"
    assert (tmp_path / "out").exists() == (not why)
    assert seen == ["lora-1"]


def test_rows_that_are_gone_leave_their_examples() -> None:
    side = Side(gather([]))
    assert (len(side.examples), side.rows, side.layout) == (0, None, None)


def test_what_a_format_is_given_stays_as_it_is(run: Exportable) -> None:
    for one, name in ((run, "id"), (EXPORTERS["yaml"], "name"), (Side(gather([])), "rows")):
        with pytest.raises(FrozenInstanceError):
            setattr(one, name, "another")
