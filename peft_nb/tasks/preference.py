"""What is learned of pairs of answers: which of two is preferred."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from peft_nb.errors import DataError
from peft_nb.metrics import Metric
from peft_nb.tasks.base import Facts, Rows, Task
from peft_nb.tasks.generation import Generation

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from peft_nb.data.examples import Example
    from peft_nb.data.layouts import Layout
    from peft_nb.evaluation.evaluators import Evaluator
    from peft_nb.spec import RunSpec
    from peft_nb.training.objectives import Objective
    from peft_nb.training.preference import Preference
    from peft_nb.training.preference_losses import Answers
    from peft_nb.training.sequence_objective import SequenceObjective

STILL_STEPS, STILL = 10, 0.005  # so many losses that differ by less than this share of the first: nothing is learned
LONGER = 1.5  # times as many words as the base's answers have, from which on that is told
FALLEN = 0.1  # share by which the log-probability of chosen answers may fall


class Judged(Generation):
    """What tasks have in common that learn from answers which people have judged."""

    rate = 0.25
    learned = "to write the answers that people prefer"
    unused: Mapping[str, str] = {
        "neftune_noise_alpha": "answers are told apart by their log-probabilities, which noise would blur"
    }
    script = "its loss is none of transformers' Trainer; train with peft_nb, or with TRL's trainer of that name"

    metrics = (
        Metric(
            *("preference_accuracy", "preference accuracy", "share", "high", "held-out"),
            help="share of the evaluation set's pairs whose chosen answer has the higher reward; of rated answers, of "
            "all pairs of a good and a bad one",
            base="base_preference_accuracy",
            on=("rows",),
            hub="accuracy",
        ),
        Metric(
            *("eval_margin", "reward margin", "score", "high", "held-out"),
            help="mean reward of chosen answers minus that of rejected ones, on the evaluation set",
            on=("rows",),
            pane="reward margin",
        ),
        Metric(
            "margin",
            "reward margin, train",
            "score",
            help="the same on the training rows of a step",
            pane="reward margin",
        ),
        *(
            Metric(
                f"{part}{side}_logps",
                f"{side}, {'eval' if part else 'train'}",
                "nats",
                help=f"mean log-probability of {side} answers, {'evaluation set' if part else 'rows of a step'}, nats",
                pane="log-probability of answers (nats)",
            )
            for part in ("eval_", "")
            for side in ("chosen", "rejected")
        ),
        Metric("preference_accuracy_interval", help="95 % interval of preference_accuracy"),
        Metric("base_eval_chosen_logps", help="eval_chosen_logps before the first step, nats"),
        Metric("base_preference_accuracy", help="preference_accuracy before the first step"),
    )

    @property
    def ordinary(self) -> Task:
        """Generation, whose rows have one answer and no judgement."""
        return Generation()

    def validate(self, layout: Layout, spec: RunSpec) -> None:
        """Refuse other rows, and what would cut an answer or learn a part of it; as of :meth:`Task.validate`."""
        Task.validate(self, layout, spec)
        if spec.too_long == "split":
            raise DataError(
                f"too_long: split would tear answers apart that {self.name} weighs whole; take truncate or drop"
            )
        if spec.loss_on != "assistant":
            raise DataError(f"loss_on: {self.name} learns answers as a whole, not {spec.loss_on}; leave it out")

    def inspect(self, rows: Rows, layout: Layout) -> Facts:
        """Nothing to find out."""
        return {}

    def encoding(self) -> ModuleType:
        """What writes prompts with their answers, in the loss the answers alone."""
        from peft_nb.data import pairs

        return pairs

    def problems(self, spec: RunSpec) -> list[str]:
        """What is wrong with its options; as of :meth:`Task.problems`."""
        return ["beta: 0 would tell no answers apart; give a number above 0, such as 0.1"] * (spec.beta == 0)

    def preference(self, path: Any, spec: RunSpec) -> SequenceObjective:
        """What is learned under a spec, with its sequences computed by a path."""
        raise NotImplementedError(f"task {self.name} does not say what is learned of an answer")

    def objective(
        self,
        model: PeftModel,
        examples: Sequence[Example],
        pad_id: int,
        device: torch.device,
        spec: RunSpec,
        facts: Facts,
        *,
        supported: bool,
    ) -> SequenceObjective:
        """As of :meth:`Task.objective`."""
        path = super().objective(model, examples, pad_id, device, spec, facts, supported=supported)
        return self.preference(path, spec)

    def foreseen(self, model: PeftModel, pad_id: int, spec: RunSpec, facts: Facts, *, supported: bool) -> Objective:
        """As of :meth:`Task.foreseen`."""
        return self.preference(super().foreseen(model, pad_id, spec, facts, supported=supported), spec)

    def warning(self, spec: RunSpec, losses: Sequence[float], metrics: Mapping[str, Any]) -> str:
        """Say that nothing moves, that chosen answers become less likely too, or that answers got longer.

        As of :meth:`Task.warning`.
        """
        rate = f"learning_rate, now {spec.learning_rate:g}"
        if len(losses) >= STILL_STEPS and all(abs(one - losses[0]) < STILL * abs(losses[0]) for one in losses):
            return f"nothing moves: the loss has stayed at {losses[-1]:.3f} for {len(losses):,} steps; raise {rate}"
        before, after = metrics.get("base_eval_chosen_logps"), metrics.get("eval_chosen_logps")
        if before is not None and after is not None and after < (1 + FALLEN) * before:
            told = f"the chosen answers have become less likely too (log-probability {before:.1f} → {after:.1f})"
            fix = f"lower {rate}{', or take loss_type: sigmoid,sft' * ('loss_type' in self.options)}"
            return f"{told}: more is unlearned than learned; {fix}"
        before, after = metrics.get("base_answer_words"), metrics.get("answer_words")
        if before is not None and after is not None and after >= LONGER * before:
            told = f"answers got longer ({before:.0f} → {after:.0f} words), which may be all that was learned"
            return f"{told}; %peft data shows whether the longer answers are those rated better"
        return ""

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained model."""
        from peft_nb.evaluation.evaluators import JudgedEvaluator

        return JudgedEvaluator

    def limits(self, metrics: Mapping[str, Any]) -> Iterator[str]:
        """Say what was not measured."""
        if metrics.get("forgetting") is None:
            yield "Not measured: what of the base's other abilities it has lost (forgetting)."
        yield "Preference accuracy says which answers it finds likelier than before, not whether its own are better."


