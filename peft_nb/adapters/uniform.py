"""LoRA with one rank and one scale, for programs that read neither ``rank_pattern`` nor ``alpha_pattern``.

PEFT lets every module have its own. vLLM 0.30 reads ``r`` and ``lora_alpha`` alone, and applies their scale to all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from peft_nb.errors import RunError
from peft_nb.models.live import WEIGHTS

CONFIG = "adapter_config.json"
PART = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<side>[AB])(\.weight)?")


def uniform(weights: Mapping[str, torch.Tensor], scales: Mapping[str, float]) -> tuple[dict[str, torch.Tensor], int]:
    """Fold scales into the weights, and widen all to the largest rank with zeros.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        As in an adapter's file: A of shape ``(rank, inputs)`` and B of shape ``(outputs, rank)`` of every module.
    scales : mapping of str to float
        What PEFT multiplies B A by, for every module.

    Returns
    -------
    tuple of dict and int
        The weights of an adapter of scale 1 that does the same, and its rank.
    """
    rank = max(len(one) for name, one in weights.items() if _part(name)["side"] == "A")
    found = {}
    for name, one in weights.items():
        if (part := _part(name))["side"] == "A":
            found[name] = F.pad(one, (0, 0, 0, rank - len(one)))
        else:
            scaled = (one.float() * scales[part["module"]]).to(one.dtype)
            found[name] = F.pad(scaled, (0, rank - one.shape[1]))
    return found, rank


def unify(folder: Path, scales: Mapping[str, float]) -> dict[str, Any]:
    """Give a saved LoRA one rank and one scale, where it has several; it does the same afterwards.

    Parameters
    ----------
    folder : Path
        A saved adapter, changed in place.
    scales : mapping of str to float
        As of :func:`uniform`.

    Returns
    -------
    dict
        Its config.

    Raises
    ------
    RunError
        If it holds more than low-rank updates.
    """
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    weights = load_file(folder / WEIGHTS)
    if more := [name for name in weights if not PART.fullmatch(name)]:
        fix = "--as merged writes a plain model, which has it"
        raise RunError(f"the adapter holds {more[0]}, which is no low-rank update; {fix}")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        weights, rank = uniform(weights, scales)
        config |= {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
        save_file({name: one.contiguous() for name, one in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    # How it began changes nothing now, and programs refuse what they do not know.
    config |= {"init_lora_weights": True, "eva_config": None}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    return config


def _part(name: str) -> re.Match[str]:
    found = PART.fullmatch(name)
    assert found, name
    return found
