"""What stays of a run in the notebook: a static summary with its loss curve and the next steps.

It must survive saving, nbconvert and GitHub, which strips styles: a table, a picture and code carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from peft_nb.metrics import METRICS
from peft_nb.tasks import TASKS
from peft_nb.ui import evaluation, wording
from peft_nb.ui.status import title
from peft_nb.ui.style import BOX
from peft_nb.ui.view import RunView

SHOWN = 8  # classes named
WIDTH, HEIGHT = 480, 220  # pixels at which the picture is shown; it is drawn at twice that


def headline(view: RunView) -> str:
    """Say how the run ended, such as ``"lora on smollm2-135m stopped: after step 60"``."""
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
    train = metrics.get("train_loss")
    seconds = fact("train_seconds", view.latest.elapsed_s if view.latest else None)
    peak = fact("peak_memory_mb", view.peak_memory_mb or None)
    trainable = fact("trainable_parameters", view.plan.trainable_parameters if view.plan else None)
    whole = view.plan.total_parameters if view.plan else 0
    part = fact("trainable_share", trainable / whole if trainable is not None and whole else None)
    found: list[tuple[str, str]] = [("run", view.id), ("warning", metrics.get("warning") or "")]
    if view.data:
        found += [("data", _data(view, metrics.get("classes")))]
    if after is not None:
        known = view.base_eval_loss if len(view.evals) > 1 else None
        found += [(METRICS["eval_loss"].title, _change(known, after) + _tokens(metrics))]
    found += _classified(metrics)
    found += evaluation.rows(metrics)
    if view.first_loss is not None:
        # Single steps are noisy, so the metrics give the mean of the last epoch.
        change = f"{wording.loss(view.first_loss)} at first"
        if train is not None:
            change += f", {wording.loss(train)} over the last epoch"
        elif view.latest:
            change += f", {wording.loss(view.latest.loss)} at last"
        found += [(METRICS["train_loss"].title, change)]
    if view.total_steps:
        passed = view.latest.epoch if view.latest else 0
        epochs = f" ({passed:.3g} {'epoch' if passed == 1 else 'epochs'})" if view.latest else ""
        found += [("steps", f"{view.step:,} of {view.total_steps:,}{epochs}")]
    if seconds is not None:
        took = _forecast(wording.duration, seconds, metrics.get("forecast_seconds"))
        found += [(METRICS["train_seconds"].title, took)]
    if trainable is not None:
        share = f" ({wording.share(part)} of the model)" if part is not None else ""
        found += [("trained", f"{wording.count(trainable, 'parameter')}{share}")]
    if peak is not None:
        found += [(METRICS["peak_memory_mb"].title, _forecast(wording.memory, peak, metrics.get("forecast_memory_mb")))]
    found += evaluation.cost(metrics, TASKS[view.task].unit)
    if view.plan:
        found += [("computed", f"{view.plan.dtype} on {view.plan.device}, {view.plan.path}")]
    found += [("note", notice) for notice in view.notices if notice != metrics.get("warning")]
    return [(label, value) for label, value in found if value]


def _tokens(metrics: Mapping[str, Any]) -> str:
    """The held-out loss in other words."""
    facts = [f"perplexity {metrics['perplexity']:.3g}"] if metrics.get("perplexity") is not None else []
    if metrics.get("token_accuracy") is not None:
        facts += [f"{wording.share(metrics['token_accuracy'])} of the tokens right"]
    return f" ({', '.join(facts)})" if facts else ""


def _classified(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How often a classifier is right."""
    if metrics.get("accuracy") is None:
        return []
    accuracy = "all labels right" if metrics.get("multi_label") else "accuracy"
    f1 = [f"{name.replace('_f1', '-F1')} {metrics[name]:.3f}" for name in ("macro_f1", "micro_f1") if name in metrics]
    return [("held-out", ", ".join([f"{accuracy} {100 * metrics['accuracy']:.1f} %", *f1]))]


def _data(view: RunView, classes: Sequence[str] | None) -> str:
    if not view.plan:
        return view.data
    held_out = f", {view.plan.eval_examples:,} held out" if view.plan.eval_examples else ""
    trained_on = wording.count(view.plan.supervised_tokens, "supervised token")
    if classes:
        more = ", …" if len(classes) > SHOWN else ""
        trained_on = f"{len(classes):,} classes ({', '.join(classes[:SHOWN])}{more})"
    return f"{view.data}: {wording.count(view.plan.examples, 'example')}{held_out}, {trained_on}"


def _change(before: float | None, after: float) -> str:
    return f"{wording.loss(before)} → {wording.loss(after)}" if before is not None else wording.loss(after)


def _forecast(say: Callable[[float], str], actual: float, forecast: float | None) -> str:
    return say(actual) + (f" (forecast {say(forecast)})" if forecast is not None else "")


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
    following = next_steps(view, metrics, name)
    lines = [headline(view), *(f"  {label:<14} {value}" for label, value in rows(view, metrics))]
    verdict = evaluation.verdict(metrics)
    return "\n".join(
        [
            *lines,
            *(f"  {'next' if not i else '':<14} {step}" for i, step in enumerate(following)),
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
    cell = "text-align:left;vertical-align:top;white-space:"
    body = "".join(
        f'<tr><th scope="row" style="{cell}nowrap">{escape(label)}</th>'
        f'<td style="{cell}normal;overflow-wrap:anywhere">{escape(value)}</td></tr>'
        for label, value in rows(view, metrics)
    )
    code = "\n".join(map(escape, next_steps(view, metrics, name)))
    following = f'<p style="margin:8px 0 4px">Next:</p><pre style="margin:0"><code>{code}</code></pre>' if code else ""
    verdict = evaluation.verdict(metrics)
    last = f'<p style="margin:8px 0 0"><strong>{escape(verdict)}</strong></p>' if verdict else ""
    head, curve = (f"<p><strong>{escape(headline(view))}</strong></p>", _image(view)) if whole else ("", "")
    return (
        f'<div style="{BOX}">{head}'
        '<div style="display:flex;flex-wrap:wrap;gap:8px 24px;align-items:flex-start">'
        f'<table style="margin:0;flex:1 1 300px;color:inherit;font-size:inherit">{body}</table>'
        f"{curve}{_matrix(metrics)}</div>{following}{last}</div>"
    )


def _image(view: RunView) -> str:
    if len(view.losses) < 2:
        return ""
    from peft_nb.plots import loss_curve

    drawn = loss_curve(view.losses.points(), view.evals.points(), size=(WIDTH / 100, HEIGHT / 100))
    return drawn.html(curve_told(view))


def curve_told(view: RunView) -> str:
    """Say what the picture of the curve shows, such as ``"Loss over 126 steps: training 3.900 to 0.400"``."""
    curves = {"training": view.losses, "held-out": view.evals}
    said = [f"{name} {wording.loss(of.first)} to {wording.loss(of.last)}" for name, of in curves.items() if of]
    return f"Loss over {wording.count(view.step, 'step')}: {', '.join(said)}" if said else ""


def _matrix(metrics: Mapping[str, Any]) -> str:
    if not metrics.get("confusion"):
        return ""
    from peft_nb.plots import confusion

    names, counts = metrics["classes"], metrics["confusion"]
    wrong = sorted(((count, names[true], names[given]) for true, given, count in counts if true != given), reverse=True)
    most = "; ".join(f"{true} taken for {given}: {count}" for count, true, given in wrong[:3])
    alt = f"Confusion matrix of {len(names)} classes; " + (
        f"most often {most}" if wrong else "no text is taken wrongly"
    )
    return confusion(names, counts).html(alt)
