"""Which training rows had most influence on an answer: those whose gradients point where the answer's own does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy
import torch
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.training.objectives import Objective

ADAPTERS_OWN = re.compile(r"\.default(?:\.|$)")  # PEFT names what belongs to an adapter by it


class Influence(NamedTuple):
    """The influence of rows on an answer.

    Attributes
    ----------
    dots : numpy.ndarray
        Product of each row's gradient with the answer's, shape ``(rows,)``: by how much a small step on the row lowers
        the loss of the answer, in nats per unit of learning rate.
    cosines : numpy.ndarray
        The same over both lengths, -1 to 1.
    """

    dots: numpy.ndarray
    cosines: numpy.ndarray


@contextmanager
def trainable(model: Any) -> Iterator[list[nn.Parameter]]:
    """Let the adapter of a model have gradients while the context lasts, also one that was loaded frozen.

    Yields
    ------
    list of torch.nn.Parameter
        What the adapter consists of.

    Raises
    ------
    MethodError
        If nothing of it can have a gradient.
    """
    own = [one for name, one in model.named_parameters() if ADAPTERS_OWN.search(name) and one.is_floating_point()]
    if not own:
        raise MethodError("the adapter has no parameters of its own to follow")
    before = [one.requires_grad for one in own]
    others = [one for one in model.parameters() if one.requires_grad and not any(one is mine for mine in own)]
    try:
        for one in own:
            one.requires_grad_(True)
        for one in others:
            one.requires_grad_(False)
        yield own
    finally:
        for one, needed in zip(own, before, strict=True):
            one.requires_grad_(needed)
        for one in others:
            one.requires_grad_(True)


def tracin(
    model: Any,
    objective: Objective,
    parameters: Sequence[nn.Parameter],
    rows: Sequence[Any],
    answer: Any,
    heed: Callable[[float], None] = lambda share: None,
) -> Influence:
    """Compare the gradient of each row with that of an answer, on the adapter's parameters as they are now.

    Each row is as the last step of training would see it. This is TracIn with the last checkpoint alone; the cosine
    keeps rows with large gradients, such as long ones, from coming first whatever is asked (as in LESS).

    Parameters
    ----------
    model : peft.PeftModel
        In evaluation mode, its adapter trainable.
    objective : Objective
        Of the run; not yet installed.
    parameters : sequence of torch.nn.Parameter
        The adapter's.
    rows : sequence of Example
        Training rows.
    answer : Example
        What is to be explained, as an example of the same kind.
    heed : callable
        Told the share that is done, before each row.

    Returns
    -------
    Influence
        In the order of the rows.

    References
    ----------
    Pruthi et al. (2020), "Estimating Training Data Influence by Tracing Gradient Descent", arXiv:2002.08484.
    Xia et al. (2024), "LESS: Selecting Influential Data for Targeted Instruction Tuning", arXiv:2402.04333.
    """
    dots, lengths = numpy.zeros(len(rows)), numpy.zeros(len(rows))
    with objective.installed(model):
        towards = _gradient(model, objective, parameters, answer)
        length = float(towards.norm())
        for place, row in enumerate(rows):
            heed(place / len(rows))
            own = _gradient(model, objective, parameters, row)
            dots[place], lengths[place] = float(own @ towards), float(own.norm())
    return Influence(dots, dots / numpy.maximum(lengths * length, 1e-30))


def _gradient(model: Any, objective: Objective, parameters: Sequence[nn.Parameter], example: Any) -> torch.Tensor:
    """The gradient of an example's mean loss, as one float32 vector."""
    loss = objective.loss(model, [example], model.device) / max(1, objective.targets([example]))
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(of) if one is None else one).flatten().float() for one, of in pairs])
