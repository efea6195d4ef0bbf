"""A corpus with planted problems: conversations that are right, and among them known rows with known mistakes.

Everything follows from one seed: the support desk's rows, rows written from patterns, and for every kind in `KINDS` as
many problems as asked for. The rows that are right are chosen to look wrong: order numbers like phone numbers, versions
like addresses, hashes like keys, questions of one pattern about different things, letters of many scripts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from planted_values import PERSONAL, SECRETS, fill

from peft_nb.data.support_desk import load

Row = dict[str, Any]

FLAWS = ("empty", "near_empty", "mojibake", "replacement", "control", "invisible")
DUPLICATES = ("exact_duplicate", "near_duplicate", "leak")
ROWS = ("role_order", "supervises_nothing", "over_long")
KINDS = (*FLAWS, *PERSONAL, "secret", *DUPLICATES, *ROWS)

NEAR_WORDS = 14  # in shorter rows one other word may be another fact: no detector can know, so none are planted
LONG_WORDS = 2500  # words of an over-long row; a row that is right has under 80


@dataclass
class Corpus:
    """Rows for training and evaluation, and which of them have which problem.

    ``problems`` maps a kind to the numbers of its rows: of `rows`, for ``leak`` of `evaluation`.
    """

    rows: list[Row] = field(default_factory=list)
    evaluation: list[Row] = field(default_factory=list)
    problems: dict[str, set[int]] = field(default_factory=lambda: {kind: set() for kind in KINDS})


@dataclass(frozen=True)
class Labelled:
    """Texts with labels: those of the `unknown` rows of `evaluation` are not in `rows`, where one label is `rare`."""

    rows: list[Row]
    evaluation: list[Row]
    unknown: set[int]
    rare: str


def chats(each: int = 200, seed: int = 0) -> Corpus:
    """Write the corpus of conversations (layout ``messages``).

    Parameters
    ----------
    each : int, default 200
        Problems of every kind.
    seed : int, default 0
        Same seed, same corpus.
    """
    rng = random.Random(seed)
    planters: dict[str, Callable[[random.Random, int, str, str], list[dict[str, str]]]] = {
        **{kind: _flawed(kind) for kind in FLAWS},
        **{kind: _personal(kind) for kind in PERSONAL},
        "secret": _secret,
        "role_order": _disordered,
        "supervises_nothing": _unanswered,
        "over_long": _over_long,
    }
    right = _right(rng, each * (len(planters) + 1) + 20 * each)
    corpus = Corpus()
    plan = [kind for kind in planters for _ in range(each)] + [""] * (len(right) - each * (len(planters) + 1))
    rng.shuffle(plan)
    clean = []
    for number, kind in enumerate(plan):
        question, answer = right[number]
        if kind:
            corpus.problems[kind].add(number)
            corpus.rows.append({"messages": planters[kind](rng, len(corpus.problems[kind]), question, answer)})
        else:
            clean.append(number)
            corpus.rows.append({"messages": _turns(question, answer)})
    clean = [number for number in clean if len(" ".join(right[number]).split()) >= NEAR_WORDS]
    for kind, number in zip(["exact_duplicate", "near_duplicate"] * each, rng.sample(clean, 2 * each), strict=True):
        copy = _same if kind == "exact_duplicate" else _nearly
        corpus.problems[kind].add(len(corpus.rows))
        corpus.rows.append({"messages": copy(rng, *right[number])})
    for turn, number in enumerate(rng.sample(clean, each)):
        corpus.problems["leak"].add(len(corpus.evaluation))
        corpus.evaluation.append({"messages": (_same, _nearly)[turn % 2](rng, *right[number])})
        corpus.evaluation.append({"messages": _turns(*right[len(plan) + turn])})
    return corpus


def labelled(each: int = 200, seed: int = 0) -> Labelled:
    """Write a table of texts with labels (layout ``text_label``), with `each` unknown labels and one rare label."""
    rng = random.Random(seed)
    topics = sorted({row["topic"] for row in load()["train"]})[:4]
    written = _right(rng, 4 * each)
    labels = [topics[0] if number % 100 == 0 else rng.choice(topics[1:]) for number in range(2 * each)]
    rows = [{"text": question, "label": label} for (question, _), label in zip(written, labels, strict=False)]
    unknown = set(rng.sample(range(2 * each), each))
    evaluation = [
        {"text": question, "label": f"{topics[1]}s" if number in unknown else rng.choice(topics)}
        for number, (question, _) in enumerate(written[2 * each :])
    ]
    return Labelled(rows, evaluation, unknown, topics[0])


def text(row: Row) -> str:
    """All that is said in a conversation, a message a line."""
    return "\n".join(message["content"] for message in row["messages"])


# Rows that are right

_THINGS = (
    "anchor", "ladder", "paddle", "compass", "mooring", "rope", "bilge", "pump", "depth", "sounder", "jacket", "fender",
    "winch", "handle", "sail", "needle", "tiller", "deck", "brush", "signal", "horn", "hook", "chart", "table", "cabin",
    "heater", "fuel", "filter", "hatch", "cover", "spray", "hood", "gas", "locker", "water", "tank", "galley", "stove",
    "chain", "seat", "bow", "thruster", "cockpit", "cushion", "radar", "mount", "wind", "vane",
)  # fmt: skip
_PLACES = ("Bergen", "Cadiz", "Gdansk", "Lorient", "Piraeus", "Tallinn", "Visby", "Zadar", "Aarhus", "Porto", "Rostock")
_COLOURS = ("amber", "black", "cream", "green", "grey", "navy", "orange", "red", "teal", "violet", "white", "yellow")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")


def _right(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Write `count` different questions and answers that nothing is wrong with."""
    rows = {(row["question"], row["answer"]): None for split in load().values() for row in split}
    while len(rows) < count:
        facts = {
            "thing": f"{rng.choice(_COLOURS)} {rng.choice(_THINGS)} {rng.choice(_THINGS)}",
            "place": rng.choice(_PLACES),
            "month": rng.choice(_MONTHS),
            "n": str(rng.randrange(11, 9999)),
            "digits": fill(rng, "%#########"),
            "long": fill(rng, "%" + "#" * 15),
            "hex": f"{rng.getrandbits(160):040x}",
            "uuid": str(UUID(int=rng.getrandbits(128), version=4)),
            "version": ".".join(str(rng.randrange(1, 30)) for _ in range(4)),
            "date": f"{rng.randrange(2019, 2027)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
            "clock": f"{rng.randrange(6, 12):02}:{rng.randrange(60):02}",
            "clock2": f"{rng.randrange(13, 22):02}:{rng.randrange(60):02}",
        }
        question, answer = rng.choice(_PATTERNS)
        rows[question.format(**facts), answer.format(**facts)] = None
    found = list(rows)
    rng.shuffle(found)
    return found


