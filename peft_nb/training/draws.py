"""Random numbers of one's own: what is drawn in a block comes from generators that nobody else draws from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DROPOUT = torch.ops.aten.native_dropout.default  # of a GPU, which takes no generator


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
        for name, values in state.items():
            self.on(name).set_state(values)

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
            for name in now.keys() - before.keys():
                self.on(name).manual_seed(self._seed)
            try:
                with self:  # on a GPU the backward pass has a thread of its own
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
    if func._overloadname == "default" and "generator" in func.overloadpacket.overloads():
        return func.overloadpacket.generator
    return None


def _dropout(given: torch.Tensor, p: float, train: bool | None, generator: torch.Generator) -> Any:
    if train is False or p == 0:
        return given.clone(), torch.ones_like(given, dtype=torch.bool)
    kept = torch.empty_like(given, dtype=torch.bool).bernoulli_(1 - p, generator=generator)
    return given * kept * (1 / (1 - p) if p < 1 else 0.0), kept
