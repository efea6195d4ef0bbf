"""Experiment trackers that hear of a run, by transformers' own callbacks; none unless the spec names it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peft_nb.adapters.card import cleaned, without_secrets
from peft_nb.events import ACTIVE, Evaluated, Event, Notice, Planned, Scored, StatusChanged, StepLogged
from peft_nb.models.quiet import first_line
from peft_nb.spec import RunSpec
from peft_nb.spec.paths import named

CALLBACKS = {
    "trackio": "TrackioCallback",
    "wandb": "WandbCallback",
    "mlflow": "MLflowCallback",
    "tensorboard": "TensorBoardCallback",
}
"""By the name of a tracker, which is that of its package: transformers' callback."""


def problems(report_to: list[str]) -> list[str]:
    """Say which packages are missing, a line each; imports none of them."""
    missing = [name for name in report_to if not find_spec(name)]
    return [f"report_to: {name} needs the package {name}; %pip install {name}" for name in missing]


@dataclass
class Told:
    """What a callback is told of a run in place of Trainer's arguments: its settings as on its card.

    Attributes
    ----------
    settings : dict
        The spec's changed fields, without folders of this machine and without secrets.
    run_name, output_dir : str
        What the run is called, and its folder, where files of a tracker may go.
    """

    settings: dict[str, Any]
    run_name: str
    output_dir: str
    project: str = "peft_nb"
    # Nothing is published on a hub; of adapters and models nothing is sent.
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: bool = False
    hub_private_repo: bool | None = None
    load_best_model_at_end: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The settings."""
        return dict(self.settings)

    def to_json_string(self) -> str:
        """The settings, as JSON."""
        return json.dumps(self.settings, indent=2)


class Reporter:
    """A listener that tells one tracker of the steps and evaluations of a run.

    Parameters
    ----------
    name : str
        The tracker, one of :data:`CALLBACKS`.
    spec : RunSpec
        The run's.
    id : str
        The run.
    folder : Path
        Its folder.
    publish : callable
        Takes the one warning that it has failed; training goes on without it.
    """

    def __init__(self, name: str, spec: RunSpec, id: str, folder: Path, publish: Callable[[Event], None]) -> None:
        self.name, self.publish, self.folder = name, publish, folder
        self.told = Told(cleaned(named(spec.changed())), spec.name or id, str(folder))
        self.callback: Any = None
        self.failed = False

    def __call__(self, event: Event) -> None:
        """Tell the tracker what concerns it."""
        if self.failed:
            return
        try:
            self._tell(event)
        except Exception as error:
            self.failed = True
            why = without_secrets(f"{type(error).__name__}: {first_line(error)}")
            self.publish(Notice(f"reporting to {self.name} failed ({why}); training goes on without it", "warning"))

    def _tell(self, event: Event) -> None:
        match event:
            case Planned():
                self._begin(event)
            case StatusChanged(status) if self.callback and status not in ACTIVE:
                callback, self.callback = self.callback, None
                callback.on_train_end(*self._now)
            case StepLogged() if self.callback:
                self.state.epoch = event.epoch
                names = ("loss", "grad_norm", "learning_rate")
                self._log(event.step, {name: getattr(event, name) for name in names})
            case Evaluated() if self.callback:
                self._log(event.step, {"eval_loss": event.eval_loss, "eval_token_accuracy": event.token_accuracy})
            case Scored() if self.callback:
                self._log(event.step, {f"eval_{name}": value for name, value in event.metrics.items()})

    def _begin(self, plan: Planned) -> None:
        from transformers import TrainerControl, TrainerState, integrations

        self.state, self.control = TrainerState(max_steps=plan.total_steps, epoch=0.0), TrainerControl()
        self.callback = getattr(integrations, CALLBACKS[self.name])()
        if self.name == "tensorboard" and self.callback.logging_dir is None:
            self.callback.logging_dir = str(self.folder / "tensorboard")
        self.callback.on_train_begin(*self._now)

    @property
    def _now(self) -> tuple[Any, ...]:
        return self.told, self.state, self.control

    def _log(self, step: int, values: dict[str, float | None]) -> None:
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        self.state.global_step = step
        self.callback.on_log(*self._now, logs={**known, "epoch": self.state.epoch})
