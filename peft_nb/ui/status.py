"""The running state of a run, drawn from its view: one HTML fragment, one line of text.

Only inline styles and the variables of JupyterLab's themes with fallbacks, so that it reads in light and
dark, in Lab, VS Code and Colab. What a colour says is also said in words.
"""

from __future__ import annotations

from html import escape

from peft_nb.events import Notice, Sampled, StepLogged
from peft_nb.metrics import METRICS, Metric
from peft_nb.tasks import TASKS
from peft_nb.ui import images, wording
from peft_nb.ui.style import BOX, MUTED, NUMBERS
from peft_nb.ui.view import RECENT, Curve, RunView

TRACK = "height:8px;border-radius:4px;overflow:hidden;margin:6px 0 8px;background:rgba(128,128,128,.3)"
FILL = "height:100%;border-radius:4px;background:var(--jp-brand-color1,#1976d2)"
GRID = "display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:8px 20px;margin-bottom:4px"
WARNING = "margin:6px 0;padding:4px 10px;border-left:4px solid #d55e00;background:rgba(213,94,0,.12)"
SPARK = (150, 36)  # pixels
TILE = (120, 22)
TILE_POINTS = 60
NOTES = 4


def title(view: RunView) -> str:
    """Name a run, its method and its model, such as ``"lora on smollm2-135m (lora-3f9a2c)"``."""
    what = f"{view.method} on {view.model}" if view.method else "peft_nb"
    known = ", ".join(filter(None, (view.name, view.id)))
    return f"{what} ({known})" if known else what


def stage(view: RunView, clock_s: float | None = None) -> str:
    """Say in a few words what the run does now.

    Parameters
    ----------
    view : RunView
        What is known about the run.
    clock_s : float, optional
        Seconds for which the run has been in front of the user.

    Returns
    -------
    str
        Such as ``"loading the model, 6 s so far"`` or ``"step 45 of 126, evaluating, 1 min 8 s so far"``.
    """
    steps = f"step {view.step:,} of {view.total_steps:,}" if view.total_steps else ""
    said = ", ".join(filter(None, (steps, view.what if view.active else view.status))) or view.status
    return f"{said}, {wording.duration(int(clock_s))} so far" if clock_s is not None and clock_s >= 1 else said


def text(view: RunView, clock_s: float | None = None) -> str:
    """Say the running state in one line.

    Parameters
    ----------
    view : RunView
        What is known about the run.
    clock_s : float, optional
        As in :func:`stage`.

    Returns
    -------
    str
        Such as ``"step 45 of 126 · eval loss 1.300 · train loss 1.234 · 890 tokens/s · 1 min 20 s left"``.
    """
    parts = [stage(view, clock_s)]
    if view.latest:
        if view.eval_loss is not None:
            parts += [f"eval loss {wording.loss(view.eval_loss)}"]
        parts += [f"{name} {_score(curve.last)}" for name, curve in _scores(view)]
        if view.train_loss is not None:
            parts += [f"train loss {wording.loss(view.train_loss)}"]
        parts += [f"{view.tokens_per_second:,.0f} {_counted(view)}/s", " ".join(_memory(view, view.latest)).strip()]
    if view.eta_s is not None:
        parts += [_left(view.eta_s)]
    return " · ".join(parts)


def _left(seconds: float) -> str:
    return f"{wording.duration(seconds)} left" if seconds >= 1 else "almost done"


def _scores(view: RunView) -> list[tuple[str, Curve]]:
    """What else was measured of which it is known which way is better, by its title; the chart shows the rest."""
    known = {key: METRICS.get(key, Metric(key, key, better="high")) for key in view.scores}
    return [(known[key].title, curve) for key, curve in view.scores.items() if curve and known[key].better]


def _score(value: float) -> str:
    return f"{value:.3f}"


