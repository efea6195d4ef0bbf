"""The lines that use a saved adapter without peft_nb, or with no more of it than its tuner."""

from __future__ import annotations

import json
from typing import Any

from peft_nb.methods import REGISTRY
from peft_nb.models.live import UNCHANGED, Changes
from peft_nb.spec import RunSpec
from peft_nb.store import Facts
from peft_nb.tasks import TASKS


def usage(base: str, spec: RunSpec, facts: Facts, tokenizer: Any, changes: Changes = UNCHANGED) -> str:
    """Write the lines.

    Parameters
    ----------
    base : str
        What ``from_pretrained`` finds the base by.
    spec : RunSpec
        The run's settings.
    facts : Facts
        What it takes to open the run again.
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's.
    changes : Changes
        How a live pair differs from the base.

    Returns
    -------
    str
        Python.
    """
    tuner, _, _ = REGISTRY[spec.method].config_class().__module__.rpartition(".")
    ours = f"import {tuner}.model  # makes PEFT know this kind of adapter\n" if tuner.startswith("peft_nb.") else ""
    quoted = json.dumps(base, ensure_ascii=False)
    lines = TASKS[spec.task].usage(quoted, spec, facts.task, tokenizer, chat=facts.chat, changes=changes)
    return ours + lines.strip()
