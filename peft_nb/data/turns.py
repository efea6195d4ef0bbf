"""The parsed cells of a row, by role, as what they say: a conversation, or pairs of a prompt with two answers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.conversations import Message, equipped, split_pair, tools_of, validated

Cells = dict[str, Any]
Pair = tuple[list[Message], list[Message], list[Message]]  # a prompt, the answer that is chosen, and the other one


def answered(cells: Cells, *question: str, answer: str) -> list[Message]:
    """Ask what the cells of `question` say together, and answer it."""
    asked = "\n\n".join(cells[role] for role in question if role in cells)
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": cells[answer]}]
    return _opened(cells, _with_choices(cells, turns))


def _with_choices(cells: Cells, messages: list[Message]) -> list[Message]:
    """Write the choices behind the question; an answer that is the number of one, from 0, becomes its letter."""
    if not (choices := cells.get("choices")):
        return messages
    lines = "\n".join(f"{letter}. {choice}" if letter else choice for letter, choice in choices.items())
    place = next(place for place, message in enumerate(messages) if message["role"] == "assistant") - 1
    asked, answer = messages[place], messages[place + 1]
    said = answer["content"].strip()
    if said.isdecimal() and said not in (*choices, *choices.values()) and "" not in choices:
        if int(said) >= len(choices):
            raise RowProblem(
                f"the answer {said} is none of {len(choices)} choices", "count them from 0, or write its text"
            )
        answer = answer | {"content": list(choices)[int(said)]}
    asked = asked | {"content": f"{asked['content']}\n\n{lines}"}
    return [*messages[:place], asked, answer, *messages[place + 2 :]]


def _opened(cells: Cells, messages: list[Message]) -> list[Message]:
    """Begin with the row's system prompt, unless the messages bring their own, and with what was said before."""
    own = messages[: bool(messages) and messages[0]["role"] == "system"]
    before, rest = list(cells.get("history", ())), messages[len(own) :]
    if before and before[-1]["role"] == "user" and rest and rest[0]["role"] == "user":
        rest = [rest[0] | {"content": f"{before.pop()['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
    if not own and before and before[0]["role"] == "system":
        own = [before.pop(0)]
    if not own and "system" in cells:
        own = [{"role": "system", "content": cells["system"]}]
    return equipped([*own, *before, *rest], cells.get("tools"))


def asked(cells: Cells) -> list[Message]:
    """What is asked, without an answer."""
    messages = _opened(cells, cells["prompt"])
    if messages[-1]["role"] == "assistant":
        raise RowProblem("the prompt ends with an answer", "drop that message, or use format='messages'")
    return messages


def conversation(cells: Cells) -> list[Message]:
    """Take a conversation as it stands."""
    return validated(_opened(cells, cells["messages"]))


def completed(cells: Cells) -> list[Message]:
    """Put the answer behind its prompt; either may be several messages."""
    if any(message["role"] != "assistant" for message in cells["completion"][:1]):
        fix = "a column of whole conversations is format='messages', columns={'messages': …}"
        raise RowProblem("the completion does not begin with the assistant's answer", fix)
    return validated(_opened(cells, _with_choices(cells, [*cells["prompt"], *cells["completion"]])))


def _asked(cells: Cells) -> tuple[list[Message], Any]:
    """What was asked, with all that belongs to the question, and the definitions of tools."""
    alone = [{"role": "user", "content": ""}] if {"context", "input"} & cells.keys() else []
    told = cells.get("prompt") or alone
    tools = cells.get("tools") or tools_of(told)
    asked = [{key: turn[key] for key in turn if key != "tools"} for turn in told]
    for turn in [turn for turn in asked if turn["role"] == "user"][-1:]:
        turn["content"] = "\n\n".join(filter(None, (cells.get("context"), turn["content"], cells.get("input"))))
    return _opened(cells | {"tools": None}, asked), tools  # tools may lie with what both sides begin with


def pair(cells: Cells) -> list[Pair]:
    """Part a prompt from the chosen answer and the rejected one."""
    asked, tools = _asked(cells)
    prompt, chosen, rejected = split_pair(asked, cells["chosen"], cells["rejected"])
    return [(equipped(prompt, tools), chosen, rejected)]


def scored(cells: Cells) -> list[tuple[list[Message], float]]:
    """The answers that have a score, the best first."""
    answers = cells["responses"]
    scores = cells.get("scores") or [None if rank is None else -rank for rank in cells.get("ranks", ())]
    if scores and len(scores) != len(answers):
        raise RowProblem(f"has {len(answers)} answers and {len(scores)} scores", "give each answer one score")
    each = zip((messages for messages, _ in answers), scores or (score for _, score in answers), strict=True)
    found = [(messages, score) for messages, score in each if score is not None]
    if len(found) < 2:
        raise RowProblem("has fewer than two answers with a score", "give at least two, or drop the row")
    return sorted(found, key=lambda one: -one[1])


def ranked(cells: Cells, every: bool = False) -> list[Pair]:
    """Set the best answer against the worst or, with `every`, each against each that is worse."""
    best_first = scored(cells)
    if best_first[0][1] == best_first[-1][1]:
        raise RowProblem("all answers have the same score, and none is better", "drop the row")
    worst = next(one for one in best_first if one[1] == best_first[-1][1])
    able = combinations(best_first, 2) if every else [(best_first[0], worst)]
    pairs = [(one, other) for (one, high), (other, low) in able if high > low and one != other]
    if not pairs:
        raise RowProblem("the best answer and the worst are the same", "drop the row")
    return [made for one, other in pairs for made in pair({**cells, "chosen": one, "rejected": other})]