_PATTERNS = (
    ("What does shipping to {place} cost for the {thing}?", "It is {n} crowns."),
    ("Do you ship the {thing} to {place}, and how many are left?", "We do, and {n} are left in {place}."),
    ("Where is my order {digits} from {date}?", "Your order {digits} left {place} on {date} at {clock}."),
    ("Which invoice belongs to order number {long}?", "Invoice {digits}, written on {date}."),
    ("What is the price of the {thing} in {month}?", "€ {n}.95, or £ {n} plus 20% – that’s “final”…"),
    ("Does version {version} of the plotter know {place}?", "Yes, since release {version} of {date}."),
    ("Which commit fixed the {thing}?", "Commit {hex} did, and build {uuid} carries it."),
    ("How long must a password for the {place} shop be?", "A password: at least {n} characters, says rule {digits}."),
    ("How do I read the key in the script {n}?", "By api_key = os.environ['SHOP_{n}'], never token: <your token>."),
    ("¿Cuánto cuesta la travesía a {place} en {month}?", "Señor, el año pasado costó {n} €; ¡hoy también!"),
    ("Où est le café près du port de {place}, {n} rue Molière ?", "À côté de l’église… « au fond », n° {n}, voilà…"),
    ("Wie groß ist die Kajüte „{place}“ auf Boot {n}?", "Über {n} m² – schön groß, 20 °C warm."),
    ("Как называется порт {place} номер {n}?", "Это порт {place}, причал {n}."),
    ("{place}の港{n}の電話は何番ですか？", "{n}番です。ありがとう！"),
    ("Is the {thing} 👩‍🔧 of {n} any good?", "👍 {n} customers of {place} say so 😀"),
    ("When do you open in {place} on {date}?", "From {clock} to {clock2}, all {n} days."),
    ("What is {n} + {digits}?", "{long}"),
    ("Is <b>{thing}</b> on https://shop.example.com/list?id={n}&amp;p=2?", "Yes.\n\n- page {n}\n\t- {place}"),
    ("What is the ISBN of the almanac of {place}, {n} pages?", "It is 978-3-16-148410-0, shelf {n}."),
    ("Write a loop over {n} boats in {place}.", "for boat in boats[:{n}]:\n    print(boat, '{place}', std::ports)"),
)  # fmt: skip


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# Problems


