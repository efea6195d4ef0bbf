"""How many planted problems the checks of data find, and what they call wrong that is right.

The corpora of ``planted.py`` hold N problems of every kind. Recall is the share of a kind's rows that its detector
names; false alarms are the share of all other rows that it names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planted import FLAWS, Corpus, Row, chats, labelled, text
from planted_values import PERSONAL

from peft_nb.data import detection, sources
from peft_nb.data.quality import characters, checks, duplicates, pii
from peft_nb.data.quality.lengths import Options
from peft_nb.data.quality.secrets import secrets


@dataclass(frozen=True)
class Score:
    """What one detector made of one kind of problem, in rows."""

    kind: str
    planted: int
    found: int
    others: int
    false: int
    rows_per_second: float

    @property
    def recall(self) -> float:
        """Share of the planted problems that were found."""
        return self.found / self.planted

    @property
    def false_alarms(self) -> float:
        """Share of all other rows that were called wrong."""
        return self.false / self.others


def flawed(corpus: Corpus) -> dict[str, set[int]]:
    """Rows with a message of which `peft_nb.data.quality.characters` says so, by kind."""
    found: dict[str, set[int]] = {kind: set() for kind in FLAWS}
    for number, row in enumerate(corpus.rows):
        for message in row["messages"]:
            for kind in characters.flaws(message["content"]):
                found[kind].add(number)
    return found


def personal(corpus: Corpus) -> dict[str, set[int]]:
    """Rows with personal data, by kind."""
    found: dict[str, set[int]] = {kind: set() for kind in PERSONAL}
    for number, row in enumerate(corpus.rows):
        for match in pii.personal(text(row)):
            found[match.kind].add(number)
    return found


def secret(corpus: Corpus) -> dict[str, set[int]]:
    """Rows with a key, a token or a password."""
    return {"secret": {number for number, row in enumerate(corpus.rows) if secrets(text(row))}}


def repeated(corpus: Corpus) -> dict[str, set[int]]:
    """Rows that repeat an earlier row; the detector does not say whether exactly or nearly, so both are asked of it."""
    first = duplicates.groups([text(row) for row in corpus.rows])
    again = {number for number, group in enumerate(first) if group != number}
    exact, near = corpus.problems["exact_duplicate"], corpus.problems["near_duplicate"]
    return {"exact_duplicate": again - near, "near_duplicate": again - exact}


def leaked(corpus: Corpus) -> dict[str, set[int]]:
    """Evaluation rows that are also trained on."""
    pairs = duplicates.shared(*([text(row) for row in rows] for rows in (corpus.rows, corpus.evaluation)))
    return {"leak": {number for _, number in pairs}}


# What the check calls the rows that are planted under another name.
STRUCTURE = {"role_order": ("roles", "turns", "malformed"), "supervises_nothing": ("nothing",), "over_long": ("long",)}


def structure(corpus: Corpus) -> dict[str, set[int]]:
    """Rows whose messages are out of order, teach nothing or are too long, as `peft_nb.check` finds them."""
    found = _check(corpus.rows, None, Options())
    return {kind: {row for name in names for row in found.get(name, ())} for kind, names in STRUCTURE.items()}


def _check(rows: Sequence[Row], evaluation: Sequence[Row] | None, options: Options) -> dict[str, tuple[int, ...]]:
    train = sources.read(list(rows)).train
    held = sources.read(list(evaluation)).train if evaluation else None
    checked = checks.check(train, detection.detect(train), held, options=options)
    return {finding.kind: finding.rows for finding in checked.findings}


def unknown(each: int, seed: int) -> Score:
    """Score the labels of evaluation rows that no training row has."""
    table, began = labelled(each, seed), time.perf_counter()
    found = set(_check(table.rows, table.evaluation, Options(task="classification")).get("unknown_label", ()))
    speed = (len(table.rows) + len(table.evaluation)) / (time.perf_counter() - began)
    others = len(table.evaluation) - len(table.unknown)
    hits, wrong = len(found & table.unknown), len(found - table.unknown)
    return Score("unknown_label", len(table.unknown), hits, others, wrong, speed)


DETECTORS: Sequence[Callable[[Corpus], dict[str, set[int]]]] = (flawed, personal, secret, repeated, leaked, structure)


def measure(each: int, seed: int) -> list[Score]:
    """Let every detector look at the corpora with `each` problems of a kind that follow from `seed`."""
    corpus, scores = chats(each, seed), []
    pii.personal("")  # loading spaCy once is not the speed of a row
    for detector in DETECTORS:
        began = time.perf_counter()
        found = detector(corpus)
        speed = len(corpus.rows) / (time.perf_counter() - began)
        for kind, rows in found.items():
            planted = corpus.problems[kind]
            total = len(corpus.evaluation if kind == "leak" else corpus.rows)
            scores.append(
                Score(kind, len(planted), len(rows & planted), total - len(planted), len(rows - planted), speed)
            )
    return [*scores, unknown(each, seed)]


def table(scores: Sequence[Score]) -> str:
    """Lay out the scores as a Markdown table."""
    lines = [
        "| problem | planted | recall | other rows | false alarms | rows/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in scores:
        lines.append(
            f"| {one.kind} | {one.planted} | {one.recall:.1%} | {one.others} "
            f"| {one.false_alarms:.2%} | {one.rows_per_second:.0f} |"
        )
    return "\n".join(lines)
