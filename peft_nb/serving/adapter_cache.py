"""Adapters in memory over one base: those that mix in one module tree, each of the others in a tree of its own."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from peft_nb.errors import ModelError, RunError
from peft_nb.serving.adapter_bank import AdapterBank
from peft_nb.serving.adapter_files import Adapter
from peft_nb.system import adapter_weights, peft_private

ORIGIN = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")
PACKED = 0.3  # of the size of an adapter, at most, is what it takes in 8 bits


class AdapterCache:
    """The adapters that are loaded; those not used for longest make room for others.

    Parameters
    ----------
    base : transformers.PreTrainedModel
        What all stand on; it is never changed.
    bank : AdapterBank, optional
        Where the weights of those that mix come from; by default their files.
    """

    def __init__(self, base: Any, bank: AdapterBank | None = None) -> None:
        self.base, self.bank = base, bank or AdapterBank()
        self.shared: Any = None  # the tree of all that mix
        self._layers: dict[str, Any] = {}  # those of its layers that hold adapters
        self._known: dict[str, Adapter] = {}
        self._last = ""  # that was activated
        self._followed: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by which, after each
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
        self._known |= wanted
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
        if self._last != one.name:
            self._followed[self._last][one.name] += 1
            self._last = one.name
        if not one.mixes:
            return self._trees[one.name]
        self._turn_on(one.key)
        return self.shared

    def _turn_on(self, key: str) -> None:
        for layer in self._layers.values():  # frozen, so this is all that PEFT's set_adapter would do, in no time
            peft_private.activate(layer, key)
        self.shared.active_adapter = self.shared.base_model.active_adapter = key

    def read_ahead(self, one: Adapter | None = None) -> None:
        """Read an adapter before it is wanted: by default the one that most often came after the one that is active."""
        if one is None and (after := self._followed[self._last]):
            one = self._known[after.most_common(1)[0][0]]
        if one and one.mixes and one.name not in self._loaded:
            self.bank.read_ahead(one)

    def clear(self) -> None:
        """Give back the memory of all."""
        self.shared = None
        self._layers.clear()
        self.bank.clear()
        self._trees.clear()
        self._loaded.clear()

    def _make_room(self, one: Adapter, keep: Collection[str], most_mb: float) -> None:
        if one.mb > most_mb:
            raise RunError(f"{one.name} takes {one.mb:,.1f} MB, more than max_memory_mb, {most_mb:g}; raise it")
        for name, other in list(self._loaded.items()):
            held_mb = sum(held.mb for held in self._loaded.values()) + one.mb * (1 + self.bank.in_8_bits * PACKED)
            self.bank.shrink(max(0.0, most_mb - held_mb))
            if held_mb + self.bank.mb <= most_mb:
                return
            if name in keep:
                continue
            del self._loaded[name]
            if name in self._trees:
                del self._trees[name]
            elif any(held.mixes for held in self._loaded.values()):
                self._drop(other.key)
            else:
                self.shared = None
                self._layers.clear()

    def _drop(self, key: str) -> None:
        """Take an adapter off the shared tree; PEFT's own way looks at every module of it."""
        for _, entries in self._entries():
            if key in entries:
                del entries[key]
        del self.shared.peft_config[key]
        if self.shared.active_adapter == key:
            self._turn_on(next(held.key for held in self._loaded.values() if held.mixes))

    def _entries(self) -> Iterator[tuple[str, Any]]:
        """What the layers of the shared tree keep by adapter, each with the name of its place."""
        for name, layer in self._layers.items():
            for kind, entries in peft_private.kept_by_adapter(layer):
                yield f"{name}.{kind}", entries

    def _like(self, one: Adapter) -> Adapter | None:
        """One in the shared tree that has the shape of another."""
        wanted = _shape(one)
        return next((held for held in self._loaded.values() if held.mixes and _shape(held) == wanted), None)

    def _copy(self, like: Adapter, one: Adapter, weights: dict[str, Any]) -> bool:
        """Put an adapter beside one of its shape, of which only the weights differ; False where they do not fit."""
        from torch.nn import Parameter

        held = [(place, entries) for place, entries in self._entries() if like.key in entries]
        modules = [(place, entries[like.key]) for place, entries in held if not isinstance(entries, dict)]
        if not all(hasattr(module, "named_parameters") for _, module in modules):  # of an embedding, bare tensors
            return False
        slots = {f"{place}.{name}": slot for place, module in modules for name, slot in module.named_parameters()}
        if {name: slot.shape for name, slot in slots.items()} != {name: one.shape for name, one in weights.items()}:
            return False
        for place, entries in held:
            entries[one.key] = made = copy.copy(entries[like.key])
            if own := getattr(made, "_parameters", None):  # which a shallow copy shares
                made._parameters = {
                    name: slot
                    if slot is None
                    else Parameter(weights[f"{place}.{name}"].to(slot.device, slot.dtype), requires_grad=False)
                    for name, slot in own.items()
                }
        self.shared.peft_config[one.key] = one.config
        return True

    def _put(self, one: Adapter) -> None:
        from peft import set_peft_model_state_dict
        from peft.tuners.tuners_utils import BaseTunerLayer

        from peft_nb.models.quiet import first_line, quiet
        from peft_nb.models.share import share

        try:
            with quiet():
                like = self._like(one) if one.mixes else None
                rounded = one.mixes and self.bank.in_8_bits
                weights = self.bank.weights(one) if like or rounded else {}
                if like and self._copy(like, one, weights):
                    return
                tree: Any = adapter_weights.load(share(self.base), one.folder, one.key)
                if rounded:
                    set_peft_model_state_dict(tree, weights, one.key)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"{one.name} does not fit this base: {first_line(error)}") from error
        if not one.mixes:
            self._trees[one.name] = tree
            return
        if self.shared is None:
            self.shared = tree
        else:
            _transplant(tree, self.shared, one.key)
        found = self.shared.named_modules()
        self._layers = {name: module for name, module in found if isinstance(module, BaseTunerLayer)}


def _shape(one: Adapter) -> dict[str, Any]:
    """The settings of an adapter, without where it was trained."""
    return {name: value for name, value in one.config.to_dict().items() if name not in ORIGIN}


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
