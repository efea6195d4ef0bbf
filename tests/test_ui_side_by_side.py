from __future__ import annotations

import re
from base64 import b64decode

from peft_nb.data.prompts import Asked
from peft_nb.runs.compare import Compared
from peft_nb.spec import RunSpec
from peft_nb.ui import side_by_side
from tests.test_runs_compare import HOSTILE, Page


def test_words_that_the_first_answer_has_not_are_marked_in_the_others() -> None:
    page = Page(side_by_side.section("Where?", "there", {"a": "over there", "b": "over here", "c": "over there"}))
    assert page.open == []
    assert page.inserted == ["here"]
    assert "reference" in page.text
    assert "(as a)" in page.text
    assert side_by_side.legend({"a": ""}) == ""


def test_downloads_lie_in_their_links() -> None:
    (link, page) = Page(side_by_side.downloads({"metrics.csv": "run,ä\n", "comparison.html": "<p>é"})).elements
    assert link[1]["download"] == "metrics.csv"
    assert b64decode(str(link[1]["href"]).partition("base64,")[2]).decode("utf-8-sig") == "run,ä\n"
    assert b64decode(str(page[1]["href"]).partition("base64,")[2]).decode() == "<p>é"


def test_a_terminal_has_numbers_to_the_right_and_what_is_long_below() -> None:
    verdict = "failed: forgetting 0.41, wanted < 0.05; eval_loss 1.2, wanted < 1"
    facts = {
        "a": {"method": "lora", "model": "a" * 30, "data": "x" * 30, "trainable_parameters": 1_234_567},
        "base": {"model": "a" * 30, "data": "y" * 30, "eval_loss": 2.5, "verdict": verdict},
    }
    found = Compared({"a": None, "base": None}, facts)
    assert side_by_side.text(found).splitlines() == [
        f"a, base on {'a' * 30}",
        "                                                       a     base",
        "  method                                       lora",
        "  eval loss (eval_loss)                                     2.500",
        "  trainable parameters (trainable_parameters)  1,234,567",
        f"  model: {'a' * 30}",
        f"  data of a: {'x' * 30}",
        f"  data of base: {'y' * 30}",
        f"  verdict of base: {verdict}",
    ]


def test_settings_that_are_numbers_stand_to_the_right() -> None:
    specs = {"a": RunSpec(data="x", r=8, device="cpu"), "b": RunSpec(data="x", max_steps=1200)}
    rows = side_by_side.settings_rows(specs)
    assert {row.title: (row.said["b"], row.number) for row in rows} == {
        "r": ("not specified", True), "max_steps": ("1,200", True), "device": ("auto", False),
    }  # fmt: skip
    html = side_by_side.settings(rows)
    assert re.search(r"text-align:right[^>]*>1,200<", html)
    assert not re.search(r"text-align:right[^>]*>cpu<", html)


def test_a_terminal_says_where_a_long_answer_is_whole() -> None:
    found = Compared({"a": None}, {"a": {"model": "m"}}, asked=[Asked("Why?")], answers={"a": ["w" * 601]})
    assert side_by_side.text(found).endswith("w…\n\n  answers end after 600 letters here; .answers holds them whole")
    found.answers["a"] = ["w" * 600]
    assert side_by_side.text(found).endswith("w" * 600)


def test_a_turn_marks_nothing_and_shows_foreign_text_as_text() -> None:
    page = Page(side_by_side.turn(HOSTILE, {"a": "yes", HOSTILE: ""}, {"a": "rated <b>good</b>"}))
    assert "a (rated <b>good</b>)" in page.text
    assert page.open == page.inserted == []
    assert "script" not in {tag for tag, _ in page.elements}
    assert "(empty)" in page.text


def test_a_conversation_says_who_said_what() -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert side_by_side.said(turns) == "user: Hi"
    assert side_by_side.said("Hi") == "Hi"
