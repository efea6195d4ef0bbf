"""What is learned of a model's own answers by a reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from peft_nb.metrics import Metric
from peft_nb.tasks.base import Rows, Written
from peft_nb.tasks.preference import Judged

if TYPE_CHECKING:
    from peft_nb.data.examples import Example
    from peft_nb.data.layouts import Layout
    from peft_nb.spec import RunSpec
    from peft_nb.training.sequence_objective import SequenceObjective

LONGER = 1.5  # times as long as the base's answers, from which on that is told


class GRPO(Judged):
    """Group relative policy optimization."""

    name = "grpo"
    tags = ("grpo",)
    help = "to write answers that get a higher reward than its others to the same prompt (GRPO)"
    source = "Shao et al., 2024, arXiv:2402.03300"
    accepts = ("chat", "prompt", "preference")
    wants = "write prompts in a column prompt"
    rate = 1.0
    unit: Literal["token", "text", "pair", "answer"] = "answer"
    learned = "to write answers that get a high reward"
    options: Mapping[str, Any] = {
        "reward": None,
        "reward_weights": None,
        "num_generations": 8,
        "max_completion_length": 256,
        "epsilon": 0.2,
        "scale_rewards": "group",
        "loss_type": ["dapo"],
        "beta": 0.0,
    }
    metrics = (
        Metric(
            *("eval_reward", "reward", "score", "high", "held-out"),
            help="mean reward of one sampled answer to each prompt of the evaluation set",
            base="base_eval_reward",
            on=("rows",),
            hub="mean_reward",
            pane="reward",
        ),
        Metric("base_eval_reward", help="eval_reward before the first step"),
        Metric(
            *("eval_reward_std", "spread of rewards, eval", "score"),
            help="standard deviation of the rewards behind eval_reward",
            pane="spread of rewards",
        ),
        Metric(
            *("eval_completion_length", "answer length, eval", "tokens"),
            help="mean tokens of the answers behind eval_reward",
            pane="tokens per answer",
        ),
        Metric("base_eval_completion_length", help="eval_completion_length before the first step"),
        Metric(
            *("eval_kl", "divergence, eval", "nats per token"),
            help="divergence from the base on the evaluation set, nats per token",
            pane="divergence from the base (nats per token)",
        ),
        Metric("reward", "reward, train", "score", help="mean reward of the answers of a step", pane="reward"),
        Metric(
            *("reward_std", "spread of rewards, train", "score"),
            help="standard deviation in the answers to a prompt, mean",
            pane="spread of rewards",
        ),
        Metric(
            *("completion_length", "answer length, train", "tokens"),
            help="mean tokens of the answers of a step",
            pane="tokens per answer",
        ),
        Metric(
            *("equal_rewards", "groups without difference, train", "share"),
            help="share of the prompts in training whose answers all got the same reward",
            pane="groups without difference (share)",
        ),
        Metric(
            *("kl", "divergence, train", "nats per token"),
            help="where beta is above 0",
            pane="divergence from the base (nats per token)",
        ),
    )

    def _own(self, spec: RunSpec) -> dict[str, Any]:
        """The task's options, those that a spec leaves open as usual."""
        return {name: usual if (own := getattr(spec, name)) is None else own for name, usual in self.options.items()}

    def written(self, spec: RunSpec) -> Written:
        """As of :meth:`Task.written`."""
        own = self._own(spec)
        return Written(own["num_generations"], own["max_completion_length"])

    def compared(self, spec: RunSpec) -> bool:
        """By the reference, where the divergence from it counts; as of :meth:`Task.compared`."""
        return bool(self._own(spec)["beta"])

    def lighter(self, spec: RunSpec) -> Iterator[dict[str, Any]]:
        """Shorter answers, then fewer; as of :meth:`Task.lighter`."""
        own = self._own(spec)
        for name, tried in (("max_completion_length", (128, 64)), ("num_generations", (4, 2))):
            yield from ({name: value} for value in tried if value < own[name])

    def problems(self, spec: RunSpec) -> list[str]:
        """What is wrong with its options; as of :meth:`Task.problems`."""
        from peft_nb.errors import nearest
        from peft_nb.training.group_losses import LOSSES

        if not spec.reward:
            return ["reward: grpo needs one; name a function of prompt and completion, or give length:12"]
        found, weights, several = [], spec.reward_weights, spec.loss_type or self.options["loss_type"]
        if weights is not None and len(weights) != len(spec.reward):
            found.append(f"reward_weights: {len(weights)} for {len(spec.reward)} rewards; give one for each")
        for name in several:
            if name not in LOSSES:
                fix = nearest(name, LOSSES) or f"; take {', '.join(LOSSES)}"
                found.append(f"loss_type: grpo has no loss {name!r}{fix}")
        if len(several) != 1:
            found.append("loss_type: grpo has one loss at a time; give one")
        if spec.beta and spec.init_adapter:
            found.append("beta: the reference would be the base, not the adapter of init_adapter; leave one out")
        return found

    def sequences(self, example: Example) -> tuple[Example, ...]:
        """The prompt, all of it read and predicted."""
        from peft_nb.data.examples import Example

        return (Example(example.ids, b"\x01" * len(example.ids)),)

    def encoding(self) -> ModuleType:
        """What writes prompts up to where an answer begins."""
        from peft_nb.data import questions

        return questions

    def conversations(
        self, rows: Rows, layout: Layout, numbers: Sequence[int], spec: RunSpec, most: int
    ) -> list[dict[str, Any]]:
        """Rows that have answers; as of :meth:`Task.conversations`."""
        return [] if layout.kind == "prompt" else super().conversations(rows, layout, numbers, spec, most)

    def preference(self, path: Any, spec: RunSpec) -> SequenceObjective:
        """Which of several answers got the higher reward."""
        from peft_nb.training.group_objective import GroupObjective

        own = self._own(spec)
        how = {"loss_type": own["loss_type"][0], "beta": own["beta"], "epsilon": own["epsilon"]}
        return GroupObjective(path, own["num_generations"], own["max_completion_length"], own["scale_rewards"], how)

    def warning(self, spec: RunSpec, losses: Sequence[float], metrics: Mapping[str, Any]) -> str:
        """Say that nothing could be learned, or that answers only got longer; as of :meth:`Task.warning`."""
        if metrics.get("equal_rewards") == 1 and not spec.beta:
            told = "all answers to a prompt got equal rewards in every step, and nothing was learned"
            return f"{told}; take a reward that tells them apart, or raise num_generations"
        names = "base_eval_completion_length", "eval_completion_length", "base_eval_reward", "eval_reward"
        before, after, low, high = (metrics.get(name) for name in names)
        if None not in (before, after, low, high) and after > LONGER * before and high <= low:  # type: ignore[operator]
            told = f"answers only got longer ({before:.0f} → {after:.0f} tokens), and their reward did not rise"
            return f"{told}; take loss_type: dr_grpo, or a reward that length does not raise"
        return ""

    def limits(self, metrics: Mapping[str, Any]) -> Iterator[str]:
        """Say what was not measured."""
        if metrics.get("forgetting") is None:
            yield "Not measured: what of the base's other abilities it has lost (forgetting)."
        yield "The reward says what its function measures, not whether answers are right otherwise."