class PairTask(Judged):
    """What tasks have in common that learn which of two answers is preferred."""

    accepts = ("preference",)
    wants = "write pairs as columns prompt, chosen and rejected"
    unit: Literal["token", "text", "pair", "answer"] = "pair"
    compares = False  # with a reference

    def sequences(self, example: Example) -> tuple[Example, ...]:
        """Prompt and chosen answer, prompt and rejected one."""
        from peft_nb.data.examples import parts

        return parts(example)

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained model."""
        from peft_nb.evaluation.evaluators import PairEvaluator

        return PairEvaluator

    def loss(self, spec: RunSpec) -> Callable[[Answers], torch.Tensor]:
        """The loss of each pair under a completed spec."""
        raise NotImplementedError(f"task {self.name} does not say what its loss is")

    def preference(self, path: Any, spec: RunSpec) -> Preference:
        """Which of two answers is preferred."""
        from peft_nb.training.preference import Pairs

        return Pairs(path, spec.beta or 0.0, {} if self.compares else None, self.loss(spec))


class DPO(PairTask):
    """Direct preference optimization."""

    name = "dpo"
    tags = ("dpo",)
    help = "to prefer the chosen answer of each pair, compared with the model it started from (DPO)"
    source = "Rafailov et al., 2023, arXiv:2305.18290"
    proposed = compares = True
    options: Mapping[str, Any] = {"loss_type": ["sigmoid"], "loss_weights": None, "beta": 0.1, "label_smoothing": 0.0}

    def problems(self, spec: RunSpec) -> list[str]:
        """What is wrong with its losses; as of :meth:`Task.problems`."""
        from peft_nb.training import preference_losses

        given = spec.loss_type or self.options["loss_type"]
        found = preference_losses.problems(given, spec.loss_weights, spec.label_smoothing or 0.0)
        return super().problems(spec) + list(found)

    def loss(self, spec: RunSpec) -> Callable[[Answers], torch.Tensor]:
        """One or several of :data:`peft_nb.training.preference_losses.LOSSES`."""
        from peft_nb.training.preference_losses import dpo

        return partial(dpo, **{name: getattr(spec, name) for name in self.options})


class SimPO(PairTask):
    """Simple preference optimization: DPO without a reference, by means per token."""

    name = "simpo"
    tags = ("simpo",)
    help = "to find the chosen answer of each pair likelier per token, by a margin (SimPO)"
    source = "Meng et al., 2024, arXiv:2405.14734"
    options: Mapping[str, Any] = {"beta": 2.0, "simpo_gamma": 1.0, "label_smoothing": 0.0}

    def loss(self, spec: RunSpec) -> Callable[[Answers], torch.Tensor]:
        """SimPO's."""
        from peft_nb.training.preference_losses import simpo

        return partial(simpo, **{name: getattr(spec, name) for name in self.options})


class ORPO(PairTask):
    """Odds ratio preference optimization: to write the chosen answer, and not the rejected one."""

    name = "orpo"
    tags = ("orpo",)
    help = "to write the chosen answer of each pair, and to prefer it (ORPO); needs no training before it"
    source = "Hong et al., 2024, arXiv:2403.07691"
    options: Mapping[str, Any] = {"beta": 0.1}

    def loss(self, spec: RunSpec) -> Callable[[Answers], torch.Tensor]:
        """ORPO's."""
        from peft_nb.training.preference_losses import orpo

        return partial(orpo, beta=spec.beta or 0.0)
