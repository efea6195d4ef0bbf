"""The project's own preference data: everyday questions, each with a brief answer and a long-winded one.

Both answers state the same fact, so what is preferred is brevity alone. ``train.jsonl`` and ``eval.jsonl`` hold pairs,
``rated.jsonl`` single answers to questions of the former, the brief ones rated as good.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def load() -> dict[str, list[dict[str, Any]]]:
    """Read the pairs.

    Returns
    -------
    dict of str to list of dict
        ``"train"`` (332 rows: prompt, chosen, rejected) and ``"eval"`` (60 rows of other prompts).
    """
    return {"train": _rows("train"), "eval": _rows("eval")}


def load_rated() -> dict[str, list[dict[str, Any]]]:
    """Read the rated answers.

    Returns
    -------
    dict of str to list of dict
        ``"train"`` (120 rows: prompt, completion, label); ``label`` is True for the brief half of the answers.
    """
    return {"train": _rows("rated")}


def _rows(name: str) -> list[dict[str, Any]]:
    text = files(__name__).joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
