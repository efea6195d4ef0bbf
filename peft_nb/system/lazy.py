"""Modules that libraries import whether they are needed or not, imported when they are used."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


class Late(ModuleType):
    """Stands for a module in the names of whoever imported it, and imports it at the first use."""

    def __getattr__(self, name: str) -> Any:
        if name in ("__file__", "__wrapped__"):  # what inspect asks of every module there is
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # the package that it is part of
        return None


@contextmanager
def late(*names: str) -> Iterator[None]:
    """Let modules that are imported while this context lasts be loaded at their first use.

    :class:`importlib.util.LazyLoader` would not do: its modules stay in ``sys.modules``, where the next call of
    ``inspect.getmodule``, of which PyTorch makes many, loads them.

    Parameters
    ----------
    *names : str
        Modules, or ``module:function`` where a function is imported by its name and loads the module when it is called.
        Those that are loaded already, or are not installed, are left as they are.
    """
    made = []
    for name, _, function in (name.partition(":") for name in names):
        if name not in sys.modules and (spec := _spec(name)):
            made.append(Late(name))
            made[-1].__spec__ = spec
            if function:
                vars(made[-1]).update({function: partial(_call, name, function), "__path__": []})
            sys.modules[name] = made[-1]
    try:
        yield
    finally:
        for one in made:
            if sys.modules.get(one.__name__) is one:
                del sys.modules[one.__name__]


def _call(module: str, function: str, *given: Any, **options: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*given, **options)


def import_training(progress: Callable[[float, str], None] | None = None) -> None:
    """Import what every run needs, PyTorch, PEFT and transformers' Trainer, and say so unless they are there already.

    PEFT imports bitsandbytes, which starts PyTorch's compiler, the Trainer imports datasets, and the losses of object
    detection scipy's optimizers: together a third of the time, for what most runs never touch. So many objects are
    made, and none dropped, that looking for garbage among them takes another eighth.
    """
    if progress and "transformers.trainer" not in sys.modules:
        progress(0, "importing PyTorch and PEFT")
    with uncollected(), late("bitsandbytes", "datasets", "scipy.optimize:linear_sum_assignment"):
        import peft.helpers
        import transformers.trainer  # noqa: F401

        # It recommends another package wherever it is imported on a CPU.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
        with without_bitsandbytes():
            import peft.tuners.lora.bnb  # noqa: F401


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Let PEFT ask of layers that are none of bitsandbytes' whether they are, and import it for none of them."""
    with late("bitsandbytes"):
        module = sys.modules.get("bitsandbytes")
        stands_in = vars(module) if isinstance(module, Late) else dict[str, Any]()
        stands_in["nn"] = SimpleNamespace(Linear4bit=Late, Linear8bitLt=Late)
        try:
            yield
        finally:
            stands_in.pop("nn", None)


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave garbage alone while this context lasts."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
