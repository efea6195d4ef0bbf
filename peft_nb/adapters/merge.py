"""Fold an adapter into weights of their own, and prove on texts that the result does what the adapter does.

The live model is never merged. Candidates are built away from it, one at a time, evaluated, and the best is written.
"""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel

from peft_nb.adapters.card import escaped, measured, settings
from peft_nb.adapters.merge_weights import bases, cannot, merged_into
from peft_nb.adapters.read_back import read_back, table
from peft_nb.data.rendering import Renderer
from peft_nb.errors import MergeError, MethodError, ModelError, StoreError, nearest
from peft_nb.evaluation.agreement import Agreement
from peft_nb.events import Progress, silent
from peft_nb.methods import REGISTRY
from peft_nb.models.load import DTYPES
from peft_nb.models.quiet import quiet
from peft_nb.models.resolve import ModelSource
from peft_nb.spec import RunSpec
from peft_nb.spec.paths import local
from peft_nb.store import Facts
from peft_nb.system.files import LITTER, atomic_folder
from peft_nb.system.resources import MB
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    import pandas

BOUND = 0.005  # nats per token: far above the rounding of 16 bits, far below what another quantization does
SHARD = "4GB"
READ_BACK = "read back from disk"


@dataclass(frozen=True)
class Merged:
    """A merged model on disk, and how near it is to the live one.

    Attributes
    ----------
    folder : Path
        What plain transformers loads.
    chosen : str
        Which candidate it is: ``original weights``, or those weights after a round trip through the quantization in
        which the base was trained.
    table : pandas.DataFrame
        One row a candidate, and one for what was read back from disk: KL divergence from the run's model in nats per
        token, share of equal greedy tokens, difference of the losses in nats (of classifiers all per text). A model in
        16 bits rounds in every layer, so what is written in float32 is compared with the adapter in float32.
    judged_on : str
        Which texts these numbers come from.
    dtype : str
        dtype of the weights.
    mb : float
        Size on disk in MB.
    kl : float
        The KL divergence of what was read back from disk.
    """

    folder: Path
    chosen: str
    table: pandas.DataFrame
    judged_on: str
    dtype: str
    mb: float
    kl: float

    def __repr__(self) -> str:
        return f"{self._line}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self._line)}</p>{self.table.to_html(index=False)}"

    @property
    def _line(self) -> str:
        how = f"{self.chosen}, {self.dtype}, {self.mb:,.1f} MB"
        return f"merged into {self.folder}: {how}; evaluated on {self.judged_on}"


def refuse(spec: RunSpec, facts: Facts, folder: Path, dtype: str, max_kl: float) -> None:
    """Refuse what can be known before anything is loaded; parameters as of :func:`merge`."""
    if not REGISTRY[spec.method].mergeable:
        raise cannot(spec, "what it trains is no part of the base's weights")
    if why := TASKS[spec.task].unmergeable(facts.task):
        raise MethodError(f"{why}; save(path) writes the adapter with the lines that use it")
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)}; choose {', '.join(DTYPES)}")
    if not max_kl > 0:
        raise MergeError(f"max_kl: {max_kl} allows no merge at all; give nats per token, such as {BOUND}")
    if folder.is_dir() and (held := sorted({one.name for one in folder.iterdir()} - LITTER)):
        raise StoreError(f"cannot write {folder}: it holds {held[0]!r} already; choose another folder")