def html(view: RunView, clock_s: float | None = None) -> str:
    """Draw the running state.

    Parameters
    ----------
    view : RunView
        What is known about the run; its words may come from anywhere and are escaped.
    clock_s : float, optional
        As in :func:`stage`.

    Returns
    -------
    str
        An HTML fragment.
    """
    far = f" · epoch {view.latest.epoch:.2f}" if view.latest else ""
    left = f" · {_left(view.eta_s)}" if view.eta_s is not None else ""
    percent = f"{100 * view.fraction:.0f}"
    now = f'aria-valuenow="{percent}" ' if view.total_steps else ""
    head = (
        '<div style="display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px">'
        f"<strong>{escape(title(view))}</strong>"
        f'<span style="{NUMBERS}">{escape(stage(view, clock_s))}{far}{left}</span></div>'
    )
    bar = (
        f'<div role="progressbar" aria-label="Training progress" aria-valuemin="0" aria-valuemax="100" {now}'
        f'aria-valuetext="{escape(stage(view))}" style="{TRACK}">'
        f'<div style="{FILL};width:{percent}%"></div></div>'
    )
    cells = f'<div style="{GRID}">{"".join(_cells(view, view.latest))}</div>' if view.latest else ""
    return f'<div style="{BOX}">{head}{bar if view.active else ""}{cells}{notices(view)}</div>'


def notices(view: RunView, *warned: str) -> str:
    """Draw what the run told: warnings, those given first, so that they stand out; below them the newest notes.

    Parameters
    ----------
    view : RunView
        What is known about the run.
    *warned : str
        Warnings beside those that the events told.

    Returns
    -------
    str
        An HTML fragment; empty where there is nothing to tell.
    """
    warnings = [Notice(text, "warning") for text in warned]
    warnings += [one for one in view.notices if one.level == "warning" and one.text not in warned]
    notes = [one for one in view.notices if one.level == "info" and one.text not in warned][-NOTES:]
    return "".join(
        f'<div role="note" style="{WARNING if one in warnings else MUTED}">'
        f"{'<strong>Warning:</strong> ' if one in warnings else 'Note: '}{escape(one.text)}{_fix(one)}</div>"
        for one in (*warnings, *notes)
    )


def _fix(notice: Notice) -> str:
    return f" <strong>Fix:</strong> <code>{escape(notice.fix)}</code>" if notice.fix else ""


def _cells(view: RunView, latest: StepLogged) -> list[str]:
    cells = []
    if view.eval_loss is not None:
        cells.append(_cell("eval loss", wording.loss(view.eval_loss), _change(view), view.evals))
    cells += [_cell(name, _score(curve.last), "", curve) for name, curve in _scores(view)]
    if view.train_loss is not None:
        over = f"mean of {min(RECENT, len(view.losses))} steps" if len(view.losses) > 1 else ""
        cells.append(_cell("train loss", wording.loss(view.train_loss), over, view.losses.smoothed(RECENT)))
    used, limit = _memory(view, latest)
    return [
        *cells,
        _cell("speed", f"{view.tokens_per_second:,.0f}", f"{_counted(view)}/s", view.speeds),
        _cell("memory", used, limit, view.memories),
        _cell("learning rate", f"{latest.learning_rate:.2g}", "", view.rates),
        _cell("gradient norm", f"{latest.grad_norm:.2g}", "", view.norms),
    ]


def _counted(view: RunView) -> str:
    """What is counted of what the model learns from."""
    return TASKS[view.task].counted_in


def _change(view: RunView) -> str:
    """How the eval loss compares: with its lowest, once it rises again, else with the base model."""
    steps, values = view.evals.arrays()
    lowest = values.argmin() if len(values) else 0
    if lowest + 1 < len(values):
        return f"best {wording.loss(values[lowest])} at step {steps[lowest]:,}"
    if view.base_eval_loss is None or len(values) < 2:
        return "base model" if len(values) == 1 and steps[0] == 0 else ""
    return f"{values[-1] - view.base_eval_loss:+.3f} from {wording.loss(view.base_eval_loss)}"


def _cell(label: str, value: str, aside: str, curve: Curve | None = None) -> str:
    return (
        f'<div style="{NUMBERS}"><div style="{MUTED}">{escape(label)}</div>'
        f'<strong style="font-size:1.25em">{value}</strong> <div style="{MUTED};min-height:1.5em">{aside}</div>'
        f"{_tile(curve) if curve else ''}</div>"
    )


def _tile(curve: Curve) -> str:
    """Draw how a number has moved, from its lowest to its highest value; the numbers beside it say the rest."""
    points, (wide, tall) = curve.points(TILE_POINTS), TILE
    if len(points) < 2:
        return ""
    steps, values = zip(*points, strict=True)
    low, across, down = min(values), (wide - 4) / (steps[-1] - steps[0] or 1), max(values) - min(values)
    down = (tall - 4) / (down or 1)
    path = " ".join(
        f"{2 + (step - steps[0]) * across:.1f},{tall - 2 - (value - low) * down:.1f}" for step, value in points
    )
    return (
        f'<svg aria-hidden="true" viewBox="0 0 {wide} {tall}" preserveAspectRatio="none" fill="none" '
        f'style="display:block;width:100%;max-width:240px;height:{tall}px"><polyline points="{path}" '
        'stroke-width="1.5" stroke="var(--jp-brand-color1,#1976d2)" vector-effect="non-scaling-stroke"/></svg>'
    )


