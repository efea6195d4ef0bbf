"""What a fast path is tried on before the first step: short cuts of the run's own tokens, and all features it will use.

Whatever a run will meet has to be met here: several segments in a row, also where there is a single example; a prefix
that they share; local attention that does not reach over a segment, two-way attention, experts.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, cycle, islice
from typing import Any, NamedTuple

from torch import nn

from peft_nb.data.examples import Example
from peft_nb.training.prefix_tree import MIN_PREFIX

LONGEST = 32  # tokens of a segment: both paths run forward and backward, on the default model in two seconds
WINDOWS = ("sliding_window", "attention_chunk_size")


class Trial(NamedTuple):
    """Some examples to compare two paths on.

    Attributes
    ----------
    examples : list of Example
        Cuts of the run's own examples.
    narrow_below : int
        The run's longest example: local attention that reaches less far is narrowed to reach less far than these do.
    """

    examples: list[Example]
    narrow_below: int


def trial(examples: Sequence[Any], share_prefix: bool) -> Trial:
    """Cut examples to try a path on.

    Parameters
    ----------
    examples : sequence of Example
        What the run trains on; one is enough.
    share_prefix : bool
        Whether the path would compute a shared prefix once.

    Returns
    -------
    Trial
        Segments of several lengths; if prefixes are shared and the examples are long enough, some with a prefix, and
        of those some with another after it.
    """
    costs = getattr(examples, "costs", None)  # without making every example of a large set
    longest = int(max((one.cost for one in examples) if costs is None else costs))
    length = min(longest, LONGEST)
    tokens = cycle(chain.from_iterable(one.ids for one in islice(examples, length)))
    labels = cycle(one.labels if hasattr(one, "labels") else () for one in islice(examples, 3))
    pieces = [(list(islice(tokens, n)), 0) for n in (length, max(1, length // 2), max(1, length // 3))]
    if share_prefix:
        before, after = (list(islice(tokens, MIN_PREFIX)) for _ in range(2))
        shared = [before + list(islice(tokens, 4)), *(before + after + list(islice(tokens, n)) for n in (5, 2))]
        pieces[1:] = [(ids[:longest], MIN_PREFIX) for ids in shared]
    return Trial([_example(ids, next(labels), skipped) for ids, skipped in pieces], longest)


def _example(ids: Any, labels: tuple[Any, ...], before: int = 0) -> Example:
    """An example of which the second half of what comes after ``before`` tokens is a target, where anything comes."""
    ids = array("i", ids)
    first = before + (len(ids) - before) // 2 if len(ids) > before else len(ids) // 2
    return Example(ids, bytes(place >= first for place in range(len(ids))), labels)


@contextmanager
def narrowed(model: nn.Module, longest: int) -> Iterator[None]:
    """Let local attention reach over a fraction of a trial's segments while the context lasts.

    Attention that reaches as far as the longest example of a run is not local in it, and stays as it is.
    """
    configs = {id(one.config): one.config for one in model.modules() if hasattr(one, "config")}
    found = [
        (config, name, size)
        for config in configs.values()
        for name in WINDOWS
        if isinstance(size := getattr(config, name, None), int) and 0 < size < longest
    ]
    try:
        for config, name, size in found:
            setattr(config, name, min(size, max(1, min(longest, LONGEST) // 4)))
        yield
    finally:
        for config, name, size in found:
            setattr(config, name, size)
