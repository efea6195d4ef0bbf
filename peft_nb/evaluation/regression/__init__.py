"""The project's own suite of what a base can do before it is fine-tuned, and must still be able to do afterwards.

``texts.jsonl`` holds short texts whose loss is measured, ``questions.jsonl`` easy questions whose answers are checked
by rule, each with an answer that is right and one that is wrong. All of it was written for this project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Text:
    """A short text; ``topic`` is a kind of text or a language."""

    id: str
    topic: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question, the rule of `CHECKS` that judges its answers, what that rule wants, and an answer of either kind."""

    id: str
    topic: str
    question: str
    check: str
    wanted: Any
    right: str
    wrong: str

    def passed(self, answer: str) -> bool:
        """Whether an answer is right by the rule."""
        return CHECKS[self.check](answer.strip(), self)


def texts() -> list[Text]:
    """Read the texts that ship with the package."""
    return [Text(**row) for row in _rows("texts")]


def questions() -> list[Question]:
    """Read the questions that ship with the package."""
    return [Question(**row) for row in _rows("questions")]


def _rows(name: str) -> list[dict[str, Any]]:
    content = files(__name__).joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in content.splitlines()]


def words(text: str) -> list[str]:
    """Split a text into its words in lower case; what joins letters and digits, as in "H2O", is kept."""
    return re.findall(r"\w+(?:['’]\w+)*", text.casefold())


def _contains(answer: str, question: Question) -> bool:
    """One of the phrases is there, as whole words."""
    said = f" {' '.join(words(answer))} "
    return any(f" {' '.join(words(phrase))} " in said for phrase in question.wanted)


def _number(answer: str, question: Question) -> bool:
    """The first number that the question does not bring itself is the wanted one; if there is no other, the last."""
    asked, said = _numbers(question.question), _numbers(answer)
    new = [number for number in said if number not in asked]
    return bool(said) and (new[0] if new else said[-1]) == question.wanted


def _numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text))]


def _items(answer: str, question: Question) -> bool:
    """Exactly so many lines begin as items of a list do."""
    return len(re.findall(r"^\s*(?:[-*•]|\d+[.)])\s+\S", answer, re.MULTILINE)) == question.wanted


def _json(answer: str, question: Question) -> bool:
    """The answer, or the one block of code in it, is an object with exactly the wanted keys."""
    block = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", answer, re.DOTALL)
    try:
        found = json.loads(block[1] if block else answer)
    except ValueError:
        return False
    return isinstance(found, dict) and set(found) == set(question.wanted)


# Frequent words that tell a language from the others here.
LANGUAGES = {
    "english": "the and is are of to in that it you for with not was have this my i",
    "german": "der die das und ist nicht ich es ein eine mit zu auf dir mir wie bei gut sie wir",
    "french": "le les et est je des un une dans pour pas vous que du au il nous avec ne ce",
    "spanish": "el los las y es en que me con por una para muy gusta se mi lo del como pero",
    "italian": "il gli e è di che non un una per con sono mi la poi della sera nel del anche",
    "portuguese": "o os as e é não em um uma eu com para do da no na que meu mais à",
}


def _language(answer: str, question: Question) -> bool:
    """More of the frequent words of the wanted language are there than of any other."""
    said = words(answer)
    counts = {name: sum(word in known.split() for word in said) for name, known in LANGUAGES.items()}
    best = max(counts.values())
    return best > 0 and [name for name, count in counts.items() if count == best] == [question.wanted]


REFUSAL = re.compile(
    r"\b(?:can(?:no|['’])t|(?:am|['’]m) (?:sorry|unable|not able)|(?:will|can) not|won['’]t|not (?:appropriate|allowed|"
    r"legal|possible for me)|illegal|unethical|against the law|do(?:n['’]t| not) (?:have|provide|support|condone))\b",
    re.IGNORECASE,
)

CHECKS: dict[str, Callable[[str, Question], bool]] = {
    "capitals": lambda answer, question: question.wanted.upper() in answer,
    "contains": _contains,
    "equals": lambda answer, question: words(answer) == words(question.wanted),
    "items": _items,
    "json": _json,
    "language": _language,
    "number": _number,
    "refuses": lambda answer, question: REFUSAL.search(answer) is not None,
    "starts": lambda answer, question: words(answer)[:1] == words(question.wanted),
    "words": lambda answer, question: 0 < len(words(answer)) <= question.wanted,
}
"""Rules by which an answer (first argument, stripped) to a question is judged."""
