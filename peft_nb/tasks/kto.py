"""What is learned of answers that were rated good or bad, each by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from peft_nb.tasks.preference import Judged

if TYPE_CHECKING:
    from peft_nb.evaluation.evaluators import Evaluator
    from peft_nb.spec import RunSpec
    from peft_nb.training.preference import Preference


class KTO(Judged):
    """Kahneman-Tversky optimization."""

    name = "kto"
    tags = ("kto",)
    help = "to write answers like those rated good, and unlike those rated bad (KTO)"
    source = "Ethayarajh et al., 2024, arXiv:2402.01306"
    accepts = ("rated",)
    wants = "write a conversation, or a prompt and its completion, with a column label of true and false"
    unit: Literal["token", "text", "pair", "answer"] = "answer"
    proposed = True
    options: Mapping[str, Any] = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained model."""
        from peft_nb.evaluation.evaluators import RatedEvaluator

        return RatedEvaluator

    def compared(self, spec: RunSpec) -> bool:
        """With the reference, each prompt having another's answer; as of :meth:`Task.compared`."""
        return True

    def preference(self, path: Any, spec: RunSpec) -> Preference:
        """Whether an answer is good."""
        from peft_nb.training.preference import Rated

        weights = {name: getattr(spec, name) for name in ("desirable_weight", "undesirable_weight")}
        return Rated(path, spec.beta or 0.0, {}, weights)
