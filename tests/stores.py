"""Runs in a store as training leaves them, made in a millisecond."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from peft_nb.events import StatusChanged
from peft_nb.store import Facts, Store


def finish(store: Store, name: str | None = None, spec_yaml: str = "r: 16\n", **known: Any) -> str:
    """End a run that has an adapter, with facts and metrics by their names, and give its id."""
    id = store.create(spec_yaml, method="lora", model="smollm2-135m", name=name)
    (store.folder_of(id) / "adapter" / "deep").mkdir(parents=True)
    for path in ("adapter_model.safetensors", "deep/adapter_config.json"):
        (store.folder_of(id) / "adapter" / path).write_text("weights")
    facts = {one.name: known.pop(one.name) for one in fields(Facts) if one.name in known}
    if facts:
        store.set_facts(id, Facts(**facts))
    if known:
        store.set_metrics(id, known)
    store.record(id, StatusChanged("finished"))
    return id
