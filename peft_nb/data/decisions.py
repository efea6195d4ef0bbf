"""What people decided about rows, in a folder: each decision a line, written at once; and the rows that follow.

    labelled/
      decisions.jsonl    every decision, also those skipped and undone, with who made it; only ever appended to
      rows.jsonl         rows to train on, of what is decided now
      pairs.jsonl        pairs of answers, where one was preferred to another
      queue.json         the rows that are to be labelled, in their order

A folder of this kind is read as the rows that it holds, wherever data are named.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import DataError
from peft_nb.system.files import atomic_text, writing

if TYPE_CHECKING:
    from peft_nb.data.prompts import Prompt

FILE, ROWS, PAIRS, QUEUE = "decisions.jsonl", "rows.jsonl", "pairs.jsonl", "queue.json"
LABEL, SKIP, UNDO = "label", "skip", "undo"


@dataclass(frozen=True)
class Decision:
    """What a person did with a row.

    Attributes
    ----------
    key : str
        The row, by its content; see :func:`key_of`.
    did : str
        ``label``, ``skip`` or ``undo``, which takes back the person's last decision on this row.
    by : str
        Who.
    prompt : str or list of dict
        What the row asks.
    answer : str
        The class, or the answer.
    guess : str
        What the model said.
    confidence : float or None
        How sure it was of that, from 0 to 1.
    version : str
        Which run said it, by its version, or its id where it has none.
    rejected : tuple of str
        Answers that were shown and not taken.
    why : str
        The strategy that chose the row.
    at : str
        When, in UTC.
    """

    key: str
    did: str
    by: str
    prompt: Prompt = ""
    answer: str = ""
    guess: str = ""
    confidence: float | None = None
    version: str = ""
    rejected: tuple[str, ...] = ()
    why: str = ""
    at: str = ""


def key_of(prompt: Prompt) -> str:
    """Name a row by its content."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:16]


class Decisions:
    """The decisions of a folder, by whoever made them, in this process or in another.

    Parameters
    ----------
    folder : Path
        Made with the first decision.
    write : callable
        Makes of a decision the row to train on.
    classes : bool, default True
        Whether answers are classes, on which people can disagree; of texts the newest counts.

    Raises
    ------
    DataError
        If there is something else at this path.
    """

    def __init__(self, folder: Path, write: Callable[[Decision], Mapping[str, Any]], *, classes: bool = True) -> None:
        self.folder, self._write, self._classes = folder, write, classes
        if folder.exists() and not (folder.is_dir() and (holds(folder) or not any(folder.iterdir()))):
            raise DataError(f"{folder} exists and holds no decisions; choose another name with --out")

    def add(self, decision: Decision) -> None:
        """Keep a decision, and write anew the rows that follow."""
        line = asdict(decision) | {"at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        file = self.folder / FILE
        with writing(file):
            self.folder.mkdir(parents=True, exist_ok=True)
            torn = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size
            with file.open("a", encoding="utf-8") as out:  # of which a line is written whole, beside another person's
                out.write("\n" * bool(torn) + json.dumps(line, ensure_ascii=False) + "\n")
                out.flush()
                os.fsync(out.fileno())
        self._derive()

    def undo(self, by: str) -> Decision | None:
        """Take back a person's last decision and give it; None if there is none."""
        mine = [one for one in self.current().values() if one.by == by]
        if not mine:
            return None
        self.add(Decision(mine[-1].key, UNDO, by))
        return mine[-1]

    def all(self) -> list[Decision]:
        """Every decision that was ever made, the oldest first; a line that was torn off by a crash is left out."""
        file = self.folder / FILE
        found = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            found.append(Decision(**{**told, "rejected": tuple(told["rejected"])}))
        return found

    def current(self) -> dict[tuple[str, str], Decision]:
        """What stands now, by row and person, in the order in which it was decided."""
        found: dict[tuple[str, str], Decision] = {}
        for one in self.all():
            found.pop((one.key, one.by), None)
            if one.did != UNDO:
                found[one.key, one.by] = one
        return found

    def labels(self) -> dict[str, dict[str, Decision]]:
        """The labels that stand, by row and then by person."""
        found: dict[str, dict[str, Decision]] = {}
        for one in self.current().values():
            if one.did == LABEL:
                found.setdefault(one.key, {})[one.by] = one
        return found

    def agreed(self) -> tuple[list[tuple[Decision, list[str]]], list[str]]:
        """The label of each row that most people gave, with who did, and the rows on which there is no such one."""
        rows, disputed = [], []
        for key, own in self.labels().items():
            (answer, votes), *others = Counter(one.answer for one in own.values()).most_common()
            if others and not self._classes:
                answer = [one.answer for one in own.values()][-1]
            elif others and others[0][1] == votes:
                disputed.append(key)
                continue
            same = [one for one in own.values() if one.answer == answer]
            rows.append((same[-1], [one.by for one in same]))
        return rows, disputed

    def _derive(self) -> None:
        rows, pairs = [], []
        for one, who in self.agreed()[0]:
            told = {"labelled_by": ", ".join(who), "guessed_by": one.version}
            rows.append({**self._write(one), **told})
            pairs += [{"prompt": one.prompt, "chosen": one.answer, "rejected": other, **told} for other in one.rejected]
        for name, made in ((ROWS, rows), (PAIRS, pairs)):
            if made or (self.folder / name).exists() or name == ROWS:
                atomic_text(self.folder / name, lines(made))


def lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as lines of JSON."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def holds(folder: Path) -> bool:
    """Tell whether a folder holds decisions, or the rows that are to be decided."""
    return (folder / FILE).is_file() or (folder / QUEUE).is_file()


def rows_of(folder: Path) -> Path:
    """The file of rows of such a folder.

    Raises
    ------
    DataError
        If nothing has been labelled yet.
    """
    file = folder / ROWS
    if not file.is_file() or not file.stat().st_size:
        raise DataError(f"{folder} holds no labelled rows yet; label some with %peft label")
    return file
