"""Random numbers of one's own: what is drawn in a block comes from generators that nobody else draws from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DROPOUT = torch.ops.aten.native_dropout.default  # of a GPU, which takes no generator

_patching = threading.Lock()  # two at once would put back what the other had put


class OwnDraws(TorchDispatchMode):
    """Within this context PyTorch draws in this thread from its own generators, and leaves those of the process alone.

    Entered again, it goes on where it was. Attention that drops out within its own kernel on a GPU still draws from
    the process's generator.

    Parameters
    ----------
    seed : int
        Fixes all draws.

    Attributes
    ----------
    drew : bool
        Whether anything was drawn so far.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed, self.drew = seed, False
        self._generators: dict[str, torch.Generator] = {}

    def on(self, device: torch.device | str) -> torch.Generator:
        """Its generator on a device."""
        name = str(device)
        if name not in self._generators:
            self._generators[name] = torch.Generator(name).manual_seed(self._seed)
        return self._generators[name]

    def state(self) -> dict[str, torch.Tensor]:
        """Where each generator stands, by its device."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` gave."""
        for name in self._generators.keys() - state.keys():  # which had not drawn yet
            self._generators[name].manual_seed(self._seed)
        for name, values in state.items():
            self.on(name).set_state(values)

    @contextmanager
    def heeding_seeds(self) -> Iterator[None]:
        """Enter it, and let what seeds the process's generators here, as some methods of PEFT do, seed its own."""
        mine, seed, fork = threading.get_ident(), torch.manual_seed, torch.random.fork_rng

        def manual_seed(value: int) -> torch.Generator:
            if threading.get_ident() != mine:
                return seed(value)
            self._seed = value
            self.restore({})
            return self.on("cpu")

        @contextmanager
        def fork_rng(*args: Any, **kwargs: Any) -> Iterator[None]:
            if threading.get_ident() != mine or not kwargs.get("enabled", True):
                with fork(*args, **kwargs):
                    yield
                return
            before, state = self._seed, self.state()
            try:
                yield
            finally:
                self._seed = before
                self.restore(state)

        with (
            _patching,
            patch.object(torch, "manual_seed", manual_seed),
            patch.object(torch.random, "fork_rng", fork_rng),
            self,
        ):
            yield

    def checkpointed(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """What `torch.utils.checkpoint` takes as ``context_fn``: a part that is computed again draws the same again."""
        before: dict[str, torch.Tensor] = {}

        @contextmanager
        def first() -> Iterator[None]:
            before.update(self.state())
            yield

        @contextmanager
        def again() -> Iterator[None]:
            now = self.state()
            self.restore(before)
            try:
                with self if self.drew else nullcontext():  # on a GPU the backward pass has a thread of its own
                    yield
            finally:  # what is computed again ends by an exception as soon as enough of it is
                self.restore(now)

        return first(), again()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        draw = _drawing(func)
        if draw is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        tensor = next((one for one in args if isinstance(one, torch.Tensor)), None)
        device = kwargs.get("device") or (torch.device("cpu") if tensor is None else tensor.device)
        if device.type == "meta":
            return func(*args, **kwargs)
        self.drew = True
        return draw(*args, **kwargs, generator=self.on(device))


@cache
def _drawing(func: Any) -> Callable[..., Any] | None:
    """The operation that draws as one does, from a generator that it is given; None for one that draws nothing."""
    if func is DROPOUT:
        return _dropout
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    own = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    return getattr(func.overloadpacket, own) if own in func.overloadpacket.overloads() else None


def _dropout(given: torch.Tensor, p: float, train: bool | None, generator: torch.Generator) -> Any:
    if train is False or p == 0:
        return given.clone(), torch.ones_like(given, dtype=torch.bool)
    kept = torch.empty_like(given, dtype=torch.bool).bernoulli_(1 - p, generator=generator)
    return given * kept * (1 / (1 - p) if p < 1 else 0.0), kept
