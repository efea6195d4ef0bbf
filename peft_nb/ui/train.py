"""``peft_nb.train``: a run from Python, shown while it lasts as ``%%peft`` shows it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import SpecError
from peft_nb.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.ui.live import watch


def train(
    spec: RunSpec | None = None,
    *,
    data: Any = None,
    model: Any = None,
    score: Any = None,
    background: bool = False,
    **fields: Any,
) -> Run:
    """Fine-tune a model and show the run while it lasts.

    Parameters
    ----------
    spec : RunSpec, optional
        A ready description; beside it only live ``data``, ``model`` and ``score`` may be given.
    data : str, DataFrame, list of dict, Dataset or DatasetDict
        What to train on, or its name.
    model : str or tuple, optional
        A name, a folder, a GGUF file, or a live ``(model, tokenizer)`` pair; default ``smollm2-135m``.
    score : str or callable, optional
        How held-out answers are scored: ``exact_match``, ``rouge_l``, or a function
        ``score(prompt, answer, reference) -> float``.
    background : bool
        Return at once; the run goes on in its thread.
    **fields
        Any field of :class:`peft_nb.RunSpec`.

    Returns
    -------
    Run
        Over, unless ``background``.

    Raises
    ------
    PeftNbError
        What is wrong, in one line.
    """
    spec, data, model, score = described(spec, data, model, fields, score)
    return watch(
        lambda listeners: begin(spec, data=data, model=model, score=score, namespace=variables(), listeners=listeners),
        background=background,
    )


def described(
    spec: RunSpec | None, data: Any, model: Any, fields: dict[str, Any], score: Any = None
) -> tuple[RunSpec, object, object, object]:
    """Separate what a spec can say from live objects.

    Parameters
    ----------
    spec : RunSpec or None
        A ready spec.
    data, model, score : object
        A name or a live object.
    fields : dict
        Other fields.

    Returns
    -------
    tuple
        The spec, and the live data, model and score or ``None`` where they were names.
    """
    if spec is not None and fields:
        raise SpecError([f"{name}: give it in the spec or beside it, not both" for name in fields])
    given = (("data", data), ("model", model), ("score", score))
    named = {name: value for name, value in given if isinstance(value, str | Path)}
    live = {name: value for name, value in given if value is not None and name not in named}
    said = {**{name: str(value) for name, value in named.items()}, **dict.fromkeys(live, IN_MEMORY)}
    if spec is None:
        spec = RunSpec(**fields, **said)
    elif said:
        spec = RunSpec(**{**spec.to_kwargs(), **said})
    return spec, live.get("data"), live.get("model"), live.get("score")


def variables() -> dict[str, Any]:
    """The notebook's variables, where names in a spec are looked up first."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell.user_ns if shell else {}
