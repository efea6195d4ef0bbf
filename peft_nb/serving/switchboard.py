"""One base in memory and many adapters beside it: switch without reloading, or use a different one for each row."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from peft_nb.errors import MethodError, RunError, nearest
from peft_nb.serving.adapter_cache import AdapterCache
from peft_nb.serving.adapter_files import Adapted, Adapter, find, inspect, is_run
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    import pandas

BARE = "__base__"  # PEFT's name for no adapter


class Switchboard:
    """One base and many adapters, each loaded when it is first used.

    Adapters of plain LoRA (also qlora, rslora, pissa, olora, eva, lora-plus) share one module tree, and rows of one
    batch can have different ones. Every other adapter gets a tree of its own over the same base, and the rows that want
    it are answered in a batch of their own; a warning says so once.

    Parameters
    ----------
    base : Run, str, path or tuple
        A run, which gives its base and is the first adapter; or a model by its alias, folder or name on the hub; or a
        live ``(model, tokenizer)`` pair. It is never changed.
    *adapters : Run, str or path
        Runs, ids or names of runs in the store, or adapter folders. An alias that shares requests between two versions
        means the main one: shares are for what ``%peft serve`` answers.
    max_memory_mb : float, optional
        Most memory that loaded adapters may take, in MB; those not used for longest make room. By default all stay.

    Raises
    ------
    MethodError
        If an adapter brings weights of the base itself, or gives labels instead of texts.
    ModelError
        If the base cannot be loaded, or a folder holds no adapter.
    RunError
        If two adapters have one name, stand on different bases, or one alone is larger than `max_memory_mb`.

    Examples
    --------
    >>> board = Switchboard(run_a, run_b, "adapters/legal", max_memory_mb=500)
    >>> board.switch("legal")
    >>> board.generate(["…", "…"], adapter=["legal", "run_a"])
    """

    def __init__(
        self,
        base: Adapted | str | os.PathLike[str] | tuple[Any, Any],
        *adapters: Adapted | str | os.PathLike[str],
        max_memory_mb: float | None = None,
    ) -> None:
        from peft_nb.data.rendering import Renderer

        given: list[Any] = [base, *adapters] if is_run(base) else [*adapters]
        self.max_memory_mb = math.inf if max_memory_mb is None else max_memory_mb
        self._base, tokenizer = _base(base)
        self._renderer = Renderer(tokenizer)
        self._adapters: dict[str, Adapter] = {}
        self._identities: dict[str, str] = {}
        self._cache = AdapterCache(self._base)
        self._told = False
        self.active: str | None = None
        for one in given:
            self.add(one)

    def __repr__(self) -> str:
        return f"<Switchboard of {len(self._adapters)} adapters, {len(self._cache)} loaded, {self.active or 'none'} on>"

    @property
    def names(self) -> list[str]:
        """The adapters, in the order in which they were added."""
        return list(self._adapters)

    @property
    def table(self) -> pandas.DataFrame:
        """One row an adapter: its kind, its size in MB, whether it is loaded and whether it mixes within a batch."""
        import pandas

        rows = [
            {
                "adapter": one.name,
                "kind": str(one.config.peft_type.value).lower(),
                "mb": one.mb,
                "loaded": one.name in self._cache,
                "mixes": one.mixes,
            }
            for one in self._adapters.values()
        ]
        return pandas.DataFrame(rows, columns=["adapter", "kind", "mb", "loaded", "mixes"]).set_index("adapter")

    @property
    def model(self) -> Any:
        """The base with the active adapter, or the base alone when none is; for whatever else a model can do."""
        return self._base if self.active is None else self.switch(self.active)

    def add(self, adapter: Adapted | str | os.PathLike[str]) -> str:
        """Make an adapter known; it is loaded when it is first used.

        Parameters
        ----------
        adapter : Run, str or path
            As for the class.

        Returns
        -------
        str
            Its name: the run's name or id, or that of the folder.
        """
        name, folder, spec, facts = find(adapter)
        if name in self._adapters:
            raise RunError(f"two adapters are called {name!r}; give one of the runs another name")
        if spec and not TASKS[spec.task].generates:
            raise MethodError(f"{name} {TASKS[spec.task].instead}")
        identity = facts.base
        if identity and (others := set(self._identities.values()) - {identity}):
            raise RunError(f"{name} stands on {identity}, and the others on {others.pop()}; make it a board of its own")
        if identity:
            self._identities[name] = identity
        chat, system = facts.chat, spec.system if spec else None
        config, mb = inspect(name, folder, spec, dict(self._base.named_parameters()))
        self._adapters[name] = Adapter(name, f"a{len(self._adapters)}", folder, config, mb, chat, system)
        return name

    def switch(self, name: str) -> Any:
        """Make an adapter the active one, which loads it only if it is not in memory.

        Parameters
        ----------
        name : str
            One of :attr:`names`.

        Returns
        -------
        peft.PeftModel
            The base with this adapter active.
        """
        one = self._known(name)
        self._cache.load([one], self.max_memory_mb)
        tree = self._cache.activate(one)
        self.active = name
        return tree

    @overload
    def generate(self, prompts: str, adapter: str | Sequence[str | None] | None = None, **options: Any) -> str: ...
    @overload
    def generate(
        self, prompts: Sequence[str], adapter: str | Sequence[str | None] | None = None, **options: Any
    ) -> list[str]: ...
    def generate(
        self, prompts: str | Sequence[str], adapter: str | Sequence[str | None] | None = None, **options: Any
    ) -> str | list[str]:
        """Answer prompts, each by the adapter that it is for.

        Parameters
        ----------
        prompts : str or sequence of str
            What to answer, each rendered as its adapter was trained.
        adapter : str or sequence, optional
            One name for all, or one for each prompt, None among them for the base model; by default the active adapter.
        **options
            As of ``Run.generate``: ``max_new_tokens``, ``temperature``, ``seed``.

        Returns
        -------
        str or list of str
            One answer a prompt.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        wanted = [adapter] * len(asked) if adapter is None or isinstance(adapter, str) else list(adapter)
        if adapter is None:
            wanted = [self.active] * len(asked)
        if len(wanted) != len(asked):
            raise RunError(f"{len(asked)} prompts and {len(wanted)} adapters; give one for each, or one for all")
        answers = [""] * len(asked)
        before = self.active
        try:
            for names in self._groups(wanted):
                rows = [row for row, name in enumerate(wanted) if name in names]
                told = self._answers([asked[row] for row in rows], [wanted[row] for row in rows], options)
                for row, answer in zip(rows, told, strict=True):
                    answers[row] = answer
        finally:
            self.active = before
        return answers[0] if isinstance(prompts, str) else answers

    def _answers(self, prompts: Sequence[str], wanted: Sequence[str | None], options: dict[str, Any]) -> list[str]:
        """Answer prompts whose adapters can all be in memory, and in one batch, at once."""
        from peft_nb.evaluation.generate import ask, write

        ones = [None if name is None else self._known(name) for name in wanted]
        encoded = [
            ask(self._renderer, prompt, one.chat if one else True, one.system if one else None)
            for prompt, one in zip(prompts, ones, strict=True)
        ]
        names = {name for name in wanted if name is not None}
        if len(set(wanted)) == 1:
            model = self.switch(names.pop()) if names else self._base
            return write(model, self._renderer, encoded, **options)
        self._cache.load([one for one in ones if one], self.max_memory_mb)
        try:
            each = [one.key if one else BARE for one in ones]
            return write(self._cache.shared, self._renderer, encoded, adapters=each, **options)
        except BaseException:
            self.unload()  # PEFT leaves the hooks of an interrupted batch behind
            raise

    def _groups(self, wanted: Sequence[str | None]) -> Iterator[set[str | None]]:
        """Adapters whose rows make one batch each, as many together as mix and fit into memory."""
        mixing: set[str | None] = set()
        size = 0.0
        for name in dict.fromkeys(wanted):
            one = None if name is None else self._known(name)
            if one and not one.mixes:
                if len(set(wanted)) > 1 and not self._told:
                    self._told = True
                    warnings.warn(
                        f"{name} cannot share a batch; its rows are answered in one of their own", stacklevel=3
                    )
                yield {name}
                continue
            mb = one.mb if one else 0.0
            if mixing and size + mb > self.max_memory_mb:
                yield mixing
                mixing, size = set(), 0.0
            mixing.add(name)
            size += mb
        if mixing:
            yield mixing

    def unload(self) -> None:
        """Give back the memory of all adapters; they are loaded again when they are used."""
        self._cache.clear()

    def _known(self, name: str) -> Adapter:
        if name not in self._adapters:
            raise RunError(f"no adapter is called {name!r}{nearest(name, self._adapters)}; add() makes one known")
        return self._adapters[name]


def _base(base: Any) -> tuple[Any, Any]:
    """A tree over the base's tensors, and its tokenizer."""
    from peft_nb.models.load import load
    from peft_nb.models.resolve import resolve
    from peft_nb.models.share import share
    from peft_nb.system import resources
    from peft_nb.training.probe import fastest_dtype

    if is_run(base):
        from peft_nb.models.plain import bare

        return bare(base.model), base.tokenizer
    device = resources.device()
    loaded = load(resolve(base), dtype=lambda config: fastest_dtype(config, device), device=device)
    return share(loaded.model), loaded.tokenizer
