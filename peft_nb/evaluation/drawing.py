"""What a model is worth that draws images: by its loss, its images themselves, and in time."""

from __future__ import annotations

from typing import ClassVar

from peft_nb.evaluation import measure
from peft_nb.evaluation.evaluators import TextEvaluator, Unmeasured


class DrawingEvaluator(TextEvaluator):
    """Measures one trained denoiser."""

    QUICK: ClassVar[tuple[str, ...]] = ("latency",)
    WRITES_NONE = "the model draws images and writes no texts"

    def latency(self) -> None:
        """How long a step of drawing takes with the adapter and without."""
        if not self.held_out:
            raise Unmeasured("there is no evaluation set")
        self._took(measure.input_latency(self.model, **self.objective.inputs(self.model, self.held_out[0])))

    def answers(self) -> None:
        """No images are scored."""
        raise Unmeasured("images are shown, and not scored")
