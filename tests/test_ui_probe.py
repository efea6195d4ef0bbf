from __future__ import annotations

import peft_nb
from peft_nb import Run
from peft_nb.evaluation.probes import Finding
from peft_nb.runs.probe import Probe
from peft_nb.ui.probe import page
from tests.test_runs_compare import HOSTILE, Page


def test_a_page_tells_what_was_measured_and_escapes_foreign_text() -> None:
    parts = ((HOSTILE, 0.2, 0.1, 0.3), ("none", 0.0, -0.1, 0.1))
    one = Finding(HOSTILE, 0.25, 0.125, 0.5, 0.75, 1240, HOSTILE, (HOSTILE,), parts)
    made = Probe(HOSTILE, (one, Finding("quiet", 0.0, 0.0, 0.25, None, 3, "nothing")), (("leaks", HOSTILE),))
    drawn = made._repr_html_()
    assert drawn == page(made)
    Page(drawn)
    assert HOSTILE not in drawn
    assert "<script" not in drawn
    for told in ("0.250", "0.125 to 0.500", "0.750", "1,240", "changed", "+0.100 to +0.300", "leaks: not probed, "):
        assert told in drawn
    assert "none" not in drawn.replace("display:none", "")


def test_of_many_parts_the_largest_are_shown_and_what_chance_does_is_said() -> None:
    parts = tuple((f"part {number}", number / 100, number / 200, number / 50) for number in range(1, 21))
    drawn = page(Probe("run", (Finding("bias_shift", 0.2, 0.1, 0.4, None, 240, "what", (), (*parts, *parts)),)))
    assert "part 20" in drawn
    assert "part 13<" not in drawn
    assert "40 changed, the largest first; about 2 of 40 would by chance" in drawn


def test_a_run_is_probed_by_its_name(finished: Run) -> None:
    found = peft_nb.probe(finished.id, only=["bias"], store=finished.store)
    assert isinstance(found, peft_nb.Probe)
    assert found["bias_shift"].rows == 240
