"""Checklists: every answer is one that the store knows, and what it does not know is blank."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from peft_nb.errors import RunError
from peft_nb.runs.checklist import ANSWERS, FOLDER, NAMES, NO_ADVICE, checklist
from peft_nb.runs.run import Run
from peft_nb.store import Evaluation, Store
from tests.stores import finish

USE = """data: rows
use:
  purpose: answers | of the desk
  risk: high
  human_oversight: two people read each answer
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_file_names_its_law_and_answers_that_there_are(name: str) -> None:
    told = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert told["link"].startswith("https://")
    assert all({"at", "asks"} <= one.keys() <= {"at", "asks", "from"} for one in told["items"])
    assert {one["from"] for one in told["items"] if "from" in one} <= ANSWERS.keys()
    assert any("from" not in one for one in told["items"])


def test_every_answer_is_used_by_some_checklist() -> None:
    used = {
        one.get("from")
        for name in NAMES
        for one in yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["items"]
    }
    assert used - {None} == ANSWERS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_real_run_fills_what_it_knows(finished: Run, name: str) -> None:
    made = checklist(finished.store, finished.id, name)
    answers = {one.asks: one.answer for one in made.items}
    assert 0 < made.blanks < len(made.items)
    text = made.to_markdown()
    assert NO_ADVICE in text
    assert text.count("(blank)") == made.blanks
    assert str(finished.store.folder) not in text
    if name == "eu-ai-act":
        assert answers["Intended purpose"] == ""
        assert answers["Origin of the training data"].startswith("the variable") or "rows" in text
        assert re.search(r"eval loss \d", answers["Evaluation on rows that were held out"])
        assert answers["Cybersecurity: files that are what was evaluated"].endswith("unchanged")
        assert "trainable parameters" in answers["Method, its settings and what is trained"]
        assert "operations" in made.items[-3].answer


def test_what_people_wrote_is_told_and_escaped(store: Store) -> None:
    id = finish(store, "triage", USE, verdict="passed: 1 criterion")
    store.evaluate(id, [Evaluation("held-out", "eval_loss", 1.25, 1.0, 1.5)])
    store.approve(id, "Anna", why="read 40 answers")
    store.approve(id, "Cem", why="fine")
    store.withdraw(id, "Cem")
    store.set_policy("production", why="two of us")
    made = checklist(store, "triage", "nist-ai-rmf")
    answers = {one.at: one.answer for one in made.items}
    assert answers["MAP 1.1"] == "answers | of the desk"
    assert answers["MAP 3.5"] == "two people read each answer"
    assert re.fullmatch(r"Anna on 20\d\d-\d\d-\d\d: read 40 answers", answers["GOVERN 2.1"])
    assert answers["MEASURE 2.1"] == "eval loss 1.25 (1 to 1.5)"
    assert answers["GOVERN 1.4"].startswith("production: needs a verdict that passed, an approval")
    assert answers["MANAGE 1.1"] == "passed: 1 criterion"
    assert r"answers \| of the desk" in made.to_markdown()
    assert {one.at: one.answer for one in checklist(store, id, "eu-ai-act").items}["Art. 6 and Annex III"] == "high"


def test_one_that_there_is_not_is_refused(store: Store) -> None:
    finish(store, "triage", USE)
    with pytest.raises(RunError, match="there is no checklist 'eu-act'"):
        checklist(store, "triage", "eu-act")


def test_the_card_of_a_saved_adapter_has_it_on_wish(finished: Run, tmp_path: Path) -> None:
    card = (finished.save(tmp_path / "checked", checklist="gdpr") / "README.md").read_text(encoding="utf-8")
    plain = (finished.save(tmp_path / "plain") / "README.md").read_text(encoding="utf-8")
    assert card.startswith(plain)
    added = card.removeprefix(plain)
    assert added.strip() == f"#{checklist(finished.store, finished.id, 'gdpr').to_markdown()}".strip()
    assert "This is no legal advice" in added
    with pytest.raises(RunError, match=r"there is no checklist 'gdp'; did you mean 'gdpr'"):
        finished.save(tmp_path / "wrong", checklist="gdp")
    assert not (tmp_path / "wrong").exists()
