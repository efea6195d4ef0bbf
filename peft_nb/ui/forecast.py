"""A forecast as a notebook shows it: where the memory goes, how long it takes, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from peft_nb.methods.forecast import Forecast
from peft_nb.ui import wording
from peft_nb.ui.progress import BOX


@dataclass(frozen=True, repr=False)
class Shown:
    """A forecast that shows itself as text in a terminal and as a table in a notebook."""

    forecast: Forecast

    def __repr__(self) -> str:
        return text(self.forecast)

    def _repr_html_(self) -> str:
        return html(self.forecast)


def rows(forecast: Forecast) -> list[tuple[str, str]]:
    """List what a person wants to know of a run to come, as label and value."""
    say, f = wording.memory, forecast
    parts = {
        "weights": f.weights_mb,
        "adapter": f.adapter_mb,
        "optimizer": f.optimizer_mb,
        "activations": f.activations_mb,
        "loss": f.loss_mb,
        "process": f.process_mb,
    }
    found = [("memory", f"{say(f.memory_mb)} at the peak, of {say(f.room_mb)} that can be had")]
    found += [("", f"{say(part)} {name}") for name, part in parts.items()]
    if f.seconds is None:
        found += [("training time", "not forecast: too little memory is free to try a layer")]
    else:
        found += [("training time", wording.duration(f.seconds))]
    if f.evaluation_seconds:
        found += [("evaluations", wording.duration(f.evaluation_seconds))]
    found += [
        ("computed", f"{wording.count(f.steps, 'step')}, {wording.count(f.tokens, 'token')}; {f.dtype}, {f.path}"),
        ("trained", wording.count(f.trainable_parameters, "parameter")),
        ("fits", "no" if not f.fits else "perhaps not" if f.tight else "yes"),
    ]
    found += [("would fit" if not i else "", f"{change} ({say(mb)})") for i, (change, mb) in enumerate(f.mends)]
    return found


def text(forecast: Forecast) -> str:
    """Say a forecast in plain text, one line a label and value."""
    return "\n".join(f"{label:<14} {value}" for label, value in rows(forecast))


def html(forecast: Forecast) -> str:
    """Draw a forecast as a table that needs neither scripts nor style sheets."""
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(label)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for label, value in rows(forecast)
    )
    return f'<div style="{BOX}"><table style="margin:0;color:inherit;font-size:inherit">{body}</table></div>'
