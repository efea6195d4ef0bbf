"""What stays of a run in the notebook: a static summary with its loss curve and the next steps.

It must survive saving, nbconvert and GitHub, which strips styles: a table, a picture and code carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from peft_nb.metrics import METRICS
from peft_nb.tasks import TASKS
from peft_nb.ui import clips, evaluation, images, wording
from peft_nb.ui.evaluation import labelled
from peft_nb.ui.status import notices, title
from peft_nb.ui.style import BOX, NUMBERS
from peft_nb.ui.view import RECENT, RunView

SHOWN = 8  # classes named, or listed without being folded
SCORES = ("perplexity", "token_accuracy", "accuracy", "macro_f1", "micro_f1")  # those that need no words of their own
FORECASTS = {"train_seconds": "forecast_seconds", "peak_memory_mb": "forecast_memory_mb"}
WIDTH, HEIGHT = 480, 220  # pixels at which the picture is shown; it is drawn at twice that


def headline(view: RunView) -> str:
    """Say how the run ended, such as ``"lora on smollm2-135m (lora-3f9a2c) stopped: after step 60"``."""
    return f"{title(view)} {view.status}" + (f": {view.reason}" if view.reason else "")


def rows(view: RunView, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what a person wants to know of a run that ended, as label and value.

    Parameters
    ----------
    view : RunView
        What the events told.
    metrics : mapping
        ``run.metrics``; where it and the view know the same thing, the metrics count.

    Returns
    -------
    list of tuple of str and str
        Only what is known.
    """

    def fact(key: str, otherwise: Any) -> Any:
        return otherwise if metrics.get(key) is None else metrics[key]

    after = fact("eval_loss", view.eval_loss)
    trainable = fact("trainable_parameters", view.plan.trainable_parameters if view.plan else None)
    whole = view.plan.total_parameters if view.plan else 0
    part = fact("trainable_share", trainable / whole if trainable is not None and whole else None)
    found: list[tuple[str, str]] = []
    if view.data:
        found += [("data", _data(view, metrics.get("classes")))]
    found += [("init adapter", metrics.get("init_adapter") or "")]
    found += [("tags", ", ".join(metrics.get("tags") or ()))]
    if after is not None:
        known = view.base_eval_loss if len(view.evals) > 1 else metrics.get("base_eval_loss")
        found += labelled("eval_loss", _change(known, after))
    found += [row for key in SCORES if metrics.get(key) is not None for row in labelled(key, _score(key, metrics))]
    found += evaluation.own(metrics, TASKS[view.task].metrics)
    found += evaluation.rows(metrics)
    if view.first_loss is not None:
        found += labelled("train_loss", _trained(view, metrics.get("train_loss")))
    if view.total_steps:
        passed = view.latest.epoch if view.latest else 0
        epochs = f" ({passed:.3g} {'epoch' if passed == 1 else 'epochs'})" if view.latest else ""
        found += [("steps", f"{view.step:,} of {view.total_steps:,}{epochs}")]
    if trainable is not None:
        share = f" ({wording.share(part)} of the model)" if part is not None else ""
        found += labelled("trainable_parameters", f"{trainable:,}{share}")
    for key, known, say in (
        ("train_seconds", view.latest.elapsed_s if view.latest else None, wording.duration),
        ("peak_memory_mb", view.peak_memory_mb or None, wording.memory),
    ):
        if (measured := fact(key, known)) is not None:
            found += labelled(key, _estimated(say, measured, metrics.get(FORECASTS[key])))
    task = TASKS[view.task]
    found += evaluation.cost(metrics, "token" if task.generates else task.unit)
    if view.plan:
        found += [("precision and device", f"{view.plan.dtype} on {view.plan.device}"), ("batching", view.plan.path)]
    return [(label, value) for label, value in found if value]


def _score(key: str, metrics: Mapping[str, Any]) -> str:
    """A score in its unit; accuracy with one decimal, and said exactly where a text has several labels."""
    if key == "accuracy":
        return f"{100 * metrics[key]:.1f} %" + (" with all labels right" if metrics.get("multi_label") else "")
    return wording.measured(metrics[key], METRICS[key].unit)


def _trained(view: RunView, train_loss: float | None) -> str:
    """How the train loss fell; single steps are noisy, so the metrics give the mean of the last epoch."""
    first = f"{wording.loss(view.first_loss or 0)} first step"
    if train_loss is not None:
        return f"{first} → {wording.loss(train_loss)} last-epoch mean"
    latest = min(RECENT, len(view.losses))
    return f"{first} → {wording.loss(view.train_loss or 0)} mean of the last {wording.count(latest, 'step')}"


