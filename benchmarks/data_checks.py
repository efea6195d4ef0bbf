"""How many planted problems the checks of data find, and what they call wrong that is right.

    python benchmarks/data_checks.py [--each N]

The corpus of ``planted.py`` holds N problems of every kind (200 unless told). Recall is the share of a kind's rows that
its detector names; false alarms are the share of all other rows that it names.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planted import FLAWS, Corpus, chats, text
from planted_values import PERSONAL

from peft_nb.data import duplicates, hygiene, privacy
from peft_nb.data.secrets import secrets


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
    """Rows with a message of which `peft_nb.data.hygiene` says so, by kind."""
    found: dict[str, set[int]] = {kind: set() for kind in FLAWS}
    for number, row in enumerate(corpus.rows):
        for message in row["messages"]:
            for kind in hygiene.flaws(message["content"]):
                found[kind].add(number)
    return found


def personal(corpus: Corpus) -> dict[str, set[int]]:
    """Rows with personal data, by kind."""
    found: dict[str, set[int]] = {kind: set() for kind in PERSONAL}
    for number, row in enumerate(corpus.rows):
        for match in privacy.personal(text(row)):
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


DETECTORS: Sequence[Callable[[Corpus], dict[str, set[int]]]] = (flawed, personal, secret, repeated, leaked)


def measure(corpus: Corpus) -> list[Score]:
    """Let every detector look at the corpus."""
    scores = []
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
    return scores


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


def main() -> None:
    """Plant, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=200, help="problems of every kind (default 200)")
    corpus = chats(parser.parse_args().each)
    privacy.personal("")  # loading spaCy once is not the speed of a row
    print(table(measure(corpus)))


if __name__ == "__main__":
    main()
