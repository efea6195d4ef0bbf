"""Write an adapter as a plain PEFT folder: safetensors, config, README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel

from peft_nb.files import atomic_folder
from peft_nb.spec import RunSpec

WEIGHTS = "adapter_model.safetensors"


def save(model: PeftModel, folder: Path, spec: RunSpec, metrics: dict[str, Any], *, overwrite: bool = False) -> Path:
    """Write an adapter so that its folder appears whole or not at all.

    Parameters
    ----------
    model : PeftModel
        The model whose active adapter is written.
    folder : Path
        Where the folder shall appear.
    spec : RunSpec
        The run's settings, written beside the weights as ``spec.yaml`` and told in the README.
    metrics : dict
        What the run measured, for the README.
    overwrite : bool
        Whether a folder of the program's own is replaced.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    StoreError
        If the disk refuses; nothing half-written stays.
    """
    with atomic_folder(folder, overwrite=overwrite) as staging:
        model.save_pretrained(str(staging), save_embedding_layers=False)
        base = model.peft_config[model.active_adapter].base_model_name_or_path
        (staging / "README.md").write_text(card(str(base), spec, metrics), encoding="utf-8")
        (staging / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    return Path(folder)


def card(base: str, spec: RunSpec, metrics: dict[str, Any]) -> str:
    """The README of an adapter, with the metadata that model hubs read.

    Parameters
    ----------
    base : str
        Name of the base model.
    spec : RunSpec
        The run's settings.
    metrics : dict
        What the run measured.

    Returns
    -------
    str
        Markdown.
    """
    measured = "\n".join(
        f"| {name.replace('_', ' ')} | {f'{value:,.4g}' if isinstance(value, float) else value} |"
        for name, value in metrics.items()
        if isinstance(value, int | float | str)
    )
    return f"""---
base_model: {json.dumps(base)}
library_name: peft
pipeline_tag: text-generation
tags: [peft, {spec.method}, peft_nb]
---

# {spec.name or f"{spec.method} adapter"}

A {spec.method} adapter for `{base}`, trained with peft_nb.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained({base!r})
```

## Spec

```yaml
{spec.to_yaml().rstrip()}
```

## Measured

| | |
| --- | --- |
{measured}
"""
