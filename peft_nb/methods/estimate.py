"""What a run will take: memory from the shapes of its tensors, time from one layer that is trained for a moment.

No weight is read and nothing large is allocated: the base and its adapter are built on the meta device, where a
tensor is a shape without memory, and the rows are tokenised, or some hundreds of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from peft_nb import environment
from peft_nb.errors import MethodError, RunError
from peft_nb.methods import REGISTRY, attach, complete
from peft_nb.methods.workload import Load, Table, Workload, shortened
from peft_nb.models.load import Base, loaded_bytes
from peft_nb.models.outline import outline, single_layer
from peft_nb.models.quiet import quiet
from peft_nb.models.resolve import ModelSource, resolve
from peft_nb.spec import RunSpec

if TYPE_CHECKING:
    from peft import PeftModel

    from peft_nb.training.rehearsal import Costs

REHEARSED = 3e10  # multiplications that one pass of the rehearsal may take
STEP_S = 0.006  # of every optimizer step, for what is neither the model nor the optimizer
# By which libraries and the allocator grow, at once and over the first micro-batches of ever new lengths: oneDNN, which
# multiplies in bfloat16, compiles and keeps up to 1,024 kernels, each for one shape. Measured, with models of any size.
GROWTH_MB, LATER_MB, LATER_BATCHES = 60, {"float32": 140, "bfloat16": 560}, 4
FLOAT = 4  # bytes of what is trained, whatever the base is in


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take. Memory is resident memory in MB (10^6 bytes), at its peak.

    Attributes
    ----------
    weights_mb, adapter_mb, optimizer_mb : float
        The frozen base; what is trained, with its gradients; AdamW's two moments.
    activations_mb, loss_mb : float
        What the largest micro-batch keeps for its backward pass; what is needed beside it for a moment, by the loss
        or by the backward pass of one layer.
    process_mb : float
        Python, PyTorch and libraries, and whatever else is in this process now.
    room_mb : float
        What the process can have at most: what it has and what is free under the container's limit.
    seconds : float or None
        Of training, with the evaluations between its steps; None where too little memory is free to try a layer.
    evaluation_seconds : float or None
        Of all evaluations, also the one before the first step and the one after the last.
    steps, tokens : int
        Optimizer steps, and the tokens they compute: padding included, shared prefixes once.
    trainable_parameters, token_budget : int
        What is learned; most tokens computed at once.
    dtype, path : str
        What is computed in, and whether padded.
    mends : tuple of tuple of str and float
        Where it does not fit: settings that would, and the peak with each in MB.
    """

    weights_mb: float
    adapter_mb: float
    optimizer_mb: float
    activations_mb: float
    loss_mb: float
    process_mb: float
    room_mb: float
    seconds: float | None
    evaluation_seconds: float | None
    steps: int
    tokens: int
    trainable_parameters: int
    token_budget: int
    dtype: str
    path: str
    mends: tuple[tuple[str, float], ...] = ()

    @property
    def memory_mb(self) -> float:
        """The peak: the sum of all parts."""
        held = self.weights_mb + self.adapter_mb + self.optimizer_mb
        return held + self.activations_mb + self.loss_mb + self.process_mb

    @property
    def fits(self) -> bool:
        """Whether the run can have that much."""
        return self.memory_mb <= self.room_mb

    def check(self) -> None:
        """Refuse a run that cannot fit.

        Raises
        ------
        RunError
            With the settings that would make it fit.
        """
        if not self.fits:
            able = " or ".join(f"{setting} (about {mb:,.0f} MB)" for setting, mb in self.mends)
            mend = f"set {able}" if able else "take a smaller model, or free some memory"
            raise RunError(
                f"the run needs about {self.memory_mb:,.0f} MB of memory and can have {self.room_mb:,.0f} MB; {mend}"
            )


def estimate(
    spec: RunSpec,
    *,
    data: Any = None,
    model: Any = None,
    namespace: Mapping[str, Any] | None = None,
    room_mb: float | None = None,
) -> Forecast:
    """Forecast memory and time of a run on this machine's CPU.

    Parameters
    ----------
    spec : RunSpec
        What to do.
    data, model : object, optional
        What is passed instead of a name: a table, a ``(model, tokenizer)`` pair.
    namespace : mapping, optional
        The notebook's variables.
    room_mb : float, optional
        Memory that the process can have, in MB (10^6 bytes); by default what it has and what is free.

    Returns
    -------
    Forecast
        Memory, seconds, whether it fits, and what would make it fit.

    Raises
    ------
    DataError, ModelError, MethodError
        What would keep the run itself from starting; also MethodError when it would not train on the CPU.
    """
    table = Table.read(spec, data, namespace)
    return foresee(spec, resolve(spec.model if model is None else model, spec.revision, namespace), table, room_mb)