def _data(view: RunView, classes: Sequence[str] | None) -> str:
    if not view.plan:
        return view.data
    told = [wording.count(view.plan.examples, "example")]
    if view.plan.eval_examples:
        told.append(f"{view.plan.eval_examples:,} in the eval set")
    if classes:
        more = ", …" if len(classes) > SHOWN else ""
        told.append(f"{len(classes):,} classes ({', '.join(classes[:SHOWN])}{more})")
    elif TASKS[view.task].unit not in ("text", "image"):
        told.append(wording.count(view.plan.supervised_tokens, "supervised token"))
    return f"{view.data}: {', '.join(told)}"


def _change(before: float | None, after: float) -> str:
    if before is None:
        return wording.loss(after)
    return f"{wording.loss(before)} → {wording.loss(after)} ({after - before:+.3f})"


def _estimated(say: Callable[[float], str], actual: float, estimate: float | None) -> str:
    return say(actual) + (f" (estimate {say(estimate)})" if estimate is not None else "")


def next_steps(view: RunView, metrics: Mapping[str, Any], name: str | None = None) -> list[str]:
    """List the sensible next steps as code for a cell; nobody should save what its warning says is spoilt.

    Parameters
    ----------
    view : RunView
        What is known about the run.
    metrics : mapping
        ``run.metrics``; may be empty.
    name : str, optional
        The variable that holds the run; by default the code takes the run from the store first.

    Returns
    -------
    list of str
        One statement or magic a line.
    """
    usable = view.status == "finished" or view.checkpoint is not None
    if not usable:
        return []
    run = name or "run"
    steps = [] if name else [f"%peft load {view.id} --out {run}"]
    if view.status != "finished":
        steps += [f"%peft resume {run}"]
    if view.status != "failed":
        steps += [f'{run}.{TASKS[view.task].verb}("…")']
        steps += [] if metrics.get("warning") else [f"%peft save {run} my-adapter"]
    return steps


def text(view: RunView, metrics: Mapping[str, Any], name: str | None = None) -> str:
    """Say the summary in plain text; parameters as in :func:`html`.

    Returns
    -------
    str
        Lines of label and value, then the next steps, last the verdict where one was asked for.
    """
    told = rows(view, metrics)
    warned = [("warning", metrics["warning"])] if metrics.get("warning") else []
    warned += [
        (one.level, one.text + (f"; fix: {one.fix}" if one.fix else ""))
        for one in view.notices
        if one.text != metrics.get("warning")
    ]
    following = next_steps(view, metrics, name)
    wide = max([14, *(len(label) for label, _ in told)])
    verdict = evaluation.verdict(metrics)
    return "\n".join(
        [
            headline(view),
            *(f"  {label:<{wide}} {value}" for label, value in (*told, *warned)),
            *(f"  {'' if i else 'next':<{wide}} {step}" for i, step in enumerate(following)),
            *([verdict] if verdict else []),
        ]
    )


def html(view: RunView, metrics: Mapping[str, Any], name: str | None = None, *, whole: bool = True) -> str:
    """Draw the summary.

    Parameters
    ----------
    view : RunView
        What the events told; its words may come from anywhere and are escaped.
    metrics : mapping
        ``run.metrics``; may be empty.
    name : str, optional
        The variable that holds the run, for the next steps.
    whole : bool, default True
        Whether headline and curve are part of it; the panel of a run shows them itself.

    Returns
    -------
    str
        An HTML fragment that needs neither scripts nor style sheets.
    """
    cell = "text-align:left;vertical-align:top;white-space:normal"
    body = "".join(
        f'<tr><th scope="row" style="{cell};overflow-wrap:normal">{escape(label)}</th>'
        f'<td style="{cell};min-width:11em;overflow-wrap:anywhere">{escape(value)}</td></tr>'
        for label, value in rows(view, metrics)
    )
    code = "\n".join(map(escape, next_steps(view, metrics, name)))
    following = f'<p style="margin:8px 0 4px">Next:</p><pre style="margin:0"><code>{code}</code></pre>' if code else ""
    verdict = evaluation.verdict(metrics)
    last = f'<p style="margin:8px 0 0"><strong>{escape(verdict)}</strong></p>' if verdict else ""
    head, curve = "", ""
    if whole:
        warned = notices(view, *filter(None, [metrics.get("warning")]))
        head, curve = f"<p><strong>{escape(headline(view))}</strong></p>{warned}", _image(view)
    classes = _classes(metrics, TASKS[view.task].unit)
    return (
        f'<div style="{BOX}">{head}'
        '<div style="display:flex;flex-wrap:wrap;gap:8px 24px;align-items:flex-start">'
        f'<table style="margin:0;flex:1 1 340px;table-layout:auto;color:inherit;font-size:inherit">{body}</table>'
        f"{curve}{_matrix(metrics)}</div>{classes}{_mistakes(view)}{_clips(view)}{following}{last}</div>"
    )