def _memory(view: RunView, latest: StepLogged) -> tuple[str, str]:
    limit = view.memory_limit_mb
    return wording.memory(latest.memory_mb), f"of {wording.memory(limit)}" if limit else ""


def samples(view: RunView) -> str:
    """Draw what the model answered to the same prompts of the evaluation set as it learned.

    Parameters
    ----------
    view : RunView
        What is known about the run.

    Returns
    -------
    str
        An HTML fragment; empty while nothing was asked.
    """
    asked: dict[str, list[Sampled]] = {}
    for one in view.samples:
        asked.setdefault(one.prompt, []).append(one)
    if any(one.image and not one.answer for one in view.samples):  # the image is the answer
        shown = {prompt: [images.Shown(one.image, _when(one)) for one in some] for prompt, some in asked.items()}
        return "".join(images.grid(prompt, some) for prompt, some in shown.items())
    drawn = "".join(_sample(prompt, answers) for prompt, answers in asked.items())
    beside = any(one.image for one in view.samples)  # these take little room
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 8px">{drawn}</div>' if beside else drawn


def _when(one: Sampled) -> str:
    """After which step it was answered, and what reward the answer got."""
    reward = "" if one.reward is None else f", reward {one.reward:.3g}"
    return (f"step {one.step:,}" if one.step else "base model") + reward


def _sample(prompt: str, answers: list[Sampled]) -> str:
    said = [(_when(one), one.answer) for one in answers]
    said += [("expected", answers[0].reference)] * bool(answers[0].reference)
    cell = "padding:1px 8px 1px 0" if answers[0].image else "padding-right:12px"
    left, wrapped = f"{cell};text-align:left;vertical-align:top", f"{cell};text-align:left;overflow-wrap:anywhere"
    rows = "".join(
        f'<tr><th scope="row" style="{left};white-space:nowrap;width:1%;{MUTED}">{label}</th>'
        f'<td dir="auto" style="{wrapped}">{escape(answer)}</td></tr>'
        for label, answer in said
    )
    size = "flex:1 1 13em;max-width:18em" if answers[0].image else "width:100%"  # two in a line at least
    return (
        f'<table style="{size};table-layout:auto;margin:8px 0 0;color:inherit;font-size:inherit">'
        f'<caption dir="auto" style="{wrapped};font-weight:bold;caption-side:top;color:inherit">'
        f"{_thumbnail(answers[0])}{escape(prompt)}</caption>{rows}</table>"
    )


def _thumbnail(of: Sampled) -> str:
    return f"{images.picture(of.image, of.prompt)}<br/>" if of.image else ""


def sparkline(losses: Curve, evals: Curve) -> str:
    """Draw the loss curve as a line and the eval losses as rings, without axes.

    Parameters
    ----------
    losses, evals : Curve
        Train and eval loss; both share one scale.

    Returns
    -------
    str
        An SVG element, or an empty string while there is no line to draw.
    """
    if len(losses) < 2:
        return ""
    line, tests = losses.points(), evals.points()
    steps, values = zip(*line, *tests, strict=True)
    left, right, low, high = min(steps), max(steps), min(values), max(values)
    wide, tall = SPARK
    across, down = (wide - 8) / (right - left or 1), (tall - 8) / (high - low or 1)

    def place(step: int, value: float) -> tuple[float, float]:
        return 4 + (step - left) * across, 4 + (high - value) * down

    path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line)
    rings = "".join('<circle cx="{:.1f}" cy="{:.1f}" r="2.5"/>'.format(*place(*test)) for test in tests)
    first, last = line[0][1], line[-1][1]
    return (
        f'<svg role="img" aria-label="loss curve, {wording.loss(first)} to {wording.loss(last)}" '
        f'width="{wide}" height="{tall}" viewBox="0 0 {wide} {tall}" fill="none" '
        f'style="display:block;max-width:100%"><polyline points="{path}" '
        'stroke="var(--jp-brand-color1,#1976d2)" stroke-width="1.5" stroke-linejoin="round"/>'
        f'<g stroke="currentColor">{rings}</g></svg>'
    )
