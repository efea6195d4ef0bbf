"""``peft_nb.train``: a run from Python, shown while it lasts as ``%%peft`` shows it."""

from __future__ import annotations

from typing import Any

from peft_nb.errors import SpecError
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.system.frontend import variables
from peft_nb.ui.arguments import described
from peft_nb.ui.live import watch
from peft_nb.ui.sweep import sweep


def train(
    spec: RunSpec | None = None,
    *,
    data: Any = None,
    eval_data: Any = None,
    model: Any = None,
    score: Any = None,
    reward: Any = None,
    background: bool = False,
    on: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    keep: bool | None = None,
    **fields: Any,
) -> Run:
    """Fine-tune a model and show the run while it lasts.

    Parameters
    ----------
    spec : RunSpec, optional
        A ready description; beside it only live ``data``, ``eval_data``, ``model``, ``score`` and ``reward`` may be
        given.
    data : str, DataFrame, list of dict, Dataset or DatasetDict
        What to train on, or its name.
    eval_data : str, DataFrame, list of dict or Dataset, optional
        The evaluation set, or its name; by default a share of the rows (``eval_fraction``).
    model : str or tuple, optional
        A name, a folder, a GGUF file, or a live ``(model, tokenizer)`` pair; default ``smollm2-135m``.
    score : str or callable, optional
        How answers of the evaluation set are scored: ``exact_match``, ``rouge_l``, or a function
        ``score(prompt, answer, reference) -> float``.
    reward : str, callable or list, optional
        What ``task="grpo"`` rewards answers by: ``exact_match``, ``json_valid``, ``length:12``, ``regex:PATTERN``, a
        function ``reward(prompt, completion, **columns) -> float | None``, or several of these; a function of
        ``prompts`` and ``completions`` gets many at once and gives a list. Functions may be async.
    background : bool
        Return at once; the run goes on in its thread.
    on : str, default "here"
        Where to train: ``here``, ``local:N`` for N processes of this machine, ``ray`` for a Ray cluster (the one at
        ``RAY_ADDRESS``, else one that is started here), or ``ray://HOST:PORT``.
    workers : int, default 1
        Processes that train together on a Ray cluster.
    cpus : int, optional
        Processor cores of each of them; by default its share of a node.
    gpus : float, default 0
        GPUs of each of them.
    keep : bool, default False
        Leave the rows and the run's folder on the Ray cluster after its end.
    **fields
        Any field of :class:`peft_nb.RunSpec`; with ``sweep``, and what else :func:`peft_nb.sweep` takes, the run is
        the best of several trials.

    Returns
    -------
    Run
        Over, unless ``background``.

    Raises
    ------
    PeftNbError
        What is wrong, in one line.
    """
    given = {"data": data, "eval_data": eval_data, "model": model, "score": score, "reward": reward}
    place = Place.of(on=on, workers=workers, cpus=cpus, gpus=gpus, keep=keep)
    if "sweep" in fields:
        if background or spec:
            raise SpecError(["sweep: takes its fields beside it, and ends before it returns; or call peft_nb.sweep(…)"])
        return sweep(fields.pop("sweep"), **given, **place.said, **fields).best()
    spec, live = described(spec, fields, **given)
    return watch(
        lambda listeners: begin(spec, **live, namespace=variables(), listeners=listeners, place=place),
        background=background,
    )
