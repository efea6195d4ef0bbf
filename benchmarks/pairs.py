"""Questions and answers to measure with: those of a file such as GSM8K's, or the support desk's."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path


def load(path: Path | None, count: int | None = None) -> list[dict[str, str]]:
    """Read rows with ``question`` and ``answer``.

    Parameters
    ----------
    path : Path or None
        A JSON-lines file; without one, the rows are those of the support desk that comes with the project, which
        are a quarter as long as GSM8K's.
    count : int, optional
        How many to take from the beginning; all by default.
    """
    if path is None:
        from peft_nb.data import support_desk

        rows = support_desk.load()["train"]
    elif path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        sys.exit(f"{path} is missing; give --data a JSON-lines file with 'question' and 'answer', such as GSM8K's")
    return [{name: row[name] for name in ("question", "answer")} for row in islice(rows, count)]
