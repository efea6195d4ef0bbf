"""The log of answers: a line of JSON for each that says which version answered; texts only where that is asked for."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peft_nb.system.files import writing


class AnswerLog:
    """Appends to a file that only its owner may read.

    Parameters
    ----------
    file : Path
        Where; made with its folder where it is missing.
    texts : bool
        Whether prompts and answers are kept too.
    """

    def __init__(self, file: Path, texts: bool = False) -> None:
        self.texts = texts
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")

    def write(self, *, user: str | None, asked: Any, answer: str, **told: Any) -> None:
        """Add an answer.

        Parameters
        ----------
        user : str or None
            Who asked; the log holds a hash of it.
        asked, answer : object
            The prompt or messages, and what was answered.
        **told
            What else is known of it.
        """
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **told}
        line["user"] = user and hashlib.sha256(user.encode()).hexdigest()[:16]
        if self.texts:
            line |= {"asked": asked, "answer": answer}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
