"""A vision model with a fresh head for the classes of a run, as transformers makes it for its kind."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForImageClassification, PreTrainedModel

from peft_nb.data.images.preprocess import Preprocess
from peft_nb.models.head import ProblemType, in_float32
from peft_nb.models.load import Base, body_of, heads
from peft_nb.models.plain import MARKS
from peft_nb.models.quiet import first_line, quiet
from peft_nb.models.share import share
from peft_nb.system.transformers_private import initialize


def build(base: Base, names: Sequence[str], problem_type: ProblemType) -> tuple[PreTrainedModel, list[str]]:
    """Put a fresh head on a vision model.

    Parameters
    ----------
    base : Base
        Of the kind "vision", bare or with a head of its own, which is left out; it stays as it is.
    names : sequence of str
        What the head's outputs are called, kept in the configuration.
    problem_type : {"single_label_classification", "multi_label_classification"}
        What transformers calls it, kept there too.

    Returns
    -------
    tuple of transformers.PreTrainedModel and list of str
        The model, a module tree of its own that shares the base's tensors, and the names of its parts that are new:
        they are in float32, have to be trained in full and saved with the adapter.
    """
    twin = share(base.model)
    config = copy.deepcopy(twin.config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = problem_type
    with torch.device("meta"):  # only what is new gets memory
        model: Any = AutoModelForImageClassification.from_config(config)
    new, body = heads(model), body_of(model)
    for name in new:
        part = model.get_submodule(name).to_empty(device=base.device).float()
        if base.device != "meta":
            initialize(model, part)
        part.register_forward_pre_hook(in_float32)
    own = getattr(twin, body_of(twin)) if body_of(twin) else twin
    if getattr(model.get_submodule(body), "pooler", None) is None and getattr(own, "pooler", None) is not None:
        own.pooler = None
    setattr(model, body, own)
    for mark in MARKS:  # PEFT and Trainer look for them
        if hasattr(twin, mark):
            setattr(model, mark, getattr(twin, mark))
    return model.requires_grad_(False).eval(), new


def refuses(base: Base, prepare: Preprocess, interpolate: bool) -> str:
    """Say why a vision model cannot take images of some size, found on its shapes alone.

    Parameters
    ----------
    base : Base
        Of the kind "vision".
    prepare : Preprocess
        How images are prepared.
    interpolate : bool
        Whether it is told that they are of another size than it was made for.

    Returns
    -------
    str
        In a few words; empty where it can.
    """
    with quiet(), torch.device("meta"):
        model: Any = AutoModelForImageClassification.from_config(base.model.config).eval()
        images = torch.empty(1, 3, prepare.height, prepare.width)
        try:
            model(pixel_values=images, **({"interpolate_pos_encoding": True} if interpolate else {}))
        except (RuntimeError, ValueError) as error:
            return first_line(error)
    return ""
