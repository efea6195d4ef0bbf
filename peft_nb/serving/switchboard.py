"""One base in memory and many adapters beside it: switch without reloading, or use a different one for each row."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from peft_nb.data.kept import kept
from peft_nb.data.prompts import Prompt
from peft_nb.documents.embedding import Embedder
from peft_nb.errors import MethodError, RunError, nearest
from peft_nb.events import Progress, silent
from peft_nb.serving.adapter_bank import AdapterBank
from peft_nb.serving.adapter_cache import AdapterCache
from peft_nb.serving.adapter_files import Adapted, Adapter, find, inspect, is_run
from peft_nb.serving.mixtures import Mixtures
from peft_nb.serving.route import (
    BASE,
    ENCODER,
    NearestRows,
    Policy,
    Route,
    base_prompts,
    blended,
    prompts_of,
    ruled,
    text_of,
)
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    import pandas

BARE = "__base__"  # PEFT's name for no adapter
ROUTE = "route"  # in place of an adapter's name: each prompt is answered by the one that it is for


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
    policy : callable, optional
        ``policy(prompt, user)`` gives the name of the adapter that a prompt is routed to, ``"base"``, or None where the
        rows decide.
    with_base : bool, default True
        Whether prompts are routed to the base model too: those that lie nearest to general questions and texts, or too
        far from the rows of every adapter.
    encoder : str, default "minilm-l6"
        What embeds prompts and rows for routing; loaded when the first prompt is routed.
    blend : int, default 1
        How many adapters answer a routed prompt together: 2 weighs the two with most votes by their shares, in tenths,
        and combines them as :func:`peft_nb.combine` does by ``cat``. Such a mixture is made when it is first needed;
        the last 8 stay in memory besides `max_memory_mb`.
    in_8_bits : bool, default False
        Whether adapters that mix stay in memory in 8 bits while they are not loaded, as far as `max_memory_mb` allows:
        they need not be read again, and answer a little differently (see ``benchmarks/routing.py bank``).

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
        policy: Policy | None = None,
        with_base: bool = True,
        encoder: str = ENCODER,
        blend: int = 1,
        in_8_bits: bool = False,
    ) -> None:
        from peft_nb.data.rendering import Renderer

        given: list[Any] = [base, *adapters] if is_run(base) else [*adapters]
        self.max_memory_mb = math.inf if max_memory_mb is None else max_memory_mb
        self._base, tokenizer = _base(base)
        self._renderer = Renderer(tokenizer)
        self._adapters: dict[str, Adapter] = {}
        self._identities: dict[str, str] = {}
        self._cache = AdapterCache(self._base, AdapterBank(in_8_bits))
        self._told = False
        if blend < 1:
            raise RunError(f"blend: {blend} adapters cannot answer; write 1, or 2 to weigh the best two")
        self.policy, self.with_base, self.blend = policy, with_base, blend
        self._mixtures = Mixtures(tokenizer)
        self.embedder = Embedder(encoder)
        self._nearest: NearestRows | None = None
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
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self._renderer.tokenizer

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

    def add(self, adapter: Adapted | str | os.PathLike[str], rows: Sequence[str] = ()) -> str:
        """Make an adapter known; it is loaded when it is first used.

        Parameters
        ----------
        adapter : Run, str or path
            As for the class.
        rows : sequence of str, optional
            Prompts that it is for, which prompts to route are compared with. By default those that its run learned
            from, as they are kept in the store; a folder has none.

        Returns
        -------
        str
            Its name: the run's name or id, or that of the folder.
        """
        name, folder, spec, facts = find(adapter)
        if name in (BASE, ROUTE):
            raise RunError(f"an adapter cannot be called {name!r}, which means another thing here; rename it")
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
        key = f"a{len(self._adapters)}"
        self._adapters[name] = Adapter(name, key, folder, config, mb, chat, system, tuple(rows))
        self._nearest = None
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
        self._cache.read_ahead()
        self.active = name
        return tree

    @overload
    def route(self, prompts: str, *, user: str | None = None) -> Route: ...  # type: ignore[overload-overlap]
    @overload
    def route(self, prompts: Sequence[Prompt], *, user: str | None = None) -> list[Route]: ...
    def route(self, prompts: str | Sequence[Prompt], *, user: str | None = None) -> Route | list[Route]:
        """Find out which adapter each prompt is for, from the rows that the adapters learned from.

        Nothing is trained, and adapters of any method take part: see :class:`.route.NearestRows`. The rows, at most 200
        of each and 20,000 of all, are embedded when the first prompt is routed, and kept in the store.

        Parameters
        ----------
        prompts : str or sequence
            A text, or several, each a text or the messages of a conversation, of which the last turn counts.
        user : str, optional
            Who asks, for the policy.

        Returns
        -------
        Route or list of Route
            With ``.name`` (an adapter, or ``"base"``), ``.confidence`` and ``.rows``; one a prompt.

        Raises
        ------
        RunError
            If the rows of an adapter are not known, or the policy fails or names what is not there.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        known = [*self._adapters, BASE]
        voted = self.nearest().routes(list(map(text_of, asked)))
        found = [blended(ruled(route, self.policy, user, known), self.blend) for route in voted]
        return found[0] if isinstance(prompts, str) else found

    def nearest(self, progress: Progress = silent) -> NearestRows:
        """Give the rows that vote, embedded when they are first needed."""
        if self._nearest is None:
            rows = {one.name: self._rows_of(one) for one in self._adapters.values()}
            rows |= {BASE: base_prompts()} if self.with_base else {}
            if not rows:
                raise RunError("there is no adapter to route to; add() makes one known")
            cache = next((one.folder.parents[2] / "routing" for one in self._adapters.values() if one.of_run), None)
            self._nearest = NearestRows(rows, self.embedder, cache, progress)
        return self._nearest

    def _rows_of(self, one: Adapter) -> Sequence[str]:
        if one.rows:
            return one.rows
        sides = kept(one.folder.parent) if one.of_run else None
        found = prompts_of(sides.train, self.tokenizer, one.system, one.chat) if sides else []
        if not any(found):
            why = "the rows that it learned from are not in the store"
            raise RunError(f"{one.name} cannot be routed to: {why}; name prompts by add(adapter, rows=[…])")
        return [prompt for prompt in found if prompt]

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
            ``"route"`` lets each prompt be answered by the adapter that :meth:`route` finds.
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
        if adapter == ROUTE:
            answers = self.routed(self.route(asked), **options)
            return answers[0] if isinstance(prompts, str) else answers
        if len(wanted) != len(asked):
            raise RunError(f"{len(asked)} prompts and {len(wanted)} adapters; give one for each, or one for all")
        answers = [""] * len(asked)
        before = self.active
        try:
            groups = list(self._groups(wanted))
            for names, after in zip(groups, [*groups[1:], None], strict=False):
                if after and (coming := next(filter(None, after), None)):
                    self._cache.read_ahead(self._known(coming))
                rows = [row for row, name in enumerate(wanted) if name in names]
                told = self._answers([asked[row] for row in rows], [wanted[row] for row in rows], options)
                for row, answer in zip(rows, told, strict=True):
                    answers[row] = answer
        finally:
            self.active = before
        return answers[0] if isinstance(prompts, str) else answers

    def routed(self, routes: Sequence[Route], **options: Any) -> list[str]:
        """Answer prompts by the adapters that they were routed to.

        Parameters
        ----------
        routes : sequence of Route
            What :meth:`route` found.
        **options
            As of :meth:`generate`.

        Returns
        -------
        list of str
            One answer a prompt.

        Raises
        ------
        MethodError
            If adapters are to be blended that cannot be combined, with the reason.
        """
        answers = [""] * len(routes)
        alone = [place for place, route in enumerate(routes) if not route.weights]
        wanted = [None if routes[place].name == BASE else routes[place].name for place in alone]
        found = self.generate([routes[place].prompt for place in alone], wanted, **options)
        for place, answer in zip(alone, found, strict=True):
            answers[place] = answer
        for place, route in enumerate(routes):
            if route.weights:
                answers[place] = self._mixed(route, options)
        return answers

    def _mixed(self, route: Route, options: dict[str, Any]) -> str:
        """Answer a prompt by a mixture of adapters, asked as the one with most votes was taught."""
        from peft_nb.evaluation.generate import write

        before = self.active
        try:
            model = self._mixtures.get(route.weights, lambda name: self._known(name).folder, self.switch)
        finally:
            self.active = before
        return write(model, self._renderer, [self._encoded(route.prompt, route.name)], **options)[0]

    def _encoded(self, prompt: str, name: str | None) -> list[int]:
        """Render a prompt as its adapter was trained."""
        from peft_nb.evaluation.generate import ask

        one = None if name is None else self._known(name)
        return ask(self._renderer, prompt, one.chat if one else True, one.system if one else None)

    def _answers(self, prompts: Sequence[str], wanted: Sequence[str | None], options: dict[str, Any]) -> list[str]:
        """Answer prompts whose adapters can all be in memory, and in one batch, at once."""
        from peft_nb.evaluation.generate import write

        ones = [None if name is None else self._known(name) for name in wanted]
        encoded = [self._encoded(prompt, name) for prompt, name in zip(prompts, wanted, strict=True)]
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
        self._mixtures.clear()

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
