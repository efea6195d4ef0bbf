from __future__ import annotations

from pathlib import Path

from peft_nb.ui.panels import insert_cell
from peft_nb.ui.panels.insert_cell import InsertCell


def test_the_cell_is_given_to_the_front_end_as_a_value_and_its_script_as_a_file() -> None:
    button = InsertCell(cell="%%peft lora")
    state = button.get_state()
    assert state["cell"] == "%%peft lora"
    assert state["_esm"] == Path(insert_cell.__file__).with_suffix(".js").read_text("utf-8")
    assert "innerHTML" not in state["_esm"]
