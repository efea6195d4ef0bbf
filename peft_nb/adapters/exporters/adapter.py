"""A run as its adapter: a plain PEFT folder."""

from __future__ import annotations

from peft_nb.adapters.exporters.base import Exporter

EXPORTER = Exporter("adapter", "a PEFT folder", "-adapter", lambda run, folder: run.save(folder))
