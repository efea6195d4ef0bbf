"""A run laid out on shapes: what each part of it keeps in memory, and how long its steps take."""

from __future__ import annotations

import math
from array import array
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from peft_nb.data.table import Table
from peft_nb.errors import ForecastError, MethodError
from peft_nb.methods import REGISTRY, attach
from peft_nb.methods.registry import LAYERS
from peft_nb.models.load import Base, sized_by
from peft_nb.models.meta import of_stacks, shapes_alone, single_layer, staged
from peft_nb.planning import memory
from peft_nb.planning.forecast import Forecast
from peft_nb.planning.workload import Load, Workload, shortened
from peft_nb.spec import RunSpec
from peft_nb.system import known, resources
from peft_nb.system.resources import MB
from peft_nb.tasks import TASKS, Facts
from peft_nb.tasks.base import Written
from peft_nb.training.optimizer import named, state_bytes

if TYPE_CHECKING:
    from peft import PeftModel

    from peft_nb.planning.layer_benchmark import Costs

LAYER_PASS = 3e10  # multiplications that one pass of the rehearsal may take
BUDGETS = (512, 1024)  # tokens in a micro-batch that are tried beside the most that the memory allows
AS_FAST = 1.02  # times the time of the fastest
ELSEWHERE = 3  # sizes of micro-batches that only the benchmark of a layer, the check of a path and evaluations have
STEP_S = 0.03  # of every optimizer step, for what is neither the model nor the optimizer: measured on small models


