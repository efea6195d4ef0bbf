"""Some evaluation rows as prompts with their answers, kept beside a run: what it was not taught can be asked later."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from peft_nb.data.conversations import Message
from peft_nb.data.layouts import Layout
from peft_nb.data.rendering import prepare
from peft_nb.system.files import atomic_text

FILE = "prompts.json"
KEPT = 6
BEGUN = 16  # words of a plain text that make a prompt; the next twice as many are its reference

SHOWN = 200  # characters of a prompt or reference that are shown

Prompt = str | list[Message]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Asked:
    """A prompt, which is a text or the messages of a conversation, and its answer where one is known."""

    prompt: Prompt
    reference: str = ""


def of_rows(rows: Sequence[Mapping[str, Any]], layout: Layout, numbers: Sequence[int]) -> list[Asked]:
    """Turn some rows into prompts.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    layout : Layout
        What its columns mean.
    numbers : sequence of int
        The rows that may be chosen.

    Returns
    -------
    list of Asked
        At most `KEPT`, from all over the table: conversations up to their last answer, and how plain texts begin.
    """
    found = []
    for number in spread(numbers):
        if layout.plain:
            words = re.split(r"(?<=\S)(?=\s)", layout.text(rows[number]), maxsplit=3 * BEGUN)
            found.append(Asked("".join(words[:BEGUN]), "".join(words[BEGUN : 3 * BEGUN]).strip()))
            continue
        answer: Message = {"content": ""}
        before = messages = layout.messages(rows[number])
        if layout.kind != "prompt":
            *before, answer = prepare(messages, None, generation=False)
        alone = [turn["role"] for turn in before] == ["user"] and len(before[0]) == 2
        found += [Asked(before[0]["content"] if alone else before, answer["content"])] if before else []
    return found


def spread(items: Sequence[Item], most: int = KEPT) -> list[Item]:
    """At most so many of them, evenly over all."""
    count = min(len(items), most)
    return [items[place * len(items) // count] for place in range(count)]


def short(text: str) -> str:
    """Cut the middle out of a text that is shown: rows of a table often begin alike."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}…{text[-SHOWN // 2 :]}"


def save(folder: Path, asked: Sequence[Asked]) -> None:
    """Write prompts into the folder of a run, for :func:`load`; StoreError if the disk refuses."""
    atomic_text(folder / FILE, json.dumps([asdict(one) for one in asked], default=str))


def load(folder: Path) -> list[Asked]:
    """Read the prompts in the folder of a run; none where there is no evaluation set."""
    file = folder / FILE
    return [Asked(**one) for one in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []
