"""Parameter-efficient fine-tuning that lives in the notebook: ``%load_ext peft_nb``, then ``%%peft lora``."""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from peft_nb import methods as _methods
from peft_nb import tasks as _tasks
from peft_nb.data import layouts as _layouts
from peft_nb.system import plugins as _plugins

# Before what follows, whose flags, forms and completion name all that is registered.
for _group, _kind, _register in (
    ("peft_nb.layouts", _layouts.LayoutType, _layouts.register),
    ("peft_nb.tasks", _tasks.Task, _tasks.register),
    ("peft_nb.methods", _methods.Method, _methods.register),
):
    for _, _added in _plugins.load(_group, _kind):
        _register(_added)

if _TYPE_CHECKING:
    from peft_nb.extension import load_ipython_extension, unload_ipython_extension
    from peft_nb.methods import methods
    from peft_nb.models import models
    from peft_nb.runs.combine import combine
    from peft_nb.runs.explain import Explanation
    from peft_nb.runs.probe import Probe
    from peft_nb.runs.run import Run, load, runs
    from peft_nb.serving.switchboard import Switchboard
    from peft_nb.spec import RunSpec
    from peft_nb.spec.recipes import recipes
    from peft_nb.ui.chat import Chat, chat
    from peft_nb.ui.check import check
    from peft_nb.ui.compare import Comparison, compare
    from peft_nb.ui.discover import discover
    from peft_nb.ui.explain import explain
    from peft_nb.ui.feedback import feedback
    from peft_nb.ui.index import Index, index
    from peft_nb.ui.label import Labels, label
    from peft_nb.ui.probe import probe
    from peft_nb.ui.router import Router, route
    from peft_nb.ui.sweep import Sweep, sweep
    from peft_nb.ui.synthesize import synthesize
    from peft_nb.ui.train import train
    from peft_nb.ui.votes import votes
    from peft_nb.ui.watch import Drift, watch

__all__ = [
    "Chat",
    "Comparison",
    "Drift",
    "Explanation",
    "Index",
    "Labels",
    "Probe",
    "Router",
    "Run",
    "RunSpec",
    "Sweep",
    "Switchboard",
    "chat",
    "check",
    "combine",
    "compare",
    "discover",
    "explain",
    "feedback",
    "index",
    "label",
    "load",
    "load_ipython_extension",
    "methods",
    "models",
    "probe",
    "recipes",
    "route",
    "runs",
    "sweep",
    "synthesize",
    "train",
    "unload_ipython_extension",
    "votes",
    "watch",
]

_MODULES = {
    "Chat": "ui.chat",
    "Comparison": "ui.compare",
    "Drift": "ui.watch",
    "Explanation": "runs.explain",
    "Index": "ui.index",
    "Labels": "ui.label",
    "Probe": "runs.probe",
    "Router": "ui.router",
    "Run": "runs.run",
    "RunSpec": "spec",
    "Sweep": "ui.sweep",
    "Switchboard": "serving.switchboard",
    "chat": "ui.chat",
    "check": "ui.check",
    "combine": "runs.combine",
    "compare": "ui.compare",
    "discover": "ui.discover",
    "explain": "ui.explain",
    "feedback": "ui.feedback",
    "index": "ui.index",
    "label": "ui.label",
    "load": "runs.run",
    "load_ipython_extension": "extension",
    "methods": "methods",
    "models": "models",
    "probe": "ui.probe",
    "recipes": "spec.recipes",
    "route": "ui.router",
    "runs": "runs.run",
    "sweep": "ui.sweep",
    "synthesize": "ui.synthesize",
    "train": "ui.train",
    "unload_ipython_extension": "extension",
    "votes": "ui.votes",
    "watch": "ui.watch",
}

# Rooms that are called like a function: what is imported later no longer hides it.
for _name in ("methods", "models", "runs"):
    _import_module(f"peft_nb.{_name}")
    globals().pop(_name)


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module 'peft_nb' has no attribute {name!r}")
    found: object = getattr(_import_module(f"peft_nb.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
