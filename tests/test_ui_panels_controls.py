from __future__ import annotations

import pytest

from peft_nb.errors import DataError
from peft_nb.ui import form
from peft_nb.ui.panels.controls import Collapsible, Control, StatusLine, choice, prose
from peft_nb.ui.panels.debounce import SupersededError


def test_a_control_says_what_is_wrong_and_hides_what_has_no_use() -> None:
    changes: list[str] = []
    control = Control(form.read(form.blank()).entries["r"], {}, lambda: changes.append("r"))
    control.value = " many "
    assert (control.value, changes) == ("many", ["r"])
    control.show(form.read({**form.blank(), "r": "many"}).entries["r"])
    assert control.input.description == "r: error"
    assert 'role="alert"' in control.note.value
    assert "peft-nb-invalid" in control.box._dom_classes
    control.show(form.read({**form.blank(), "method": "ia3"}).entries["r"])
    assert control.box.layout.display == "none"


def test_a_part_is_shown_when_its_button_is_pressed() -> None:
    part = Collapsible("Advice", [prose()])
    assert (part.inside.layout.display, part.button.description) == ("none", "► Advice")
    part.button.click()
    assert (part.inside.layout.display, part.button.description) == (None, "▼ Advice")
    part.offer(False)
    assert part.box.layout.display == "none"


def test_a_line_says_what_came_of_the_work_or_what_went_wrong() -> None:
    def refuse(tell: object) -> tuple[str, str]:
        raise DataError("<b> is no data")

    line = StatusLine("the whole")
    line.run("checking", lambda: None, lambda tell: ("2 < 3", "<table></table>"))
    assert "2 &lt; 3" in line.line.value
    assert (line.whole.value, line.details.box.layout.display) == ("<table></table>", None)
    line.run("checking", lambda: None, refuse)
    assert "Error: &lt;b&gt; is no data" in line.line.value
    assert line.details.box.layout.display == "none"


def test_work_that_nobody_waits_for_says_nothing() -> None:
    def superseded() -> None:
        raise SupersededError

    line = StatusLine("the whole")
    with pytest.raises(SupersededError):
        line.run("checking", superseded, lambda tell: ("done", ""))
    assert line.line.value == "checking …"


def test_none_of_the_words_may_be_chosen_where_none_has_a_name() -> None:
    assert choice(["a", "b"], "not specified").options == (("not specified", ""), ("a", "a"), ("b", "b"))
    assert choice(["a"]).options == (("a", "a"),)
