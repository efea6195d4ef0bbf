"""Rewards of a run: found, tried on real answers before the first step, and given to what learns from them.

Beside the run lies ``rewards.jsonl``: of each row what was asked and its columns, so that it resumes without its data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, starmap
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem, prompts
from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import RunError, SpecError
from peft_nb.events import Event, Notice, Preparing, Sampled
from peft_nb.methods import REGISTRY
from peft_nb.system.files import atomic_text

if TYPE_CHECKING:
    from peft_nb.data.examples import Example
    from peft_nb.data.layouts import Layout
    from peft_nb.data.table import Table
    from peft_nb.evaluation.rewards import Rewards
    from peft_nb.models.load import Base
    from peft_nb.runs.context import Context, Inputs
    from peft_nb.spec import RunSpec
    from peft_nb.training.group_objective import Drawn
    from peft_nb.training.objectives import Installed
    from peft_nb.training.trainer import PlannedTrainer

FILE = "rewards.jsonl"
TRIED = 4  # prompts whose answers are rewarded before the first step
TOLD = 2  # prompts of the evaluation set whose answers are shown, and of those that are tried


def of(spec: RunSpec, inputs: Inputs) -> Rewards | None:
    """Find what answers are rewarded by; None for a task that learns otherwise.

    Raises
    ------
    RunError
        When it was a function in memory that is not at hand.
    SpecError
        When there is no function of that name.
    """
    from peft_nb.evaluation.rewards import find

    names = spec.reward or []
    if not names:
        return None
    if IN_MEMORY in names and inputs.reward is None:
        fix = "pass it again: peft_nb.load(id, reward=function)"
        raise RunError(f"the run was started with a reward function in the notebook's memory; {fix}")
    return find(names, inputs.reward, inputs.namespace, spec.reward_weights)


def keep(folder: Path, found: Table) -> None:
    """Write what rewards are given of each row beside a run; StoreError if the disk refuses."""
    parts = [(found.rows, found.layout, 0)]
    if found.eval_rows is not None:
        parts.append((found.eval_rows, found.eval_layout, 1))
    lines = []
    for rows, layout, part in parts:
        for number, row in enumerate(rows):
            try:
                told = {"row": number, "part": part, **_told(row, layout)}
            except RowProblem:  # which is refused, or dropped, where rows are encoded
                continue
            lines.append(json.dumps(told, ensure_ascii=False, default=str))
    atomic_text(folder / FILE, "\n".join(lines))


def _told(row: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    messages = layout.messages(row)
    reference = {} if layout.kind == "prompt" else {"reference": messages[-1]["content"]}
    asked = next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), "")
    return {"prompt": asked, "columns": {**reference, **row}}


@dataclass
class Rollout:
    """Draws answers from a model that is being trained, and has them rewarded.

    Attributes
    ----------
    model, tokenizer
        A `PeftModel` and its tokenizer.
    rewards : Rewards
        What rewards them.
    rows : dict
        By number of the row and part of the data: ``prompt`` and ``columns``.
    own_forward : callable
        Gives a context in which the model has its own forward pass.
    publish : callable
        Takes each event.
    longest, seed : int
        Tokens of an answer, at most; what fixes all of them.
    shared : bool
        Whether the method adds no virtual tokens.
    step : callable
        Says which step is under way.
    """

    model: Any
    tokenizer: Any
    rewards: Rewards
    rows: dict[tuple[int, int], dict[str, Any]]
    own_forward: Callable[[], AbstractContextManager[None]]
    publish: Callable[[Event], None]
    longest: int
    seed: int
    shared: bool
    step: Callable[[], int]
    last: list[Sampled] = field(default_factory=list)
    equal: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        from peft_nb.data.rendering import Renderer
        from peft_nb.evaluation.generate import ends

        self._ends = ends(self.model, Renderer(self.tokenizer))
        pad = self.tokenizer.pad_token_id
        self._pad = self.tokenizer.eos_token_id if pad is None else pad

    def __call__(self, examples: Sequence[Example], count: int, learning: bool) -> list[list[Drawn]]:
        """As of :data:`peft_nb.training.group_objective.Rollout`.

        Raises
        ------
        RunError
            When none of those that are not learned from has a reward, in any process.
        """
        from peft_nb.training.gather import gathered
        from peft_nb.training.rollout import sample, seed

        # Those of an evaluation are drawn alike each time, so that what differs is the model.
        step = self.step() if learning else -1
        places = [(int(row), int(part)) for row, part in (one.labels for one in examples)]
        with self.own_forward():
            how: dict[str, Any] = {"longest": self.longest, "ends": self._ends, "pad": self._pad}
            how["seeds"] = [seed(self.seed, step, *place) for place in places]
            answers = sample(self.model, [list(one.ids) for one in examples], count, shared=self.shared, **how)
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for several in answers for ids in several]
        rows = [self.rows[place] for place in places for _ in range(count)]
        judged = self.rewards([row["prompt"] for row in rows], texts, [row["columns"] for row in rows])
        self.told = list(zip(rows, texts, judged.values, strict=True))
        if not learning:
            every = list(chain.from_iterable(gathered(judged.values)))
            if all(map(math.isnan, every)):
                told = next(filter(None, gathered(judged.why)), "it gives None")
                raise RunError(f"reward: {told} (on all {len(every)} answers that were evaluated)")
        if not learning:
            self.last = [self._sampled(*one) for one in self.told]
        values = iter(judged.values)
        drawn = [[(ids, next(values)) for ids in several] for several in answers]
        if learning:
            self.equal += [len({value for _, value in several if not math.isnan(value)}) < 2 for several in drawn]
        return drawn

    def tell(self, step: int, trained_s: float) -> None:
        """Publish some of the answers of the last evaluation."""
        from dataclasses import replace

        for one in sorted(self.last, key=lambda one: len(one.prompt))[:TOLD]:
            self.publish(replace(one, step=step))

    def _sampled(self, row: Mapping[str, Any], answer: str, reward: float) -> Sampled:
        reference = prompts.short(str(row["columns"].get("reference", "")))
        return Sampled(0, prompts.short(row["prompt"]), reference, answer, None if math.isnan(reward) else reward)

    def some(self) -> list[Sampled]:
        """Of a few prompts that were last asked, the answers with the highest and the lowest reward."""
        asked: dict[str, list[Sampled]] = {}
        for one in starmap(self._sampled, self.told):
            if one.reward is not None:
                asked.setdefault(one.prompt, []).append(one)
        ranked = [sorted(several, key=lambda one: one.reward or 0.0) for several in list(asked.values())[:TOLD]]
        return [one for several in ranked for one in dict.fromkeys((several[-1], several[0]))]


def install(context: Context, trainer: PlannedTrainer, base: Base, installed: Installed) -> Rollout | None:
    """Give the objective of a run what draws and rewards answers; None for a task that learns otherwise."""
    spec = context.spec
    if not context.task.written(spec):
        return None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        told = f"task {spec.task} writes answers, which a model in parts on several processes cannot"
        raise RunError(f"{told}; launch it without FSDP and DeepSpeed, so that each process has the whole model")
    if spec.beta and trainer.hooks.fresh:
        why = f"{spec.method} has changed the weights of the base, which is what answers would be compared with"
        raise SpecError([f"beta: {why}; leave it out, or take lora"])
    rewards = of(spec, context.inputs)
    assert rewards is not None
    lines = (context.folder / FILE).read_text(encoding="utf-8").split("\n")
    rows = {(row["row"], row["part"]): row for row in map(json.loads, filter(None, lines))}
    rollout = Rollout(
        trainer.model,
        base.tokenizer,
        rewards,
        rows,
        installed.taken_out,
        context.publish,
        trainer.objective.longest,  # type: ignore[attr-defined]
        spec.seed,
        REGISTRY[spec.method].padding_free,
        lambda: trainer.state.global_step,
    )
    trainer.objective.rollout[:] = [rollout]  # type: ignore[attr-defined]
    trainer.sample = rollout.tell
    return rollout


def attempt(context: Context, trainer: PlannedTrainer, rollout: Rollout) -> None:
    """Reward real answers to a few prompts before the first step, show them, and refuse what teaches nothing.

    Several processes share the prompts.

    Raises
    ------
    RunError
        In one line, when the reward fails, gives what is no reward, or is the same for all.
    """
    from peft_nb.training.gather import gathered
    from peft_nb.training.packing import share_of

    count = trainer.objective.count  # type: ignore[attr-defined]
    context.publish(Preparing("trying the reward on answers of the model"))
    some = prompts.spread(range(len(trainer.examples)), TRIED)
    mine = share_of([trainer.examples[place] for place in some], trainer.args.process_index, trainer.args.world_size)
    before, last = rollout.rewards.failed, rollout.last
    drawn = rollout(mine, count, False)
    rollout.last = last
    failed = sum(gathered(rollout.rewards.failed - before))
    why = next(filter(None, gathered(rollout.rewards.why)), "")
    own = [[value for _, value in answers if not math.isnan(value)] for answers in drawn]
    rewards = list(chain.from_iterable(gathered(own)))
    known = list(chain.from_iterable(rewards))
    total = len(some) * count
    if min(known) == max(known):
        told = f"reward: it gives {known[0]:g} to all {len(known)} answers it was tried on"
        raise RunError(f"{told}, and equal rewards teach nothing; take one that tells answers apart")
    for one in rollout.some():
        context.publish(one)
    told = f"reward tried on {total} answers to {len(some)} prompts: {min(known):.3g} to {max(known):.3g}"
    context.publish(Notice(f"{told}, mean {fmean(known):.3g}"))
    if failed:
        context.publish(
            Notice(f"the reward failed on {failed} of {total} answers, which are skipped: {why}", "warning")
        )
    equal = sum(len(set(answers)) < 2 for answers in rewards)
    if equal:
        told = f"{equal} of {len(some)} prompts get equal rewards: nothing is learned from them"
        context.publish(Notice(told, "warning", "raise num_generations, or take a reward with more steps between"))
    rollout.rewards.failed = 0


def conclude(context: Context, rollout: Rollout) -> None:
    """Tell on how many answers the reward failed, and keep how many prompts had answers with equal rewards."""
    from peft_nb.training.gather import gathered

    if equal := list(chain.from_iterable(gathered(rollout.equal))):
        context.metrics["equal_rewards"] = fmean(equal)
    failed = gathered((rollout.rewards.failed, rollout.rewards.why))
    if count := sum(one for one, _ in failed):
        why = next(why for _, why in failed if why)
        told = f"the reward failed on {count:,} answers, which were skipped: {why}"
        context.publish(Notice(told, "warning"))