@dataclass
class Plan:
    """A run laid out on shapes: what it keeps and computes."""

    spec: RunSpec
    base: Base
    table: Table
    facts: Facts
    room: float
    process: float
    measured: dict[int, Costs] | None = None
    device: str = "cpu"

    def under(self, spec: RunSpec) -> Plan:
        """The same with other settings; what a token costs has been measured already."""
        base = replace(self.base, quantization=REGISTRY[spec.method].quantization(spec))  # type: ignore[arg-type]
        return Plan(spec, base, self.table, self.facts, self.room, self.process, self.measured, self.device)

    def forecast(self) -> Forecast:
        """Add everything up."""
        spec, shapes, work = self.spec, self.shapes, self.work
        trained = sum(one.numel() for one in self.adapted.parameters() if one.requires_grad)
        costs = self.costs
        kept = costs.kept_bytes if costs else shapes.kept(self.objective.padded)
        if spec.torch_compile:  # a compiler keeps what it chooses, less than stock layers
            kept = max(kept, shapes.kept(padded=True))
        micro, aside = work.largest, work.widest_held_out
        activations = shapes.activations(micro.tokens, kept, spec.gradient_checkpointing)
        aside_bytes = min(self._once_room, (work.examples + work.eval_rows) * costs.once_bytes) if costs else 0.0
        moment = max(self._loss(micro), micro.tokens * kept / 2)
        moment += memory.HOLES * (activations + moment)  # which are closed before an evaluation
        moment = max(moment, aside.tokens * kept - activations, self._loss(aside) - activations)
        if costs and costs.once_bytes:
            from peft_nb.training.speech_objective import AT_ONCE

            moment = max(moment, shapes.heard(AT_ONCE, self.base.model.config.max_source_positions) - activations)
        if self.written:
            prompts, tokens = self._at_once(work.batch, self.written.count)
            writing = shapes.writing(prompts * self.written.count, tokens)
            moment = max(moment, (1 + memory.HOLES) * writing - activations)
        growth = memory.growth(TASKS[spec.task].tokenwise, self.kernels) if self.device == "cpu" else 0.0
        untimed = self.untimed
        seconds, evaluating_s = self._seconds(costs, trained) if costs and not untimed else (None, None)
        return Forecast(
            self.weights / MB,
            memory.trained(trained) / MB,
            state_bytes(named(spec.optim, self.device, self.base.quantization), "cpu") * trained / MB,
            (activations + aside_bytes) / MB,
            moment / MB,
            self.process + growth / MB,
            self.room,
            seconds,
            evaluating_s,
            work.steps,
            round(work.steps * work.mean.tokens),
            trained,
            work.budget,
            self.base.dtype,
            str(self.objective),
            work.examples,
            costs.slowdown if costs else 1.0,
            device=self.device,
            untimed=untimed,
            longest_answers=bool(self.written),
        )

    @property
    def untimed(self) -> str:
        """Why the time is not foreseen, or an empty string."""
        if self.device != "cpu":
            return "not measured on a GPU"
        if self.spec.torch_compile:
            return "not measured with torch_compile"
        return "" if self.costs else "too little free memory"

    def _seconds(self, costs: Costs, trained: int) -> tuple[float, float]:
        """Of training with the evaluations between its steps; of all evaluations and of a reference."""
        spec, shapes, work = self.spec, self.shapes, self.work
        head = shapes.words * costs.head_s * TASKS[spec.task].tokenwise
        token = shapes.layers * (costs.both_s + costs.forward_s * spec.gradient_checkpointing)
        step = token * work.mean.tokens + head * work.mean.predicted + costs.optimizer_s * trained + STEP_S
        read, rows = self._read_s(costs, work.mean), work.held_out
        compared, written = TASKS[spec.task].compared(spec), self.written
        step += read * compared
        once = self._read_s(costs, rows) * (1 + compared)
        held_out_s, training_s = self._once_s(costs)
        if written:  # whose rewards tell enough where nothing is compared
            step += self._writing_s(costs, work.batch, written.count)
            once = compared * once / written.count + self._writing_s(costs, round(work.eval_rows), 1)
        all_steps = work.steps * step + training_s + self.kernels * memory.KERNEL_S
        kept = getattr(self.objective, "reference", None) is not None  # of all examples, from before the first step
        before = min(work.steps, work.steps_per_epoch) * (1 + compared) * read * kept
        if not rows.tokens:
            return all_steps, before
        between = (work.steps - 1) // (spec.eval_steps or work.steps_per_epoch)
        return all_steps + between * once, before + held_out_s + (between + 2) * once

    @property
    def _once_room(self) -> float:
        """Bytes that what is computed once may take."""
        from peft_nb.training.speech_objective import SHARE

        return SHARE * max(0.0, (self.room - self.process) * MB - self.weights)

    def _once_s(self, costs: Costs) -> tuple[float, float]:
        """Seconds of what is computed once of evaluation and training rows, or anew where room is short."""
        if not costs.once_s:
            return 0.0, 0.0
        work, held_out = self.work, self.work.eval_rows
        rows, drawn = work.examples, work.steps * work.batch
        kept = min(1.0, self._once_room / ((rows + held_out) * costs.once_bytes))
        return costs.once_s * held_out, costs.once_s * (min(rows, drawn) + (1 - kept) * max(0, drawn - rows))

    def _read_s(self, costs: Costs, load: Load) -> float:
        """Seconds of a forward pass."""
        head = self.shapes.words * costs.head_s / 2 * TASKS[self.spec.task].tokenwise
        return self.shapes.layers * costs.forward_s * load.tokens + head * load.predicted

    @property
    def written(self) -> Written | None:
        """What answers each step writes."""
        return TASKS[self.spec.task].written(self.spec)

    def _at_once(self, prompts: int, count: int) -> tuple[int, int]:
        """Prompts of so many that get so many answers at once, and tokens of a prompt with the longest answer."""
        from peft_nb.training.rollout import at_once

        tokens = round(self.work.width) + self.written.longest  # type: ignore[union-attr]
        return min(prompts, at_once(count, tokens)), tokens

    def _writing_s(self, costs: Costs, prompts: int, count: int) -> float:
        """Seconds in which prompts are read and so many answers to each written, all as long as they may be."""
        from peft_nb.planning.writing_benchmark import Writing, benchmark_writing

        longest = self.written.longest  # type: ignore[union-attr]
        most, tokens = self._at_once(prompts, count)
        width = tokens - longest
        about = {"prompts": most, "count": count, "length": width + longest // 2}
        shared = REGISTRY[self.spec.method].padding_free

        def benchmark() -> dict[str, float]:
            models = [self._attached(self._filled(layers)) for layers in (1, 2)]
            return asdict(benchmark_writing(models, *about.values(), shared=shared))

        found = Writing(**known.once("writing", {**self._about, **about}, benchmark, days=1))
        token = self.shapes.layers * found.layer_s + self.shapes.words * found.head_s + found.rest_s
        read = self.shapes.layers * costs.forward_s * width * (1 if shared else count)
        return math.ceil(prompts / most) * longest * token + prompts * read

    def _loss(self, micro: Load) -> float:
        if not TASKS[self.spec.task].tokenwise:
            return 0.0
        path = getattr(self.objective, "path", self.objective)  # of sequences that are compared
        return self.shapes.loss(micro, whole=path.padded and not path.chunked, device=self.device)

    @cached_property
    def shapes(self) -> memory.Shapes:
        """The base's sizes."""
        return memory.Shapes.of(self.base.model.config, self.base.dtype)

    @cached_property
    def weights(self) -> float:
        """Bytes of the frozen base."""
        return memory.weights(*memory.sizes(self.base.model), self.base.quantization, self.shapes.size)

    def _attached(self, base: Base) -> PeftModel:
        from peft_nb.training.draws import OwnDraws

        task = TASKS[self.spec.task]
        bare, new = task.build(base, self.facts)
        spec = self.spec
        if base is not self.base and not self._staged:  # of one layer, which may not be one of those that are chosen
            options = {name: one for name, one in spec.method_options.items() if name != LAYERS}
            spec = spec.model_copy(update={"method_options": options})
        try:
            with OwnDraws(self.spec.seed), shapes_alone() if base.device == "meta" else nullcontext():
                return attach(bare, spec, "", new, peft_type=task.peft_type)
        except MethodError as error:
            if "meta" in str(error).lower():  # a tuner that computes with the base's weights, which are not there
                why = "needs the base's weights to initialize, which an estimate does not load"
                raise ForecastError(f"{self.spec.method} {why}") from None
            raise

    @cached_property
    def adapted(self) -> PeftModel:
        """The whole model with its adapter, without memory."""
        return self._attached(self.base)

    @cached_property
    def most(self) -> int:
        """Most tokens that a micro-batch may have."""
        from peft_nb.training.probe import token_budget

        free = self.room - self.process - self.weights / MB
        return self.spec.token_budget or token_budget(self.base.model, max(0.0, free), self.device)

    @cached_property
    def objective(self) -> Any:
        """How micro-batches become losses, as far as shapes tell."""
        from peft_nb.training.neftune import unshared

        supported = REGISTRY[self.spec.method].padding_free
        pad_id = self.base.tokenizer.pad_token_id
        found = TASKS[self.spec.task].foreseen(self.adapted, pad_id, self.spec, self.facts, supported=supported)
        return unshared(found, self.spec.neftune_noise_alpha)

    @cached_property
    def widest(self) -> Workload:
        """What the rows make the model compute, in micro-batches as large as they may be."""
        virtual = getattr(self.adapted.peft_config["default"], "num_virtual_tokens", None) or 0
        rendered = self.table.rendered(self.base.tokenizer, self.spec)
        return Workload(self.spec, self.table, self.facts, rendered, virtual, self.objective, self.most)

    @cached_property
    def work(self) -> Workload:
        """The same in the smallest micro-batches that are as fast, or nearly."""
        if self.measured is None:
            self.measured = self._measured()
        if self.spec.token_budget:
            return self.widest
        tried = [self.widest.under(budget) for budget in sorted(self.measured) if budget <= self.most]
        seconds = [self.measured[one.budget].both_s * one.mean.tokens for one in tried]
        most_s = AS_FAST * min(seconds, default=0.0)
        return next((one for one, taken_s in zip(tried, seconds, strict=True) if taken_s <= most_s), self.widest)

    @property
    def kernels(self) -> float:
        """Of how many products the shapes are met for the first time."""
        if not self.costs:
            return float(memory.KERNELS if self.base.dtype == "bfloat16" else 0)
        sizes, segments = self.work.variety
        of_head = 2 * TASKS[self.spec.task].tokenwise * bool(self.costs.products)
        return (sizes + ELSEWHERE) * (self.costs.products + of_head) + segments * self.costs.segment_products

    @property
    def costs(self) -> Costs | None:
        """What a token costs, if that was measured: in micro-batches of the nearest size."""
        budget, measured = self.work.budget, self.measured or {}
        return measured[min(measured, key=lambda one: abs(one - budget))] if measured else None

    @property
    def _about(self) -> dict[str, Any]:
        """What every benchmark depends on."""
        return {
            "machine": known.machine(),
            "config": self.base.model.config.to_dict(),
            "dtype": self.base.dtype,
            "adapter": self.adapted.peft_config["default"].to_dict(),
            "quantization": self.base.quantization,
        }

    @property
    def _staged(self) -> bool:
        return staged(self.base.model.config)

    def _filled(self, layers: int = 1) -> Base:
        """A base of few layers, filled at random."""
        from peft_nb.training.draws import OwnDraws

        with OwnDraws(self.spec.seed):
            return single_layer(self.base, layers)

    def _measured(self) -> dict[int, Costs]:
        """Train one layer for a moment in micro-batches of some sizes, if a twentieth of the free memory holds it.

        Only on a CPU: nobody has seen yet how far that holds on a GPU.
        """
        if self.device != "cpu":
            return {}
        if self.base.features is not None:
            return self._measured_stacks()
        import torch

        from peft_nb.planning.layer_benchmark import Costs, benchmark_layer
        from peft_nb.training.draws import OwnDraws
        from peft_nb.training.packing import pad

        blocks = next(part for part in self.base.model.modules() if isinstance(part, torch.nn.ModuleList))
        layer = blocks if self._staged else blocks[0]
        parameters = sum(one.numel() for one in layer.parameters())
        if parameters * memory.FLOAT * 5 > resources.memory_available_mb() * MB:
            return {}
        budgets = (self.most, *(one for one in BUDGETS if one < self.most and not self.spec.token_budget))
        tried: dict[tuple[int, ...], tuple[int, list[Any]]] = {}
        for budget in sorted(budgets, reverse=True):
            micro = self.widest.under(budget).micro(self.widest.drawn[0])
            rows = shortened(micro[len(micro) // 2], max(64, int(LAYER_PASS / parameters)))
            tried.setdefault(tuple(one.cost for one in rows), (budget, rows))

        def benchmark() -> list[dict[str, float]]:
            single = self._filled()
            words = getattr(sized_by(single.model.config), "vocab_size", 1)  # an image has no ids
            batches = [
                [replace(one, ids=array("i", (i % words for i in one.ids))) for one in rows]
                for _, rows in tried.values()
            ]
            path = getattr(self.objective, "path", self.objective)  # by which sequences are computed that are compared
            objective = replace(path, pad_id=0) if hasattr(path, "pad_id") else path
            model = self._attached(single)
            with OwnDraws(self.spec.seed):
                REGISTRY[self.spec.method].hooks(self.spec).begin(model, (pad(some, 0) for some in batches[:1]))
            tokens = [self.widest.load(batch).tokens for batch in batches]
            device, optim = torch.device("cpu"), named(self.spec.optim, "cpu")
            whole = self.shapes.layers if self._staged else 0
            costs = benchmark_layer(model, objective, batches, tokens, device, optim, whole)
            segments = [len(self.widest.segments(batch)) for batch in batches]
            return [
                asdict(replace(one, segment_products=one.segment_products / count))
                for one, count in zip(costs, segments, strict=True)
            ]

        about = {"path": str(self.objective), "rows": list(tried), "optim": named(self.spec.optim, "cpu")}
        costs = known.once("layer", {**self._about, **about}, benchmark, days=1)
        return {budget: Costs(**one) for (budget, _), one in zip(tried.values(), costs, strict=True)}

    def _measured_stacks(self) -> dict[int, Costs]:
        """The same for a model of two stacks, in micro-batches of one size."""
        import torch

        from peft_nb.planning.layer_benchmark import Costs
        from peft_nb.planning.stacks_benchmark import CLIPS, benchmark_stacks, depths
        from peft_nb.training.draws import OwnDraws
        from peft_nb.training.speech_objective import EncoderStates

        sides = [self.base.model.get_encoder().layers, self.base.model.get_decoder().layers]
        parameters = sum(one.numel() for layers in sides for one in layers[0].parameters())
        words = self.base.model.get_input_embeddings().weight.numel()
        if (parameters + words) * memory.FLOAT * 5 > resources.memory_available_mb() * MB:
            return {}
        micro = self.widest.micro(self.widest.drawn[0])
        rows, layers = micro[len(micro) // 2][:CLIPS], (len(sides[0]), len(sides[1]))

        def benchmark() -> dict[str, float]:
            with OwnDraws(self.spec.seed):
                models = [self._attached(of_stacks(self.base, *few)) for few in depths(layers)]
            work, optim = self.shapes.layers * self.widest.load(rows).tokens, named(self.spec.optim, "cpu")
            ways = [replace(self.objective, states=EncoderStates()) for _ in models]
            return asdict(benchmark_stacks(models, ways, rows, layers, work, torch.device("cpu"), optim))

        about = {
            "path": str(self.objective),
            "rows": [one.cost for one in rows],
            "optim": named(self.spec.optim, "cpu"),
        }
        return {self.most: Costs(**known.once("stacks", {**self._about, **about}, benchmark, days=1))}
