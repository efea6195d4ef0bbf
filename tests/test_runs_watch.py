"""New rows of the same kind and of another one, for real runs on two kinds of words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb import Run
from peft_nb.errors import DataError
from peft_nb.runs.watch import Found, history, watch
from tests.conftest import KINDS


def prompts(kind: str, seed: int, count: int = 30) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(KINDS[kind], k=draw.randrange(3, 8))) for _ in range(count)]


@pytest.fixture(scope="module")
def look(kinds: dict[str, Run], encoder: Path) -> Callable[..., Found]:
    return lambda rows, run="fruit", **how: watch(kinds[run], rows, encoder=str(encoder), **how)


def test_rows_of_the_same_kind_raise_no_alarm_and_are_logged(look: Callable[..., Found], kinds: dict[str, Run]) -> None:
    found = look(prompts("fruit", 5))
    assert not found.drifted
    assert (found.run, found.rows, found.step) == ("fruit v1", 30, "nothing")
    assert [one.name for one in found.tests] == ["inputs", "length", "script"]
    assert list(found.table) == ["what", "before", "now", "distance", "p", "alarm"]
    run = kinds["fruit"]
    entry = run.store.log()[0]
    assert (entry.action, entry.run, entry.why) == ("watch", run.id, "30 rows: no change")
    kept = {one.measure: one.detail for one in run.store.evaluations(run.id) if one.suite == "watch"}
    assert kept.keys() == {"inputs", "length", "script"}
    assert kept["inputs"]["alarm"] is False
    assert run.store.get(run.id).metrics["watched"] == "no change"


def test_other_inputs_are_seen_and_wait_for_answers(look: Callable[..., Found]) -> None:
    found = look(prompts("tool", 5))
    assert found.alarms[0]
    assert found.step == "label"
    assert {word for word, *_ in found.words} <= set(KINDS["tool"])
    assert len(found.words) >= 3
    new, old, similarity = found.new[0]
    assert set(new.split()) <= set(KINDS["tool"])
    assert set(old.split()) <= set(KINDS["fruit"])
    assert similarity == min(one[2] for one in found.new)
    assert look([f"{one} {one} {one} {one}" for one in prompts("fruit", 6)]).alarms[1]
    assert look(["щука и окунь"] * 30).alarms[2]


def test_answers_tell_whether_the_loss_has_risen(look: Callable[..., Found]) -> None:
    right = [{"prompt": one, "completion": "fruit"} for one in prompts("fruit", 7)]
    found = look(right)
    assert found.tests[-1].name == "loss"
    assert not found.alarms[-1]
    wrong = look([row | {"completion": "Ahoy! Come by again."} for row in right])
    assert wrong.alarms[-1]
    assert wrong.step in ("tune", "roll back")
    assert "--init-adapter fruit" in wrong.why
    assert float(wrong.tests[-1].now.split()[0]) > float(wrong.tests[-1].before.split()[0])


def test_each_time_is_kept(look: Callable[..., Found], kinds: dict[str, Run]) -> None:
    before = history(kinds["tool"])
    look(prompts("tool", 5), run="tool")
    look(prompts("fruit", 5), run="tool")
    after = history(kinds["tool"]).iloc[len(before) :]
    assert after["at"].nunique() == 2
    assert list(after["what"]) == ["inputs", "length", "script"] * 2
    assert list(after.loc[after["what"] == "inputs", "alarm"]) == [False, True]


def test_the_log_of_a_server_is_read(look: Callable[..., Found], tmp_path: Path) -> None:
    def log(**more: Any) -> Path:
        file = tmp_path / f"{len(more)}.jsonl"
        lines = [{"at": "now", "version": "fruit v1", **dict.fromkeys(more, one)} for one in prompts("tool", 8)]
        file.write_text("\n".join(map(json.dumps, lines)))
        return file

    found = look(log(asked=True))
    assert found.alarms[0]
    assert [one.name for one in found.tests][-1] == "script"
    refused = dict.fromkeys(("asked", "answer"), True)
    file = log(**refused)
    lines = [json.loads(line) | {"answer": "Sorry, I cannot help."} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, lines)))
    tests = {one.name: one for one in look(file).tests}
    assert tests["refusals"].now == "refusal 100%"
    assert tests["refusals"].p < 0.05
    assert "length of answers" in tests
    with pytest.raises(DataError, match="the log holds no texts; serve with --log-texts"):
        look(log())


def test_what_cannot_be_watched_is_one_line(look: Callable[..., Found]) -> None:
    with pytest.raises(DataError, match="2 rows are too few there are to watch; 8 or more"):
        look(["plum", "fig"])
    with pytest.raises(DataError, match="these rows are none that generation learns from"):
        look([{"text": one, "label": "a"} for one in prompts("fruit", 9)])
