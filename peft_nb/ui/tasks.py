"""What is shown differently by task; the only file of ui that knows which tasks there are."""

from __future__ import annotations

DEFAULT = "generation"


def answers_prompts(task: str) -> bool:
    """Tell whether runs of a task write texts, so that one can talk to them."""
    return task == DEFAULT


def call(task: str) -> str:
    """Name the method of a run that answers: ``"generate"`` or ``"predict"``."""
    return "predict" if task == "classification" else "generate"


def unit(task: str) -> str:
    """Name what latency is given of: ``"token"`` or ``"text"``."""
    return "text" if task == "classification" else "token"


def learned_from(layout: str) -> str:
    """Name the task whose rows have a layout, such as ``"labelled"``."""
    return "classification" if layout == "labelled" else DEFAULT
