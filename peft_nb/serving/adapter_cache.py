"""Adapters in memory over one base: those that mix in one module tree, each of the others in a tree of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

from peft_nb.errors import ModelError, RunError
from peft_nb.serving.adapter_files import Adapter
from peft_nb.system import adapter_weights, peft_private


class AdapterCache:
    """The adapters that are loaded; those not used for longest make room for others.

    Parameters
    ----------
    base : transformers.PreTrainedModel
        What all stand on; it is never changed.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        self.shared: Any = None  # the tree of all that mix
        self._layers: list[Any] = []  # those of its layers that hold adapters
        self._trees: dict[str, Any] = {}  # of the others, by name
        self._loaded: OrderedDict[str, Adapter] = OrderedDict()  # the one used last at the end

    def __contains__(self, name: object) -> bool:
        return name in self._loaded

    def __len__(self) -> int:
        return len(self._loaded)

    def load(self, adapters: Sequence[Adapter], most_mb: float) -> None:
        """Have some adapters in memory together.

        Parameters
        ----------
        adapters : sequence of Adapter
            Those that are needed now.
        most_mb : float
            What all that are loaded may take, in MB.

        Raises
        ------
        ModelError
            If one does not fit the base.
        RunError
            If one alone takes more.
        """
        wanted = {one.name: one for one in adapters}
        for name in wanted:
            if name in self._loaded:
                self._loaded.move_to_end(name)
        for name, one in wanted.items():
            if name not in self._loaded:
                self._make_room(one, wanted, most_mb)
                self._put(one)
                self._loaded[name] = one

    def activate(self, one: Adapter) -> Any:
        """Make a loaded adapter the active one of its tree, and give that, a PeftModel."""
        if not one.mixes:
            return self._trees[one.name]
        for layer in self._layers:  # all are frozen, so this is all that PEFT's set_adapter would do, in no time
            peft_private.activate(layer, one.key)
        self.shared.active_adapter = self.shared.base_model.active_adapter = one.key
        return self.shared

    def clear(self) -> None:
        """Give back the memory of all."""
        self.shared = None
        self._trees.clear()
        self._loaded.clear()

    def _make_room(self, one: Adapter, keep: Collection[str], most_mb: float) -> None:
        from peft_nb.models.quiet import quiet

        if one.mb > most_mb:
            raise RunError(f"{one.name} takes {one.mb:,.1f} MB, more than max_memory_mb, {most_mb:g}; raise it")
        for name, other in list(self._loaded.items()):
            if sum(held.mb for held in self._loaded.values()) + one.mb <= most_mb:
                return
            if name in keep:
                continue
            del self._loaded[name]
            if name in self._trees:
                del self._trees[name]
            elif any(held.mixes for held in self._loaded.values()):
                with quiet():
                    self.shared.delete_adapter(other.key)
            else:
                self.shared = None

    def _put(self, one: Adapter) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        from peft_nb.models.quiet import first_line, quiet
        from peft_nb.models.share import share

        try:
            with quiet():
                tree: Any = adapter_weights.load(share(self.base), one.folder, one.key)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"{one.name} does not fit this base: {first_line(error)}") from error
        if not one.mixes:
            self._trees[one.name] = tree
            return
        if self.shared is None:
            self.shared = tree
        else:
            _transplant(tree, self.shared, one.key)
        self._layers = [module for module in self.shared.modules() if isinstance(module, BaseTunerLayer)]


def _transplant(tree: Any, shared: Any, key: str) -> None:
    """Move an adapter into a tree that holds others; PEFT's own way looks at all of those, and takes ever longer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    source, target = tree.get_base_model(), shared.get_base_model()
    for name, layer in list(source.named_modules()):
        if not isinstance(layer, BaseTunerLayer):
            continue
        held = target.get_submodule(name)
        if not isinstance(held, BaseTunerLayer):
            parent, _, own = name.rpartition(".")
            setattr(target.get_submodule(parent), own, layer)
            continue
        for kind, entries in peft_private.kept_by_adapter(layer):
            if key in entries:
                getattr(held, kind)[key] = entries[key]
    shared.peft_config[key] = tree.peft_config[key]