def _same(rng: random.Random, question: str, answer: str) -> list[dict[str, str]]:
    """Copy a row: as it is, in capitals, or with other white space."""
    change = rng.choice((str, str.upper, lambda words: words.replace(" ", "  ") + " \n"))
    if change(question).casefold().split() != question.casefold().split():
        change = str  # "ß" and the like do not survive capitals
    return _turns(change(question), answer)


def _nearly(rng: random.Random, question: str, answer: str) -> list[dict[str, str]]:
    """Copy a row as people do: with a greeting, thanks, other punctuation, or a letter lost from its longest word."""
    longest = max(re.findall(r"[a-zà-öø-ÿа-яё]{4,}", question) or [""], key=len)
    changed = (
        f"Please, {question}" if question[0].islower() else f"Please {question[0].lower()}{question[1:]}",
        f"{question} Thanks!",
        f"{question.rstrip('?')} ?!",
        question.replace(longest, longest[:2] + longest[3:], 1) if longest else f"{question} Thanks!",
    )
    return _turns(rng.choice(changed), answer)


def _flawed(kind: str) -> Callable[[random.Random, int, str, str], list[dict[str, str]]]:
    def plant(rng: random.Random, number: int, question: str, answer: str) -> list[dict[str, str]]:
        spoiled = _SPOIL[kind](rng, answer if number % 2 else question)
        return _turns(question, spoiled) if number % 2 else _turns(spoiled, answer)

    return plant


def _within(rng: random.Random, words: str, *signs: str) -> str:
    place = rng.randrange(1, len(words)) if len(words) > 1 else len(words)
    # Not beside what is no letter of ours: a joiner there may be right, and a tag behind a flag is.
    while place < len(words) and not words[place - 1].isascii():
        place += 1
    return words[:place] + rng.choice(signs) + words[place:]


_ACCENTED = (
    "naïve", "déjà vu", "São Paulo", "Müller & Söhne", "it’s “fine”", "5 € – no more…", "smörgåsbord", "żółć", "Ελλάδα",
    "порт", "港です", "😀",
)  # fmt: skip
_MISSING = ("-", "?", "...", "n/a", "N/A", "nan", "None", "null", "TODO", "***", "…")


def _mojibake(rng: random.Random, words: str) -> str:
    words = f"{words} {rng.choice(_ACCENTED)}".encode()
    try:
        return words.decode(rng.choice(("latin-1", "cp1252")))
    except UnicodeDecodeError:
        return words.decode("latin-1")


_SPOIL: dict[str, Callable[[random.Random, str], str]] = {
    "empty": lambda rng, words: rng.choice(("", " ", "\n\t", "\u00a0", "\u200b")),
    "near_empty": lambda rng, words: rng.choice(_MISSING),
    "mojibake": _mojibake,
    "replacement": lambda rng, words: _within(rng, words, "\ufffd", "\ufffd\ufffd"),
    "control": lambda rng, words: _within(rng, words, "\x00", "\x08", "\x1b[31m", "\x7f", "\x0c", "\x85"),
    "invisible": lambda rng, words: _within(rng, words, "\u200b", "\u202e", "\ufeff", "\u00ad", "\u2060", "\U000e0041"),
}


def _personal(kind: str) -> Callable[[random.Random, int, str, str], list[dict[str, str]]]:
    def plant(rng: random.Random, number: int, question: str, answer: str) -> list[dict[str, str]]:
        told, write = PERSONAL[kind][number % len(PERSONAL[kind])]
        return _turns(f"{question} {told.format(write(rng))}", answer)

    return plant


def _secret(rng: random.Random, number: int, question: str, answer: str) -> list[dict[str, str]]:
    told, write = SECRETS[number % len(SECRETS)]
    return _turns(question, f"{answer}\n{told.format(write(rng))}")


def _disordered(rng: random.Random, number: int, question: str, answer: str) -> list[dict[str, str]]:
    user, assistant = _turns(question, answer)
    system = {"role": "system", "content": "Be brief."}
    return (
        [assistant, user],
        [user, assistant, system, user, assistant],
        [user, user, assistant],
        [user, assistant, assistant],
        [user, {"role": "asistant", "content": answer}],
    )[number % 5]


def _unanswered(rng: random.Random, number: int, question: str, answer: str) -> list[dict[str, str]]:
    user = {"role": "user", "content": question}
    return ([user], [{"role": "system", "content": answer}, user])[number % 2]


def _over_long(rng: random.Random, number: int, question: str, answer: str) -> list[dict[str, str]]:
    words = [word for known in load()["train"] for word in known["answer"].split()]
    return _turns(question, f"{answer} {' '.join(rng.choices(words, k=LONG_WORDS))}")
