from __future__ import annotations

import base64
import io
import re

import numpy
import pytest
from PIL import Image

import peft_nb
from peft_nb import Run
from peft_nb.evaluation.attribution import Cells
from peft_nb.runs.explain import Explanation, Row
from peft_nb.ui.explain import page
from tests.test_runs_compare import HOSTILE, Page

WEIGHTS = numpy.array([[2.0, -1.0, 0.01], [0.5, 0.0, 0.0]])
ENDS = numpy.array([[-1.0, -3.0], [-4.0, -3.5]])


def explanation(text: str = "a", **more: object) -> Explanation:
    rows = (Row(7, text, text, 0.9, 1.5), Row(3, "x", "y", -0.2, -0.5))
    told: dict[str, object] = {"rows": rows, "notes": (text,), **more}
    parts = (f"{text} ", "now ", "then")
    return Explanation(text, text, text, text, parts, ("adapter", text), WEIGHTS, ENDS, "ablation", **told)  # type: ignore[arg-type]


def test_a_page_says_all_without_colour_and_escapes_foreign_text() -> None:
    drawn = page(explanation(HOSTILE))
    Page(drawn)
    assert HOSTILE not in drawn
    assert "<script" not in drawn
    found = explanation()
    drawn = found._repr_html_()
    assert drawn == page(found)
    assert '<sup style="font-size:.75em">+2.0</sup>' in drawn
    assert '<sup style="font-size:.75em">−1.0</sup>' in drawn
    assert "dashed" in drawn
    assert ">+0.01<" in drawn  # in the table, where it is not marked
    assert drawn.index(">7<") < drawn.index(">3<")
    assert "−1.0 nats" in drawn or "-1.0 nats" in drawn
    assert repr(found).splitlines()[1] == "  a: adapter +2.00, a +0.50"


def test_an_image_is_drawn_with_numbers_and_an_alternative_text() -> None:
    cells = Cells(Image.new("RGB", (40, 30), "gray"), side=2)
    weights = numpy.array([[0.5, -2.0, 0.0, 0.0]])
    found = Explanation(
        "r", "an image", "cat", None, cells.names, ("cat",), weights, ENDS[:, :1], "ablation", cells=cells
    )
    drawn = page(found)
    assert "row 1, column 2 -2.00, row 1, column 1 +0.50" in drawn
    data = re.search(r"base64,([^\"]+)", drawn)
    assert data
    image = Image.open(io.BytesIO(base64.b64decode(data[1])))
    assert image.size == (336, 252)
    assert image.getpixel((200, 100)) != image.getpixel((200, 200))  # covered, and not
    assert "its base model answers" not in drawn


@pytest.mark.parametrize("name", [True, False])
def test_a_run_or_its_name_is_explained(finished: Run, name: bool) -> None:
    pytest.importorskip("captum")
    found = peft_nb.explain(finished.id if name else finished, "Where is it?", answer="Here.", store=finished.store)
    assert isinstance(found, peft_nb.Explanation)
    assert found.answer == "Here."