def foresee(spec: RunSpec, source: ModelSource, table: Table, room_mb: float | None = None) -> Forecast:
    """Forecast a run whose model and rows have been found; parameters and errors as for :func:`estimate`."""
    spec = complete(spec)
    import torch

    import peft_nb.training.trainer  # noqa: F401  (the memory of what it imports counts as the process's own)
    from peft_nb.training.probe import fastest_dtype

    if environment.device(spec.device) != "cpu":
        raise MethodError("device: forecasts are made for the CPU only; set device to cpu")
    with quiet(), torch.random.fork_rng(devices=[]):
        base = outline(
            source,
            dtype=(lambda config: fastest_dtype(config, "cpu")) if spec.dtype == "auto" else spec.dtype,
            quantization=REGISTRY[spec.method].quantization(spec),  # type: ignore[arg-type]
            kind=None if spec.task == "classification" else "causal",
        )
        here = environment.process_memory_mb()
        room = here + environment.memory_available_mb() if room_mb is None else room_mb
        live = sum(one.nbytes for one in source.pair[0].parameters()) if source.pair else 0
        process = max(0.0, here - (loaded_bytes() + live) / environment.MB)
        plan = _Plan(spec, base, table, room, process)
        forecast = plan.forecast()
        return forecast if forecast.fits else replace(forecast, mends=tuple(_mends(plan)))


def _mends(plan: _Plan) -> Iterable[tuple[str, float]]:
    """Settings that fit, from those that change least of what is learned; each first alone, then all so far."""
    spec, together = plan.spec, dict[str, Any]()
    found = 0
    for setting in _changes(plan):
        for changes in (setting, together | setting) if together else (setting,):
            other = plan.under(spec.model_copy(update=changes)).forecast()
            if other.fits:
                found += 1
                yield ", ".join(f"{name}: {str(value).lower()}" for name, value in changes.items()), other.memory_mb
                break
        if found == 3:
            return
        together |= setting


def _changes(plan: _Plan) -> Iterable[dict[str, Any]]:
    spec, budget = plan.spec, plan.budget
    if not spec.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    for tokens in (1024, 512, 256):
        if tokens < budget:
            yield {"token_budget": tokens}
    if plan.base.quantization == "none" and "4bit" in REGISTRY[spec.method].quantizations and not plan.base.source.pair:
        yield {"quantization": "4bit"}
    for length in (512, 256, 128):
        if length < plan.work.longest:
            yield {"max_length": length}
    for r in (8, 4):
        if spec.r and r < spec.r:
            yield {"r": r}


