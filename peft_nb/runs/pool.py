"""What of a pool is to be labelled, and what of that becomes rows to train on, in the columns of a run's own rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft_nb.data import detection, sources
from peft_nb.data.layouts import Layout
from peft_nb.data.prompts import Prompt
from peft_nb.errors import DataError, RunError
from peft_nb.runs.run import Run
from peft_nb.serving.route import text_of


def refuse(run: Run) -> None:
    """Refuse a run whose answers nobody can correct here, as a RunError."""
    task, facts = run.adapter.task, run.facts.task
    if task.base in ("vision", "speech", "diffusion"):
        raise RunError(f"run {run.id} reads no texts, and texts alone are labelled so far")
    if not task.generates and not facts.get("classes"):
        raise RunError(f"run {run.id} gives no classes; label with one that does, or with one that writes texts")
    if facts.get("multi_label"):
        raise RunError(f"run {run.id} gives a text several classes, and one a text is labelled so far")


def prompts(pool: Any, run: Run, namespace: Mapping[str, Any]) -> list[Prompt]:
    """Read what the rows of a pool ask.

    Parameters
    ----------
    pool : object
        As of :class:`peft_nb.runs.labelling.Labelling`.
    run : Run
        Whose spec may name columns.
    namespace : mapping
        The notebook's variables.

    Returns
    -------
    list of str or of list of dict
        Texts, and conversations of more than one turn; none that is empty.
    """
    if isinstance(pool, list | tuple) and pool and all(isinstance(one, str) for one in pool):
        return [one for one in pool if one.strip()]
    found = sources.read(pool, namespace).train
    for role in ("text", "prompt", "question"):
        if (column := (run.spec.columns or {}).get(role)) in found.columns:
            return [str(row[column]) for row in found if str(row[column] or "").strip()]
    layout = detection.detect(found)
    if layout.kind not in ("text", "labelled", "prompt", "chat"):
        raise DataError(f"{layout.why}: a pool holds texts or prompts; name their column text or prompt")
    return [one for one in (prompt_of(row, layout) for row in found) if text_of(one).strip()]


def written(prompt: Prompt, answer: str, layout: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Write a prompt and its answer as a row.

    Parameters
    ----------
    prompt : str or list of dict
        What is asked.
    answer : str
        The class, or the answer.
    layout : str
        The layout of the rows beside which it is to stand.
    columns : mapping of str to str
        Their columns by role; by default these have the names of the roles.

    Returns
    -------
    dict
        Of a layout that has no place for a prompt and an answer, such as pairs, ``prompt`` and ``completion``.
    """

    def name(role: str) -> str:
        return columns.get(role, role)

    if layout == "text":
        return {name("text"): f"{text_of(prompt).rstrip()} {answer}"}
    if layout in ("messages", "sharegpt"):
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        said = [*turns, {"role": "assistant", "content": answer}]
        if layout == "sharegpt":
            names = {"user": "human", "assistant": "gpt"}
            said = [{"from": names.get(one["role"], one["role"]), "value": one["content"]} for one in said]
        return {name("messages"): said}
    pairs = {"text_label": ("text", "label"), "instruction": ("instruction", "output")}
    pairs |= {"question_answer": ("question", "answer"), "prompt_completion": ("prompt", "completion")}
    known = layout in pairs
    asked, said_in = pairs[layout] if known else ("prompt", "completion")
    whole = prompt if layout == "prompt_completion" else text_of(prompt)
    return {name(asked) if known else asked: whole, name(said_in) if known else said_in: answer}


def again(run: Run, data: Any) -> str:
    """Write the cell that goes on from a run with other rows."""
    return f"%%peft {run.spec.method} --data {data} --init-adapter {run.spec.name or run.id}"


def prompt_of(row: Mapping[str, Any], layout: Layout) -> Prompt:
    """What a row asks: a text, or the messages up to the last answer."""
    if layout.plain:
        return str(layout.text(row))
    turns = layout.messages(row)
    while turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    alone = [one["role"] for one in turns] == ["user"] and isinstance(turns[0].get("content"), str)
    return str(turns[0]["content"]) if alone else turns


def plain(text: str) -> str:
    """A text without what tokenizers change: case and white space around signs."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())
