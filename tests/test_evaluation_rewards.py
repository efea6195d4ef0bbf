"""What answers are rewarded by: found by name, called in whatever form, combined, and its failures counted."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy
import pytest

from peft_nb.errors import SpecError
from peft_nb.evaluation.rewards import find

SAID = ["two words", "one", "three words here"]
ASKED = ["a?", "b?", "c?"]
ROWS: list[dict[str, Any]] = [{"reference": "two words", "size": 2}, {"reference": "two", "size": 1}, {"size": 9}]


def of(*given: Any, weights: list[float] | None = None, **namespace: Any) -> list[float]:
    names = [one if isinstance(one, str) else "(in memory)" for one in given]
    live = None if all(isinstance(one, str) for one in given) else list(given)
    return find(names, live, namespace, weights)(ASKED, SAID, ROWS).values


def test_the_built_in_ones_are_found_by_name() -> None:
    assert of("length:2") == pytest.approx([1, 1 / 2, 2 / 3])
    assert of(r"regex:^\w+$") == [0, 1, 0]
    assert of("exact_match")[:2] == [1, 0]
    assert find(["json_valid"], None, {})(ASKED, ['{"a": 1}', "{", "3"], ROWS).values == [1, 0, 1]
    assert find(["length:2"], None, {})(["?"], [""], [{}]).values == [0]


def test_a_function_of_the_notebook_comes_first_and_gets_what_it_takes() -> None:
    def length(completion: str, size: int) -> float:
        return len(completion.split()) - size

    def everything(completion: str, **columns: Any) -> float:
        return len(columns)

    assert of("length", length=length) == [0, 0, -6]
    assert of(everything) == [3, 3, 2]  # prompt and reference among them
    assert of(lambda prompt, completion: prompt.index("?")) == [1, 1, 1]


def test_a_function_of_a_module_is_found_where_there_is_no_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rewards.py").write_text("def letters(completion):\n    return len(completion)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert of("own_rewards:letters") == [9, 3, 16]
    for name, why in (("own_rewards:words", "has no attribute 'words'"), ("own_reward:letters", "No module named")):
        with pytest.raises(SpecError, match=f"^reward: {name} cannot be imported .*{why}"):
            of(name)
    with pytest.raises(SpecError, match="give .*, or module:function, since there is no notebook here"):
        of("letters")


def test_it_may_take_many_at_once_and_wait() -> None:
    running, most = 0, 0

    async def slow(completion: str) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return float(len(completion))

    async def many(completions: list[str], size: list[int]) -> Any:
        await asyncio.sleep(0)
        return numpy.array([len(one) - n for one, n in zip(completions, size, strict=True)])

    assert of(slow) == list(map(len, SAID))
    assert most == 3
    assert of(many) == [7, 2, 7]


def test_several_are_added_up_and_nothing_said_is_no_zero() -> None:
    def short(completion: str) -> float | None:
        return None if completion == "one" else 1.0

    assert of("length:1", short, weights=[2, 1]) == pytest.approx([2, 2, 2 / 3 + 1])
    assert math.isnan(of(short)[1])


def test_an_answer_that_a_reward_fails_on_is_skipped_and_counted() -> None:
    def fragile(completion: str) -> float:
        return 1 / (len(completion) - 3)

    rewards = find(["length:1", "f"], None, {"f": fragile})
    found = rewards(ASKED, SAID, ROWS)
    assert [math.isnan(one) for one in found.values] == [False, True, False]
    assert (found.failed, rewards.failed) == (1, 1)
    assert rewards.why == "f fails with ZeroDivisionError: division by zero"
    assert rewards(ASKED, SAID, ROWS).failed == 1
    assert rewards.failed == 2


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda completion: "good", "gave a str where it is asked for a number or None"),
        (lambda completion: math.inf, "gave inf, which is not finite"),
        (lambda completions: [1.0], "gave 1 rewards for 3 answers"),
        (lambda completions: 1.0, "gave a float where it is asked for a list"),
        (lambda completion, size: 1.0, "TypeError"),
    ],
)
def test_what_is_no_reward_is_told(function: Any, why: str) -> None:
    rewards = find(["f"], None, {"f": function})
    found = rewards(ASKED, SAID, [{}, {}, {}])
    assert found.failed == 3
    assert why in found.why


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("lenght:3", "reward: there is no function 'lenght:3'"),
        ("length", "reward: length: give the wanted number of words, such as length:12"),
        ("regex:(", "reward: regex: the pattern '(' cannot be read"),
        ("number", "reward: number is a int"),
        ("blind", "reward: blind takes no completion; write reward(prompt, completion)"),
    ],
)
def test_what_cannot_reward_is_refused_in_a_line(name: str, line: str) -> None:
    with pytest.raises(SpecError) as error:
        find([name], None, {"number": 3, "blind": lambda prompt: 1.0})
    assert str(error.value).startswith(line)
    assert len(str(error.value).splitlines()) == 1
