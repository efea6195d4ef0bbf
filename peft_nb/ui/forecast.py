"""An estimate as a notebook shows it: where the memory goes, how long it takes, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from peft_nb.data import sources
from peft_nb.data import table as tables
from peft_nb.errors import ForecastError
from peft_nb.events import Progress
from peft_nb.models.quiet import quiet
from peft_nb.models.resolve import resolve
from peft_nb.planning.estimate import estimate, foresee
from peft_nb.planning.forecast import Forecast
from peft_nb.runs import init_adapter
from peft_nb.spec import RunSpec
from peft_nb.tasks import inspect, proposed
from peft_nb.ui import wording
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.style import BOX

BUSY = 1.15  # times as long as the fastest try


@dataclass(frozen=True, repr=False)
class Shown:
    """An estimate that shows itself as text in a terminal and as a table in a notebook."""

    forecast: Forecast

    def __repr__(self) -> str:
        return text(self.forecast)

    def _repr_html_(self) -> str:
        return html(self.forecast)


def made(spec: RunSpec, namespace: Mapping[str, Any]) -> Shown:
    """Estimate a run; parameters and errors as for :func:`peft_nb.planning.estimate.estimate`."""
    with progress_bar("reading the rows") as progress:
        return Shown(estimate(init_adapter.taken_over(spec, namespace), namespace=namespace, progress=progress))


def ahead(spec: RunSpec, namespace: Mapping[str, Any], progress: Progress) -> Forecast:
    """Estimate a run as :func:`peft_nb.planning.estimate.estimate` does, and download nothing for it.

    Raises
    ------
    PeftNbError
        As there, and a ForecastError where the model or the rows would have to be downloaded.
    """
    for name in filter(None, (spec.data, spec.eval_data)):
        if not sources.at_hand(name, namespace):
            raise ForecastError(f"{name} is not on this machine; %peft estimate {name} downloads it")
    spec = init_adapter.taken_over(spec, namespace)
    source = resolve(spec.model, spec.revision, namespace)
    if source.pair is None and source.path is None:
        raise ForecastError(f"{spec.model} is not on this machine; the run downloads it, and so does %peft estimate")
    table = tables.read(spec, namespace=namespace)
    spec = proposed(spec, table.layout)
    with quiet():
        return foresee(spec, source, table, inspect(spec, table), progress=progress)


def line(forecast: Forecast) -> str:
    """Say in one sentence what a run will take and whether that can be had."""
    f = forecast
    work = f"Trains on {wording.count(f.examples, 'row')} in {wording.count(f.steps, 'step')}"
    took = f"{work}, {training_time(f)}, with {wording.memory(f.memory_mb)} of memory"
    return f"{took} ({wording.memory(f.room_mb)} available): {fits(f)}"


def fits(forecast: Forecast) -> str:
    """Say whether there is enough memory."""
    return "does not fit" if not forecast.fits else "may not fit" if forecast.tight else "fits"


def training_time(forecast: Forecast) -> str:
    """Say how long training takes, up to what it takes on a machine that stays as busy as it is."""
    f = forecast
    if f.seconds is None:
        return f"time not estimated ({f.untimed})"
    if f.longest_answers:
        return f"at most {wording.duration(f.slowdown * f.seconds)}"
    if f.slowdown < BUSY:
        return f"about {wording.duration(f.seconds)}"
    return f"{wording.duration(f.seconds)} to {wording.duration(f.slowdown * f.seconds)} (the machine is busy)"


def parts(forecast: Forecast) -> dict[str, float]:
    """What the peak is made of, in MB."""
    f = forecast
    return {
        "weights": f.weights_mb,
        "adapter": f.adapter_mb,
        "optimizer": f.optimizer_mb,
        "activations": f.activations_mb,
        "loss": f.loss_mb,
        "Python, libraries and data" if f.device == "cpu" else "else on the GPU": f.process_mb,
    }


def rows(forecast: Forecast) -> list[tuple[str, str]]:
    """List what a person wants to know of a run to come, as label and value; parts of the memory have no label."""
    say, f = wording.memory, forecast
    found = [("memory", f"{say(f.memory_mb)} at the peak, of {say(f.room_mb)} available")]
    found += [("", f"{say(part)} {name}") for name, part in parts(f).items()]
    found += [("training time", training_time(f))]
    if f.evaluation_seconds:
        found += [("evaluations", wording.duration(f.evaluation_seconds))]
    return [
        *found,
        ("training examples", f"{f.examples:,}"),
        ("steps and tokens", f"{wording.count(f.steps, 'step')}, {wording.count(f.tokens, 'token')}"),
        ("precision and device", f"{f.dtype}, {f.device}"),
        ("batching", f.path),
        ("trainable parameters", f"{f.trainable_parameters:,}"),
        ("memory check", fits(f)),
        *(("fits with", f"{change} ({say(mb)})") for change, mb in f.fixes),
    ]


def text(forecast: Forecast) -> str:
    """Say an estimate in plain text, one line a label and value."""
    return "\n".join(f"{label:<21} {value}" for label, value in rows(forecast))


def html(forecast: Forecast) -> str:
    """Draw an estimate as a table without scripts or style sheets, with a bar for each part of the memory."""
    bars = [part / forecast.memory_mb for part in parts(forecast).values()]
    body = ""
    for label, value in rows(forecast):
        head = f'<th scope="row" style="text-align:left">{escape(label)}</th>' if label else _bar(bars.pop(0))
        body += f'<tr>{head}<td style="text-align:left">{escape(value)}</td></tr>'
    return f'<div style="{BOX}"><table style="margin:0;color:inherit;font-size:inherit">{body}</table></div>'


def _bar(share: float) -> str:
    size = f"display:inline-block;height:0.6em;width:{8 * share:.2f}em;background:#0072b2"
    return f'<td style="text-align:left"><span aria-hidden="true" style="{size}"></span></td>'
