"""A sweep as text and as a page without scripts: its state, its charts and its trials, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from peft_nb.metrics import METRICS
from peft_nb.runs.sweeps import results
from peft_nb.spec.sweep import Range, SweepSpec
from peft_nb.store import SweepRecord, Trial
from peft_nb.ui import wording
from peft_nb.ui.style import BOX, MUTED, NUMBERS

WIDE, TALL = 360, 200  # of a chart, in its own units
LEFT, BELOW = 64, 34  # of which for the labels of its axes
SHORT = 20  # letters of a cell that stays on one line
DECADE = 20  # from how many times the lowest value on an axis is logarithmic
DONE = "#0072B2"  # Okabe and Ito's blue; what is said by colour is said by form and in words too
BEST = "#D55E00"
SVG = "display:block;width:100%;max-width:480px;height:auto;font-size:10px"


@dataclass(frozen=True)
class Point:
    """A trial in a chart: where it is, what it is (``finished``, ``pruned``, ``best``, …), and what it is called."""

    x: float
    y: float
    kind: str
    name: str


def title(name: str) -> str:
    """Say what a number of a trial is."""
    return {"seconds": "seconds of work", "": "seconds of work"}.get(name) or (
        METRICS[name].title if name in METRICS and METRICS[name].title else name
    )


def numbers(spec: SweepSpec, record: SweepRecord) -> list[str]:
    """Name the numbers that trials can be drawn by: varied fields, metrics, the time."""
    known = [*spec.space, *results.metrics(spec, record.trials), "seconds"]
    return [name for name in known if any(results.number(one, name) is not None for one in record.trials)]


def logarithmic(spec: SweepSpec, name: str) -> bool:
    """Whether a number is drawn on a logarithmic scale."""
    dimension = spec.space.get(name)
    if isinstance(dimension, Range):
        return dimension.log
    values = [one for one in dimension.values if isinstance(one, int | float)] if dimension else []
    return bool(values) and min(values) > 0 and max(values) / min(values) >= DECADE


def points(record: SweepRecord, x: str, y: str) -> list[Point]:
    """Place the trials that have both numbers; without `x`, after how many seconds of all work each ended."""
    best = _best(record, y)
    found, worked = [], 0.0
    for trial in record.trials:
        worked += trial.seconds
        at = results.number(trial, x) if x else worked
        reached = results.number(trial, y)
        if at is not None and reached is not None and math.isfinite(reached):
            kind = "best" if trial is best else trial.state
            found.append(Point(at, reached, kind, f"trial {trial.number}, {said(trial.values)}"))
    return found


def said(values: Mapping[str, Any]) -> str:
    """Say what a trial varied, in a line."""
    return ", ".join(f"{name} {value(one)}" for name, one in values.items())


def value(given: Any) -> str:
    """Say one value."""
    if isinstance(given, float):
        return f"{given:.3g}"
    if isinstance(given, list):
        return ", ".join(map(str, given))
    if isinstance(given, Mapping):
        return ", ".join(f"{name}: {one}" for name, one in given.items())
    return "default" if given is None else str(given)


def headline(spec: SweepSpec, record: SweepRecord) -> str:
    """Say in a line how a sweep stands."""
    counted = [(state, sum(one.state == state for one in record.trials)) for state in ("running", "pruned", "failed")]
    done = len(record.trials) - counted[0][1]
    of = f" of {int(spec.most):,}" if math.isfinite(spec.most) and record.status == "running" else ""
    others = [f"{n} {'stopped early' if state == 'pruned' else state}" for state, n in counted if n]
    parts = [
        f"{record.name or record.id}: {record.status}",
        f"{done}{of} {'trial' if done == 1 else 'trials'}",
        *others,
    ]
    return ", ".join(parts) + (f" ({record.reason})" if record.reason else "")


def ahead(forecast: Mapping[str, Any]) -> str:
    """Say what the whole was expected to take, as it was told before the first trial; empty before that."""
    if not forecast:
        return ""
    trials, seconds, peak = forecast["trials"], forecast["seconds"], forecast["memory_mb"]
    parts = [f"{trials:,} trials" if trials else "as many trials as the time allows"]
    parts.append(f"at most about {wording.duration(seconds)}" if seconds else "time not estimated")
    if peak:
        room = forecast["room_mb"]
        fits = "fits" if peak <= room else "may not fit"
        parts.append(f"{wording.memory(peak)} of memory ({wording.memory(room)} available): {fits}")
    return "Estimate: " + "; ".join([", ".join(parts), *forecast["untold"]])


def winner(spec: SweepSpec, record: SweepRecord) -> str:
    """Say which trial is the best so far; empty while none is."""
    by = spec.minimize[0]
    if (best := _best(record, by)) is None:
        return ""
    told = ", ".join(_measured(best, name) for name in results.metrics(spec, record.trials) if _measured(best, name))
    return f"Best by {title(by)}: trial {best.number} ({said(best.values)}), {told}; run {best.run}"


def news(spec: SweepSpec, record: SweepRecord) -> Iterator[str]:
    """Say in a line each what has been told and which trials have ended, for a terminal."""
    yield from filter(None, [*record.notes, ahead(record.forecast)])
    for trial in record.trials:
        if trial.state != "running":
            told = [_measured(trial, spec.minimize[0]), trial.reason]
            yield f"trial {trial.number} {trial.state} ({said(trial.values)}) {'; '.join(filter(None, told))}".rstrip()


def text(spec: SweepSpec, record: SweepRecord, progress: Mapping[int, tuple[int, int]]) -> str:
    """Say a sweep in plain text."""
    rows = [_cells(spec, record, trial, progress) for trial in record.trials]
    head = _head(spec, record)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)) for row in [head, *rows]]
    told = [headline(spec, record), ahead(record.forecast), *record.notes, winner(spec, record)]
    return "\n".join([*filter(None, told), *(line.rstrip() for line in (lines if rows else []))])


def html(
    spec: SweepSpec, record: SweepRecord, progress: Mapping[int, tuple[int, int]], shares: Mapping[str, float]
) -> str:
    """Draw a sweep: its state, its charts, its trials.

    Parameters
    ----------
    spec : SweepSpec
        What is searched.
    record : SweepRecord
        How it stands; its words may come from anywhere and are escaped.
    progress : mapping
        Of trials at work, the step and the number of steps.
    shares : mapping
        How much each varied field explains.

    Returns
    -------
    str
        An HTML fragment.
    """
    x, y = axes(spec, record)
    charts = (over_time(spec, record), scatter(spec, record, x, y), pareto(spec, record), bars(shares))
    drawn = "".join(f"<figure style='margin:8px 0'>{one}</figure>" for one in charts if one)
    grid = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:4px 24px"
    shown = f'{state(spec, record)}<div style="{grid}">{drawn}</div>{table(spec, record, progress)}'
    return f'<div style="{BOX}">{shown}</div>'


def state(spec: SweepSpec, record: SweepRecord) -> str:
    """Draw what is known beside the trials."""
    lines = [f"<strong>{escape(headline(spec, record))}</strong>"]
    lines += [f'<div style="{MUTED}">{escape(one)}</div>' for one in (ahead(record.forecast), *record.notes) if one]
    if best := winner(spec, record):
        lines.append(f"<div>{escape(best)}</div>")
    return "".join(lines)


def axes(spec: SweepSpec, record: SweepRecord) -> tuple[str, str]:
    """Choose what the scatter shows at first: the learning rate or another varied number, and what is minimized."""
    varied = [name for name in numbers(spec, record) if name in spec.space]
    return "learning_rate" if "learning_rate" in varied else [*varied, "seconds"][0], spec.minimize[0]


def over_time(spec: SweepSpec, record: SweepRecord) -> str:
    """Draw what the trials reached over the time, and the best so far."""
    y = spec.minimize[0]
    ended, steps = points(record, "", y), results.so_far(record, y)
    steps += [(max(one.x for one in ended), steps[-1][1])] if steps else []  # it holds until now
    return chart(ended, title(""), title(y), steps=steps)


def scatter(spec: SweepSpec, record: SweepRecord, x: str, y: str) -> str:
    """Draw two numbers of the trials against each other."""
    return chart(points(record, x, y), title(x), title(y), log=logarithmic(spec, x))


def pareto(spec: SweepSpec, record: SweepRecord) -> str:
    """Draw the first two metrics against each other, with the line of those that none beats; empty for one alone."""
    if len(spec.minimize) < 2:
        return ""
    y, x = spec.minimize[:2]
    front = results.front(record, [x, y])
    line = [(float(one.metrics[x]), float(one.metrics[y])) for one in front]
    return chart(points(record, x, y), title(x), f"{title(y)} (line: Pareto front)", steps=line)


def chart(
    drawn: Sequence[Point], x_title: str, y_title: str, *, steps: Sequence[tuple[float, float]] = (), log: bool = False
) -> str:
    """Draw points, and a line of steps, as an SVG element; an empty string while there is no point."""
    if not drawn:
        return ""
    scale = math.log10 if log else float
    xs, ys = [scale(one.x) for one in drawn], [one.y for one in drawn]
    (left, right), (low, high) = _span(xs), _span(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        wide, tall = WIDE - LEFT - 12, TALL - BELOW - 10
        return LEFT + (scale(x) - left) / (right - left) * wide, 10 + (high - y) / (high - low) * tall

    ink = 'stroke="currentColor" fill="none"'
    frame = f'<path d="M{LEFT} 6V{TALL - BELOW}H{WIDE - 6}" {ink} stroke-opacity=".6"/>'
    labels = [
        _label(LEFT - 4, place(drawn[0].x, max(ys))[1] + 3, _number(max(ys)), "end"),
        _label(LEFT - 4, place(drawn[0].x, min(ys))[1] + 3, _number(min(ys)), "end") if min(ys) < max(ys) else "",
        _label(place(min(one.x for one in drawn), low)[0], TALL - BELOW + 12, _number(min(one.x for one in drawn))),
        _label(place(max(one.x for one in drawn), low)[0], TALL - BELOW + 12, _number(max(one.x for one in drawn))),
        _label((LEFT + WIDE) / 2, TALL - 6, x_title + (" (log)" if log else "")),
        f'<text transform="translate(12 {(TALL - BELOW) / 2}) rotate(-90)" text-anchor="middle" '
        f'fill="currentColor">{escape(y_title)}</text>',
    ]
    path = "".join(
        f"M{x:.1f} {y:.1f}" if not n else f"H{x:.1f}V{y:.1f}" for n, (x, y) in enumerate(place(*one) for one in steps)
    )
    line = f'<path d="{path}" {ink} stroke-width="1.5"/>' if len(steps) > 1 else ""
    marks = "".join(_mark(one, *place(one.x, one.y)) for one in drawn)
    kinds = ", ".join(dict.fromkeys(one.kind for one in drawn))
    reach = f"{_number(min(ys))} to {_number(max(ys))}"
    told = f"{y_title} by {x_title} of {wording.count(len(drawn), 'trial')} ({kinds}), {reach}"
    return (
        f'<svg role="img" aria-label="{escape(told)}" viewBox="0 0 {WIDE} {TALL}" style="{SVG}">'
        f"{frame}{''.join(labels)}{line}{marks}</svg>"
    )


def bars(shares: Mapping[str, float]) -> str:
    """Draw how much each varied field explains; an empty string while that is not known."""
    if not shares:
        return ""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:normal;padding-right:8px">{escape(name)}</th>'
        f'<td style="width:70%;text-align:left"><span aria-hidden="true" style="display:inline-block;height:.7em;'
        f'width:{70 * share:.0f}%;background:{DONE}"></span> {100 * share:.0f} %</td></tr>'
        for name, share in sorted(shares.items(), key=lambda one: -one[1])
    )
    caption = '<caption style="text-align:left;color:inherit;caption-side:top">Importance of the fields</caption>'
    style = "width:100%;color:inherit;font-size:inherit"
    return f'<table style="{style}">{caption}{rows}</table>'


def table(spec: SweepSpec, record: SweepRecord, progress: Mapping[int, tuple[int, int]]) -> str:
    """Draw the trials as a table that scrolls where it is too wide; those stopped early or failed are pale."""
    if not record.trials:
        return ""
    cell = "padding:2px 8px;text-align:left;vertical-align:top"
    head = "".join(f'<th scope="col" style="{cell}">{escape(name)}</th>' for name in _head(spec, record))
    best, rows = _best(record, spec.minimize[0]), ""
    for trial in record.trials:
        first, *others = _cells(spec, record, trial, progress)
        style = "opacity:.6" if trial.state in ("pruned", "failed", "stopped") else ""
        style = "font-weight:bold" if trial is best else style
        cells = "".join(f'<td style="{cell}{_wrap(one)}">{escape(one)}</td>' for one in others)
        rows += f'<tr style="{style}"><th scope="row" style="{cell};font-weight:inherit">{first}</th>{cells}</tr>'
    return (
        '<div tabindex="0" role="region" aria-label="trials" style="overflow-x:auto;max-width:100%">'
        f'<table style="border-collapse:collapse;overflow-wrap:normal;color:inherit;font-size:inherit;{NUMBERS}">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _best(record: SweepRecord, by: str) -> Trial | None:
    metric = METRICS.get(by)
    known = [one for one in results.finished(record) if one.metrics.get(by) is not None]
    return metric.best(known, key=lambda one: one.metrics[by]) if metric and metric.better and known else None


def _head(spec: SweepSpec, record: SweepRecord) -> list[str]:
    return ["trial", *spec.space, "state", *map(title, results.metrics(spec, record.trials)), "time", "run", "why"]


def _cells(spec: SweepSpec, record: SweepRecord, trial: Trial, progress: Mapping[int, tuple[int, int]]) -> list[str]:
    """What stands in the row of a trial."""
    at = progress.get(trial.number)
    stage = f"step {at[0]:,} of {at[1]:,}" if at and trial.state == "running" else trial.state
    varied = [value(trial.values[name]) if name in trial.values else "" for name in spec.space]
    measured = []
    for name in results.metrics(spec, record.trials):
        number = results.number(trial, name)
        measured.append("" if number is None else wording.measured(number, METRICS[name].unit))
    seconds = wording.duration(trial.seconds) if trial.seconds else ""
    return [str(trial.number), *varied, stage, *measured, seconds, trial.run or "", trial.reason]


def _wrap(said: str) -> str:
    """How a cell is broken into lines: a short one is not, a reason not into words."""
    return ";white-space:nowrap" if len(said) <= SHORT else ";min-width:18em"


def _measured(trial: Trial, name: str) -> str:
    number = results.number(trial, name)
    return "" if number is None else f"{title(name)} {wording.measured(number, METRICS[name].unit)}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From where to where an axis goes, with some air."""
    low, high = min(values), max(values)
    air = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - air, high + air


def _number(given: float) -> str:
    return f"{given:,.0f}" if abs(given) >= 1000 else f"{given:.3g}"


def _label(x: float, y: float, told: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{escape(told)}</text>'


def _mark(one: Point, x: float, y: float) -> str:
    """A disc for a finished trial, a large one for the best, a ring for all others."""
    fill = {"best": BEST, "finished": DONE}.get(one.kind, "none")
    pale = "" if one.kind in ("best", "finished") else ' stroke="currentColor" stroke-opacity=".6"'
    told = f"<title>{escape(f'{one.name}: {one.kind}, {_number(one.y)}')}</title>"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if one.kind == "best" else 3.5}" fill="{fill}"{pale}>{told}</circle>'
    )