def merge(
    model: PeftModel,
    tokenizer: Any,
    folder: Path,
    source: ModelSource,
    spec: RunSpec,
    facts: Facts,
    metrics: dict[str, Any],
    examples: Sequence[Any],
    judged_on: str,
    dtype: str,
    max_kl: float = BOUND,
    progress: Progress = silent,
) -> Merged:
    """Write a model without adapters that does what an adapted one does, or nothing.

    Parameters
    ----------
    model : peft.PeftModel
        The live model, in evaluation mode; it stays as it is.
    tokenizer : transformers.PreTrainedTokenizerBase
        Written beside the weights.
    folder : Path
        Where to; it must not hold anything.
    source : ModelSource
        Where the base's original weights are.
    spec, facts, metrics
        The run's.
    examples : sequence of Answered or Example
        What to evaluate on.
    judged_on : str
        What these are called.
    dtype : {"float32", "bfloat16", "float16"}
        dtype of the weights to write.
    max_kl : float
        Largest mean KL divergence from the live model, in nats per token (of a classifier, per text); to write float32
        of a model in 16 bits, from the same adapter on the same base in float32.
    progress : callable
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    Merged
        What was written and measured. At no time is there more than one copy of the weights beside the live model, or
        two where that is in 16 bits and float32 is written.

    Raises
    ------
    MergeError
        Every candidate, or what was read back, is further from the live model; nothing is kept.
    MethodError
        What the method trains has no place in a plain model.
    StoreError
        The disk refuses; nothing half-written stays.
    """
    refuse(spec, facts, folder, dtype, max_kl)
    found: dict[str, Agreement] = {}
    with atomic_folder(folder) as staging, quiet():
        adapter = staging / "adapter"
        model.save_pretrained(str(adapter), save_embedding_layers=False)
        rounds = dtype == "float32" and facts.dtype in ("bfloat16", "float16")
        reference = read_back(model, adapter)[0] if rounds else model

        def compare(name: str, candidate: Any) -> None:
            found[name] = TASKS[spec.task].agreement(candidate, reference, examples, facts.task)

        build = {
            name: partial(merged_into, make, adapter, getattr(torch, dtype), spec)
            for name, make in bases(model, source, spec, facts).items()
        }
        best: str = ""
        candidate: Any = None
        parts = 2 * len(build) + 3  # two a candidate, and loading before, writing and reading back after them
        for place, name in enumerate(build):
            candidate = None
            gc.collect()  # one at a time
            progress((1 + 2 * place) / parts, f"merging into {name}")
            candidate = build[name]()
            progress((2 + 2 * place) / parts, f"comparing {name} with the adapter")
            compare(name, candidate)
            best = min(found, key=lambda name: found[name].kl)
        _hold_to(max_kl, found, best)
        if name != best:
            candidate = None
            gc.collect()
            candidate = build[best]()
        progress((parts - 2) / parts, "writing the merged model")
        tokenizer = _completed(candidate, tokenizer, facts)
        candidate.save_pretrained(str(staging), max_shard_size=SHARD)
        tokenizer.save_pretrained(str(staging))
        for one in TASKS[spec.task].beside(model, facts.task):
            if one is not model.get_base_model().config:  # the candidate wrote its own
                one.save_pretrained(str(staging))
        kind: Any = type(candidate)
        candidate = None
        gc.collect()
        progress((parts - 1) / parts, "reading it back and comparing")
        again = kind.from_pretrained(staging, dtype=getattr(torch, dtype), local_files_only=True)
        compare(READ_BACK, again.to(model.device).eval())
        _hold_to(max_kl, found, READ_BACK)
        for file in adapter.iterdir():
            file.unlink()
        adapter.rmdir()
        size = sum(file.stat().st_size for file in staging.iterdir()) / MB
        merged = Merged(folder, best, table(found), judged_on, dtype, size, found[READ_BACK].kl)
        (staging / "README.md").write_text(_card(model, spec, facts, metrics, merged), encoding="utf-8")
    return merged


def _completed(plain: Any, tokenizer: Any, facts: Facts) -> Any:
    """Let plain transformers ask the model as it was taught, and stop where its answers end; give the tokenizer."""
    if not plain.can_generate():
        return tokenizer
    tokenizer, settings = copy.deepcopy(tokenizer), plain.generation_config
    renderer = Renderer(tokenizer)
    ends = settings.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    if renderer.end not in ends:
        settings.eos_token_id = [*ends, renderer.end]
    if renderer.template and facts.chat:
        tokenizer.chat_template = renderer.template
    return tokenizer


def _hold_to(max_kl: float, found: dict[str, Agreement], name: str) -> None:
    if found[name].kl > max_kl:
        what = "what was written differs" if name == READ_BACK else "every candidate differs"
        raise MergeError(
            f"{what} from the live model by {found[name].kl:.3g} nats per token, more than max_kl, {max_kl:g}, so "
            "nothing is kept; save(path) keeps the adapter, dtype='float32' rounds least, a larger max_kl allows it",
            table(found).to_string(index=False),
        )


def _card(model: PeftModel, spec: RunSpec, facts: Facts, metrics: dict[str, Any], merged: Merged) -> str:
    """The README: where the model came from and how near it is to the adapter."""
    base = local(str(model.peft_config[model.active_adapter].base_model_name_or_path))
    task = TASKS[spec.task]
    auto, reader = task.auto_class, task.reader_class
    variable = "tokenizer" if reader == "AutoTokenizer" else "processor"
    rows = "\n".join(
        f"| {row[0]} | {row[1]:.3g} | {row[2]:.1%} | {row[3]:+.3g} |" for row in merged.table.itertuples(index=False)
    )
    return f"""---
base_model: {json.dumps(base)}
base_model_relation: finetune
library_name: transformers
pipeline_tag: {task.pipeline_tag}
tags: [{spec.method}, peft_nb]
---

# {escaped(spec.name or f"{spec.method}, merged")}

{escaped(base)} with a {spec.method} adapter folded into its weights by peft_nb ({merged.chosen}, {merged.dtype}).

```python
from transformers import {auto}, {reader}

model = {auto}.from_pretrained("path/to/this/folder")
{variable} = {reader}.from_pretrained("path/to/this/folder")
```

## How near it is to the adapter

On {merged.judged_on}; KL divergence and loss in nats.

| | KL | equal greedy choices | loss difference |
| --- | --- | --- | --- |
{rows}

## Spec

{settings(spec)}

## Training

{measured(facts, metrics)}
"""
