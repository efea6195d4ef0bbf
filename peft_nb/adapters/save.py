"""Write an adapter as a plain PEFT folder: safetensors, config, README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel

from peft_nb.files import atomic_folder
from peft_nb.methods import REGISTRY
from peft_nb.spec import RunSpec

WEIGHTS = "adapter_model.safetensors"

USAGE = {
    "generation": """
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained(BASE)
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained(BASE)
""",
    "head": """
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

folder, texts = "path/to/this/folder", ["a text", "another, somewhat longer one"]
config = AutoConfig.from_pretrained(folder)  # with the names of the classes
base = AutoModelForSequenceClassification.from_pretrained(BASE, config=config)
model = PeftModel.from_pretrained(base, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(BASE)
tokenizer.pad_token_id = config.pad_token_id
tokens = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
logits = model(**tokens).logits
print(LABELS)
""",
    # The head is no class of transformers, so its two parts are put together here.
    "mean": """
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoTokenizer

folder, texts = "path/to/this/folder", ["a text", "another, somewhat longer one"]
config = AutoConfig.from_pretrained(folder)  # with the names of the classes
encoder = AutoModel.from_pretrained(BASE)
encoder.pooler = None  # not used: the hidden states of a text are averaged
classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
parts = torch.nn.ModuleDict({"encoder": encoder, "classifier": classifier})
parts = PeftModel.from_pretrained(parts, folder).eval().get_base_model()
tokenizer = AutoTokenizer.from_pretrained(BASE)
tokens = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
hidden, seen = parts["encoder"](**tokens).last_hidden_state, tokens["attention_mask"][..., None]
logits = parts["classifier"]((hidden * seen).sum(1) / seen.sum(1))
print(LABELS)
""",
}


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
        if spec.task == "classification":  # the names of the classes have no place in PEFT's own file
            model.get_base_model().config.save_pretrained(str(staging))
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
    return f"""---
base_model: {json.dumps(base)}
library_name: peft
pipeline_tag: text-{spec.task}
tags: [peft, {spec.method}, peft_nb]
---

# {spec.name or f"{spec.method} adapter"}

A {spec.method} adapter for `{base}`, trained with peft_nb.

```python
{usage(base, spec, metrics)}
```

## Spec

```yaml
{spec.to_yaml().rstrip()}
```

## Measured

{table(metrics)}
"""


def table(metrics: dict[str, Any]) -> str:
    """Write what a run measured as a Markdown table; nested values are left out."""
    rows = [
        f"| {name.replace('_', ' ')} | {f'{value:,.4g}' if isinstance(value, float) else value} |"
        for name, value in metrics.items()
        if isinstance(value, int | float | str)
    ]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def usage(base: str, spec: RunSpec, metrics: dict[str, Any]) -> str:
    """The lines that use an adapter without peft_nb, or with no more of it than its tuner; parameters as in `card`."""
    tuner, _, _ = REGISTRY[spec.method].config_class().__module__.rpartition(".")
    ours = f"import {tuner}.model  # makes PEFT know this kind of adapter\n" if tuner.startswith("peft_nb.") else ""
    return ours + _usage(base, spec, metrics).strip()


def _usage(base: str, spec: RunSpec, metrics: dict[str, Any]) -> str:
    if spec.task == "generation":
        return USAGE["generation"].replace("BASE", repr(base))
    labels = "[config.id2label[best] for best in logits.argmax(-1).tolist()]"
    if metrics["multi_label"]:
        labels = "[[config.id2label[n] for n, on in enumerate(row) if on] for row in logits.sigmoid() >= 0.5]"
    lines = USAGE["mean" if metrics["pooling"] == "mean" else "head"]
    return lines.replace("LENGTH", str(metrics["max_tokens"])).replace("LABELS", labels).replace("BASE", repr(base))
