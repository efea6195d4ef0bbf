"""Runs in a store as training leaves them, made in a millisecond."""

from __future__ import annotations

from typing import Any

from peft_nb.events import StatusChanged
from peft_nb.store import Facts, Store


def finish(
    store: Store, name: str | None = None, spec_yaml: str = "r: 16\n", facts: Facts | None = None, **metrics: Any
) -> str:
    """End a run that has an adapter, and give its id."""
    id = store.create(spec_yaml, method="lora", model="smollm2-135m", name=name)
    (store.folder_of(id) / "adapter" / "deep").mkdir(parents=True)
    for path in ("adapter_model.safetensors", "deep/adapter_config.json"):
        (store.folder_of(id) / "adapter" / path).write_text("weights")
    if facts:
        store.set_facts(id, facts)
    if metrics:
        store.set_metrics(id, metrics)
    store.record(id, StatusChanged("finished"))
    return id