def _image(view: RunView) -> str:
    if len(view.losses) < 2:
        return ""
    from peft_nb.plots import loss_curve

    size, unit = (WIDTH / 100, HEIGHT / 100), TASKS[view.task].loss_unit
    drawn = loss_curve(view.losses.points(), view.evals.points(), size, unit)
    return drawn.html(curve_told(view))


def curve_told(view: RunView) -> str:
    """Say what the picture of the curve shows, such as ``"Loss over 126 steps: training 3.900 to 0.400"``."""
    curves = {"train loss": view.losses, "eval loss": view.evals}
    said = [f"{name} {wording.loss(of.first)} to {wording.loss(of.last)}" for name, of in curves.items() if of]
    return f"Losses over {wording.count(view.step, 'step')}: {', '.join(said)}" if said else ""


def _matrix(metrics: Mapping[str, Any]) -> str:
    if not metrics.get("confusion"):
        return ""
    from peft_nb.plots import confusion

    names, counts = metrics["classes"], metrics["confusion"]
    wrong = sorted(((count, names[true], names[given]) for true, given, count in counts if true != given), reverse=True)
    most = "; ".join(f"{true} predicted as {given}: {count}" for count, true, given in wrong[:3])
    alt = f"Confusion matrix of {len(names)} classes; " + (f"most often {most}" if wrong else "none is wrong")
    return confusion(names, counts).html(alt)


def _mistakes(view: RunView) -> str:
    """The images that a classifier is surest of and wrong about."""
    said = ((one.image, f"{one.answer} ({one.probability:.0%})", f"is {one.label}") for one in view.mistakes)
    shown = [images.Shown(*one) for one in said]
    return images.grid("Worst mistakes on the eval set", shown) if shown else ""


def _clips(view: RunView) -> str:
    """The clips of the evaluation set with the most errors."""
    shown = [
        clips.Shown(one.audio, one.reference, one.answer, f"{one.error_rate:.0%} of words wrong; base: {one.before}")
        for one in view.clips
    ]
    return clips.table("Clips of the eval set with the most errors", shown) if shown else ""


def by_class(metrics: Mapping[str, Any]) -> list[tuple[str, float, float, float, int]]:
    """Work out precision, recall and F1 of each class, and of how many texts it is true.

    Parameters
    ----------
    metrics : mapping
        ``run.metrics`` of a classifier, with ``class_counts`` where a text can have several classes, or else with
        ``confusion``; and ``classes``, their names.

    Returns
    -------
    list of tuple
        Name, precision, recall, F1 and number of texts, a class a row; 0 where a share has no texts. Empty where
        neither was counted.
    """
    counts = metrics.get("class_counts") or _counted(metrics.get("confusion", ()), len(metrics["classes"]))
    return [
        (name, hit / max(given, 1), hit / max(texts, 1), 2 * hit / max(given + texts, 1), texts)
        for name, (texts, given, hit) in zip(metrics["classes"], counts, strict=False)
    ]


def _counted(confusion: Sequence[Sequence[int]], classes: int) -> list[tuple[int, int, int]]:
    """Of each class the texts that have it, are given it, and both."""
    true, given, right = ([0] * classes for _ in range(3))
    for own, found, count in confusion:
        true[own] += count
        given[found] += count
        right[own] += count if own == found else 0
    return list(zip(true, given, right, strict=True)) if confusion else []


def _classes(metrics: Mapping[str, Any], unit: str = "text") -> str:
    """A table by class, of so many texts or images; a long one is folded."""
    if not metrics.get("classes") or not (counted := by_class(metrics)):
        return ""
    right = f"text-align:right;padding:0 6px;white-space:nowrap;{NUMBERS}"
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;min-width:4em;overflow-wrap:anywhere">{escape(name)}</th>'
        + "".join(f'<td style="{right}">{share:.3f}</td>' for share in shares)
        + f'<td style="{right}">{texts:,}</td></tr>'
        for name, *shares, texts in counted
    )
    head = "".join(
        f'<th scope="col" style="{right}">{name}</th>' for name in ("precision", "recall", "F1", f"eval {unit}s")
    )
    folded = "" if len(metrics["classes"]) > SHOWN else " open"
    return (
        f"<details{folded}><summary>{len(metrics['classes']):,} classes on the eval set</summary>"
        '<table style="margin:0;table-layout:auto;color:inherit;font-size:inherit">'
        f'<tr><th scope="col" style="text-align:left">class</th>{head}</tr>{rows}</table></details>'
    )
