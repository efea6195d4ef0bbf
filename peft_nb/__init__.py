"""Parameter-efficient fine-tuning that lives in the notebook: ``%load_ext peft_nb``, then ``%%peft lora``."""

from __future__ import annotations

from peft_nb import methods as _methods
from peft_nb import tasks as _tasks
from peft_nb.adapters import exporters as _exporters
from peft_nb.data import layouts as _layouts
from peft_nb.system import plugins as _plugins

# Before what follows, whose flags, forms and completion name all that is registered.
for _group, _kind, _register in (
    ("peft_nb.layouts", _layouts.LayoutType, _layouts.register),
    ("peft_nb.tasks", _tasks.Task, _tasks.register),
    ("peft_nb.methods", _methods.Method, _methods.register),
    ("peft_nb.exporters", _exporters.Exporter, _exporters.register),
):
    for _, _added in _plugins.load(_group, _kind):
        _register(_added)

# ruff: noqa: E402
from peft_nb.magics import load_ipython_extension, unload_ipython_extension
from peft_nb.methods import methods
from peft_nb.models import models
from peft_nb.runs.combine import combine
from peft_nb.runs.run import Run, load, runs
from peft_nb.serving.switchboard import Switchboard
from peft_nb.spec import RunSpec
from peft_nb.spec.recipes import recipes
from peft_nb.ui.chat import Chat, chat
from peft_nb.ui.check import check
from peft_nb.ui.compare import Comparison, compare
from peft_nb.ui.train import train

__all__ = [
    "Chat",
    "Comparison",
    "Run",
    "RunSpec",
    "Switchboard",
    "chat",
    "check",
    "combine",
    "compare",
    "load",
    "load_ipython_extension",
    "methods",
    "models",
    "recipes",
    "runs",
    "train",
    "unload_ipython_extension",
]