@dataclass
class _Plan:
    """A run laid out on shapes: what it keeps and computes."""

    spec: RunSpec
    base: Base
    table: Table
    room: float
    process: float
    costs: Costs | None = None

    def under(self, spec: RunSpec) -> _Plan:
        """The same with other settings; what a token costs has been measured already."""
        base = replace(self.base, quantization=REGISTRY[spec.method].quantization(spec))  # type: ignore[arg-type]
        return _Plan(spec, base, self.table, self.room, self.process, self.costs)

    def forecast(self) -> Forecast:
        """Add everything up."""
        spec, text = self.spec, self.text
        trained = sum(one.numel() for one in self.adapted.parameters() if one.requires_grad)
        weights, adapter = self.weights_mb, 2 * FLOAT * trained / environment.MB
        steps, micro = self.work.steps, self.work.largest
        layers, size = text.num_hidden_layers, self.size
        costs = self.costs = self.costs or self._rehearsed()
        kept = costs.kept_bytes if costs else size * (12 * text.hidden_size + 5 * _inner(text))
        inner = micro.tokens * kept
        whole = layers * inner
        if spec.gradient_checkpointing:
            whole = layers * micro.tokens * text.hidden_size * size + inner
        ends = 4 * micro.tokens * text.hidden_size * size  # embeddings, last norm, and the gradients there
        activations = (whole + ends) / environment.MB
        moment = max(self._loss_bytes(micro), inner / 2) / environment.MB
        aside = self.work.widest_held_out
        evaluation = (aside.tokens * kept + self._loss_bytes(aside)) / environment.MB
        moment += max(0.0, evaluation - activations - moment)
        batches = steps * sum(map(len, self.work.cut)) / len(self.work.cut)
        growth = GROWTH_MB + LATER_MB.get(self.base.dtype, 0) * (1 - math.exp(-batches / LATER_BATCHES))
        seconds = evaluating = None
        if costs:
            mean = sum((one for one in self.work.laid_out), Load()).over(len(self.work.laid_out))
            head = text.vocab_size * costs.head_s * (spec.task == "generation")
            layer = costs.both_s + costs.forward_s * spec.gradient_checkpointing
            step = layers * layer * mean.tokens + head * mean.predicted + costs.optimizer_s * trained + STEP_S
            held, once, between = self.work.held_out, 0.0, 0
            if held.tokens:
                every = spec.eval_steps or self.work.steps_per_epoch
                between = (steps - 1) // every
                once = layers * costs.forward_s * held.tokens + head / 2 * held.predicted
            seconds, evaluating = steps * step + between * once, (between + 2) * once
        return Forecast(
            weights,
            adapter,
            adapter,
            activations,
            moment,
            self.process + growth,
            self.room,
            seconds,
            evaluating,
            steps,
            round(steps * sum(one.tokens for one in self.work.laid_out) / len(self.work.laid_out)),
            trained,
            self.budget,
            self.base.dtype,
            str(self.path),
        )

    @property
    def text(self) -> Any:
        """The configuration of the part that reads text."""
        return self.base.model.config.get_text_config()

    @property
    def size(self) -> int:
        """Bytes of a number of the base."""
        return 4 if self.base.dtype == "float32" else 2

    def _bare(self, base: Base) -> tuple[Any, list[str]]:
        if self.spec.task == "classification":
            from peft_nb.models import classify

            return classify.build(base, self.table.classes.names, self.table.classes.multi)
        from peft_nb.models.share import share

        return share(base.model), []

    def _attached(self, base: Base) -> PeftModel:
        import torch

        bare, whole = self._bare(base)
        with torch.device(base.device):
            return attach(bare, self.spec, "", whole)

    @cached_property
    def adapted(self) -> PeftModel:
        """The whole model with its adapter, without memory."""
        return self._attached(self.base)

    @cached_property
    def weights_mb(self) -> float:
        """Of the frozen base, quantized as it will be."""
        import torch

        model = self.base.model
        total = sum(one.numel() for one in model.parameters()) * self.size
        if self.base.quantization != "none":
            linear = [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear)]
            head = model.get_output_embeddings()
            inner = sum(one.numel() for one in linear if head is None or one is not head.weight)
            # NF4 with double quantization: 4 bits a weight, 8 a block of 64, 32 a block of 256 of those.
            per = 0.5 + 1 / 64 + 4 / 64 / 256 if self.base.quantization == "4bit" else 1.0
            total += inner * (per - self.size)
        return total / environment.MB

    @cached_property
    def budget(self) -> int:
        """Most tokens in a micro-batch."""
        from peft_nb.training.probe import token_budget

        free = self.room - self.process - self.weights_mb
        return self.spec.token_budget or token_budget(self.base.model, max(0.0, free))

    @cached_property
    def path(self) -> Any:
        """How micro-batches become losses, as far as shapes tell."""
        from peft_nb.training import classification, paths

        spec, pad = self.spec, self.base.tokenizer.pad_token_id
        model, supported = self.adapted.get_base_model(), REGISTRY[spec.method].padding_free
        if spec.task == "classification":
            reason = paths.unwanted(model.base_model, spec.fast, supported)
            return classification.Classifying(pad, self.table.classes.multi, bool(reason), reason)
        if reason := paths.unwanted(model, spec.fast, supported) or paths.obstacle(self.adapted):
            return paths.Padded(pad, reason)
        return paths.PaddingFree(share_prefix=spec.dropout == 0)

    @cached_property
    def work(self) -> Workload:
        """What the rows make the model compute."""
        virtual = getattr(self.adapted.peft_config["default"], "num_virtual_tokens", None) or 0
        places = getattr(self.text, "max_position_embeddings", None)
        return Workload(self.spec, self.table, self.base.tokenizer, places, virtual, self.path, self.budget)

    def _loss_bytes(self, micro: Load) -> float:
        """Beside the activations while the loss is computed, by the chunk or as whole logits."""
        from peft_nb.training.loss import CHUNK_BYTES

        if self.spec.task == "classification":
            return 0
        words, hidden = self.text.vocab_size, self.text.hidden_size
        if self.path.padded:  # logits and their gradient twice, as a slice and whole; of what is predicted in float32
            return words * (2 * micro.positions * self.size + 2 * FLOAT * micro.predicted)
        chunk = min(micro.predicted, max(16, CHUNK_BYTES // (4 * words))) * words
        return chunk * (2 * FLOAT + 2 * (self.size == 2)) + 2 * micro.predicted * hidden * self.size

    def _rehearsed(self) -> Costs | None:
        """Train one layer for a moment, where a twentieth of the free memory holds it."""
        import torch

        from peft_nb.training.rehearsal import rehearse

        layer = next(part for part in self.base.model.modules() if isinstance(part, torch.nn.ModuleList))[0]
        parameters = sum(one.numel() for one in layer.parameters())
        if parameters * FLOAT * 5 > environment.memory_available_mb() * environment.MB:
            return None
        micro = self.work.micro(self.work.drawn[0])
        rows = shortened(micro[len(micro) // 2], max(64, int(REHEARSED / parameters)))
        single = single_layer(self.base)
        words = single.model.get_input_embeddings().num_embeddings
        rows = [replace(one, ids=type(one.ids)(one.ids.typecode, (i % words for i in one.ids))) for one in rows]
        path = replace(self.path, pad_id=0) if self.path.padded else self.path
        return rehearse(self._attached(single), path, rows, self.work.load(rows).tokens, torch.device("cpu"))


def _inner(text: Any) -> int:
    return getattr(text, "intermediate_size", None) or 4 * text.hidden_size
