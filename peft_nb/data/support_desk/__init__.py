"""The project's own demo data: the support desk of Tidewater, a boat shop that does not exist.

Every answer has the house style, an opening and a sign-off, and carries one invented fact, so a model that
was not trained on these rows can know neither. ``train.jsonl`` asks for each fact in ten ways, ``eval.jsonl``
in new ones. ``handbook`` says them all, and as many again that no row asks for; ``unseen.jsonl`` does.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

OPENING = "Ahoy!"
SIGN_OFF = "Fair winds, Tidewater."
HANDBOOK = Path(__file__).parent / "handbook"
"""Folder of the desk's handbook: a section a fact."""


@dataclass(frozen=True)
class Verdict:
    """What the rule says of one answer."""

    style: bool
    fact: bool

    @property
    def right(self) -> bool:
        """True when both the style and the fact are right."""
        return self.style and self.fact


def load() -> dict[str, list[dict[str, str]]]:
    """Read the rows that ship with the package.

    Returns
    -------
    dict of str to list of dict
        ``"train"`` (360 rows: question, answer, topic) and ``"eval"`` (60 rows: the same fields, and ``key``,
        the phrase which a right answer must contain).
    """
    return {split: _rows(split) for split in ("train", "eval")}


def unseen() -> list[dict[str, str]]:
    """Read 74 questions about 37 facts that stand in the handbook and in no other row; fields as of ``"eval"``."""
    return _rows("unseen")


def _rows(name: str) -> list[dict[str, str]]:
    text = files(__name__).joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def judge(row: dict[str, str], answer: str) -> Verdict:
    """Judge an answer to a held-out question by rule.

    Parameters
    ----------
    row : dict
        A row of the ``"eval"`` split.
    answer : str
        What a model answered; white space around it does not count.

    Returns
    -------
    Verdict
        ``style``: the answer begins with `OPENING` and ends with `SIGN_OFF`. ``fact``: it contains the row's
        key phrase as whole words, whatever their case and spacing, and not as part of a longer number or
        compound: "41 days" is found in neither "141 days" nor "1.41 days".
    """
    answer = answer.strip()
    key = r"\s+".join(map(re.escape, row["key"].split()))
    joined = "[-.,:/\N{EN DASH}]"  # between word characters these make one number or compound, such as 17:20
    pattern = rf"(?<!\w)(?<!\w{joined}){key}(?!\w)(?!{joined}\w)"
    return Verdict(
        style=answer.startswith(OPENING) and answer.endswith(SIGN_OFF),
        fact=re.search(pattern, answer, re.IGNORECASE) is not None,
    )
