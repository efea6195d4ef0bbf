"""What is made of several runs: one adapter out of many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

from peft_nb.errors import MethodError, RunError, nearest
from peft_nb.events import StatusChanged
from peft_nb.methods import REGISTRY
from peft_nb.runs.context import Inputs
from peft_nb.runs.run import Run, active, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.system.files import atomic_text


def combine(
    runs: Mapping[Run | str, float],
    how: str = "cat",
    *,
    density: float = 0.5,
    name: str | None = None,
    store: Store | None = None,
) -> Run:
    """Combine the adapters of runs on one base into a new one, through PEFT.

    Before that, each adapter alone is combined at weight 1.0, with nothing pruned, and has to come out as it went in.

    Parameters
    ----------
    runs : mapping of Run or str to float
        The runs, or their ids or names in the store, and their weights.
    how : str, default "cat"
        ``cat`` adds the updates exactly, and the ranks add up. ``svd`` takes the nearest update of the highest rank to
        that sum. ``linear`` adds the factors, which is cheap and rough. ``ties`` (Yadav et al., 2023,
        arXiv:2306.01708), ``dare_linear``, ``dare_ties`` (Yu et al., 2023, arXiv:2311.03099) and ``magnitude_prune``
        drop values first, in the factors or, with ``_svd`` behind the name, in the updates.
    density : float, default 0.5
        Share of the values that these keep, above 0 and at most 1.
    name : str, optional
        Name of the new run.
    store : Store, optional
        Where names are looked up and the new run goes; default that of the first run.

    Returns
    -------
    Run
        Finished, with ``parents`` and ``how`` among its metrics.

    Raises
    ------
    MethodError
        If PEFT gets an adapter wrong or cannot combine its kind; the message names what works.
    RunError
        If a run has no adapter, the bases differ, or a weight or option is out of bounds.
    StoreError
        If there is no such run, or the disk refuses.
    """
    parents = {one if isinstance(one, Run) else load(one, store=store): _weight(weight) for one, weight in runs.items()}
    _check(list(parents), how, density)
    from peft_nb.adapters import combine as adapters
    from peft_nb.adapters.save import WEIGHTS, save
    from peft_nb.system.resources import MB

    first = next(iter(parents))
    folders = {run.id: run.adapter_dir for run in parents}
    first_model, tokenizer = first.model, first.tokenizer
    with first.adapter.using:
        weights = list(parents.values())
        model = adapters.combine(first_model, tokenizer, folders, weights, how, density, seed=first.spec.seed)
    spec = _spec(first, model.peft_config[model.active_adapter], name)
    store = store or first.store
    id = store.create(
        spec.to_yaml(), method=spec.method, model=spec.model, name=name, parents=[run.id for run in parents]
    )
    folder = store.get(id).folder
    facts, told = replace(first.facts, base_hash=None), first.metrics
    metrics: dict[str, Any] = {key: told[key] for key in ("total_parameters",) if key in told}
    metrics |= {"parents": {run.id: weight for run, weight in parents.items()}, "how": how}
    try:
        saved = save(model, folder / "adapter", spec, facts, metrics, tokenizer=tokenizer, overwrite=True)
        if not adapters.same(model, saved, tokenizer):
            raise MethodError(f"{how!r}: the combination does not read back as it was; combine these runs by 'cat'")
        metrics["adapter_mb"] = (saved / WEIGHTS).stat().st_size / MB
        _keep_examples(parents, folder.parent, id)
        store.set_metrics(id, metrics)
        store.set_facts(id, facts)
        store.record(id, StatusChanged("finished"))
    except BaseException as error:
        store.record(id, StatusChanged("failed", str(error) or type(error).__name__))
        raise
    combined = Run(store.get(id), store, spec, Inputs(model=first.inputs.model))
    combined.adapter.hold(model, tokenizer)
    return combined


def _weight(weight: Any) -> float:
    if not isinstance(weight, Real) or isinstance(weight, bool) or not math.isfinite(weight):
        raise RunError(f"{weight!r} is no weight; give a finite number for each run, such as 0.5")
    return float(weight)


def _check(parents: list[Run], how: str, density: float) -> None:
    from peft_nb.adapters.combine import HOWS

    if how not in HOWS:
        raise RunError(f"how: {how!r} is no way to combine{nearest(how, HOWS)}; choose {', '.join(HOWS)}")
    if not 0 < density <= 1:
        raise RunError(f"density: {density} is no share; give more than 0 and at most 1")
    if not parents:
        raise RunError("combine() takes runs with their weights, such as {run_a: 0.7, run_b: 0.3}")
    for run in parents:
        if run in active():
            raise RunError(f"run {run.id} is {run.status}; call wait() or stop() before combining it")
        if not run.adapter.task.tokenwise:
            raise MethodError(f"run {run.id} learned {run.spec.task} with a head of its own, which cannot be combined")
    bases = {run.facts.base: run.id for run in parents}
    if len(bases) > 1:
        told = "; ".join(f"{id} on {base}" for base, id in bases.items())
        raise RunError(f"only adapters of one base can be combined, and these have several: {told}")


def _spec(first: Run, config: Any, name: str | None) -> RunSpec:
    """What the new run says of itself: the first run's spec, with the kind and size of what came out."""
    fields = {**first.spec.changed(), "name": name}
    if config.peft_type.value == "LORA":
        quantization = REGISTRY[first.spec.method].quantization(first.spec)
        fields |= {"method": "lora", "r": config.r, "alpha": float(config.lora_alpha), "quantization": quantization}
        fields.pop("method_options", None)
    return RunSpec(**fields)


def _keep_examples(parents: Mapping[Run, float], runs: Any, id: str) -> None:
    """Let the new run be evaluated on what the one with the largest weight was."""
    heaviest = max(parents, key=lambda run: abs(parents[run]))
    file = heaviest.folder / "examples.json"
    if heaviest.folder.parent == runs and file.exists():
        atomic_text(runs / id / "examples.json", file.read_text(encoding="utf-8"))
