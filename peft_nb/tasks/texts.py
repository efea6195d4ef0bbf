"""What tasks have in common whose models say something of whole texts, through a head on a base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peft_nb.data.prompts import Asked
from peft_nb.models.live import UNCHANGED, Changes
from peft_nb.tasks.base import Facts, Rows, Task

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from peft_nb.data.examples import Encoded, Example
    from peft_nb.data.layouts import Layout
    from peft_nb.data.rendered import RenderedRows
    from peft_nb.evaluation.agreement import Agreement, Counts
    from peft_nb.evaluation.evaluators import Evaluator
    from peft_nb.models.load import Base
    from peft_nb.spec import RunSpec
    from peft_nb.training.text_objective import HeadMetrics, HeadObjective

SAME = 1e-4  # divergence, in nats, below which two models say the same of a text

HEAD = """
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

folder, base, texts = "path/to/this/folder", BASE, ["a text", "another, somewhat longer one"]
config = AutoConfig.from_pretrained(folder)  # with the names of the classes
model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
model = PeftModel.from_pretrained(model, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(base)
tokenizer.pad_token_id = config.pad_token_id
tokens = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
logits = model(**tokens).logits
print(LABELS)
"""
# The head is no class of transformers, so its two parts are put together here.
MEAN = """
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoTokenizer

folder, base, texts = "path/to/this/folder", BASE, ["a text", "another, somewhat longer one"]
config = AutoConfig.from_pretrained(folder)  # with the names of the classes
encoder = AutoModel.from_pretrained(base)
encoder.pooler = None  # not used: the hidden states of a text are averaged
classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
parts = torch.nn.ModuleDict({"encoder": encoder, "classifier": classifier})
parts = PeftModel.from_pretrained(parts, folder).eval().get_base_model()
tokenizer = AutoTokenizer.from_pretrained(base)
tokens = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
hidden, seen = parts["encoder"](**tokens).last_hidden_state, tokens["attention_mask"][..., None]
logits = parts["classifier"]((hidden * seen).sum(1) / seen.sum(1))
print(LABELS)
"""


class TextTask(Task):
    """What tasks have in common whose models say something of whole texts through a head.

    The facts hold ``max_tokens``, the longest text that the model sees, and ``pooling``, how it makes one vector of a
    text: ``mean``, or ``the model's own head``.
    """

    accepts = ("labelled",)
    unit: Literal["token", "text", "pair", "answer", "image"] = "text"
    tokenwise = generates = False
    auto_class = "AutoModelForSequenceClassification"
    peft_type = "SEQ_CLS"
    base: Literal["causal", "vision", "speech", "diffusion"] | None = None
    model: str | None = "minilm-l6"

    def limit(self, base: Base, spec: RunSpec, facts: Facts) -> None:
        """Note the longest text: what the spec allows and the model has places for."""
        places = getattr(base.model.config.get_text_config(), "max_position_embeddings", None) or spec.max_length
        facts["max_tokens"] = min(spec.max_length, base.tokenizer.model_max_length, places)

    def labels(self, rows: Rows, layout: Layout, facts: Facts, row_name: str) -> list[tuple[Any, ...]]:
        """What is learned of each text, as numbers; a DataError counts all rows of which that cannot be said."""
        raise NotImplementedError(f"task {self.name} does not say what is learned of a text")

    def told(self, facts: Facts) -> str:
        """What is learned, for the report of encoding."""
        return self.help

    def validate_eval(self, rows: Rows, layout: Layout, facts: Facts, row_name: str) -> None:
        """Refuse rows whose labels cannot be read."""
        self.labels(rows, layout, facts, row_name)

    def encode(
        self,
        rendered: RenderedRows,
        spec: RunSpec,
        facts: Facts,
        *,
        cache: Path | None = None,
        fingerprint: str = "",
        row_name: str = "row",
        progress: Callable[[float, str], None] | None = None,
    ) -> tuple[str, Encoded]:
        """Cut texts that are too long, and give each its labels; as of :meth:`Task.encode`."""
        from peft_nb.data import labels

        learned = self.labels(rendered.rows, rendered.layout, facts, row_name)
        settings: dict[str, Any] = {"max_length": facts["max_tokens"], "too_long": spec.too_long}
        how: dict[str, Any] = {**settings, "row_name": row_name, "progress": progress}
        if cache is None:
            return "", labels.encode(rendered, learned, self.told(facts), **how)
        return labels.cached(cache, fingerprint, rendered, learned, self.told(facts), **how)

    def prompts(self, rows: Rows, layout: Layout, numbers: Sequence[int], facts: Facts) -> list[Asked]:
        """Choose a few texts and their labels."""
        from peft_nb.data.prompts import spread

        chosen = [rows[number] for number in spread(numbers)]
        return [Asked(layout.text(row), ", ".join(layout.labels(row))) for row in chosen]

    def head(self, facts: Facts) -> tuple[Sequence[str], Any]:
        """Names of the head's outputs, and transformers' name for the kind of problem."""
        raise NotImplementedError(f"task {self.name} does not say what its head is")

    def head_loss(self, facts: Facts) -> Callable[[torch.Tensor, Sequence[Example]], torch.Tensor]:
        """From the logits of some texts to their summed loss."""
        raise NotImplementedError(f"task {self.name} does not say what its loss is")

    def head_metrics(self, facts: Facts) -> HeadMetrics | None:
        """What evaluations measure beside the loss; nothing."""
        return None

    def build(self, base: Base, facts: Facts) -> tuple[PreTrainedModel, list[str]]:
        """Put a fresh head on a base; as of :meth:`Task.build`."""
        from peft_nb.models import head

        facts["pooling"] = head.pooling(base) or "the model's own head"
        return head.build(base, *self.head(facts))

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
    ) -> HeadObjective:
        """As of :meth:`Task.objective`."""
        from peft_nb.training import text_objective

        wanted = {"fast": spec.fast, "supported": supported}
        chosen = text_objective.choose(model, examples, pad_id, device, self.head_loss(facts), **wanted)
        return replace(chosen, metrics=self.head_metrics(facts))

    def foreseen(self, model: PeftModel, pad_id: int, spec: RunSpec, facts: Facts, *, supported: bool) -> HeadObjective:
        """As of :meth:`Task.foreseen`."""
        from peft_nb.training import text_objective

        return text_objective.foresee(model, pad_id, self.head_loss(facts), fast=spec.fast, supported=supported)

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained model."""
        from peft_nb.evaluation.evaluators import TextEvaluator

        return TextEvaluator

    def outputs(self, model: PeftModel, tokenizer: Any, texts: Sequence[str], facts: Facts) -> torch.Tensor:
        """Logits for texts, cut as in training; shape ``(texts, outputs)``, float32, on the CPU."""
        import torch

        from peft_nb.data.examples import Example
        from peft_nb.data.rendering import tokens
        from peft_nb.evaluation.texts import logits
        from peft_nb.training.text_objective import TextObjective

        encoded = list(map(Example.whole, tokens(tokenizer, texts, facts["max_tokens"])))
        if not encoded:
            return torch.zeros(0, len(self.head(facts)[0]))
        objective = TextObjective(tokenizer.pad_token_id, self.head_loss(facts))
        return logits(model, objective, encoded, model.device)

    def reference(
        self, model: PeftModel, tokenizer: Any, prompts: Sequence[str], spec: RunSpec, facts: Facts, chat: bool
    ) -> list[Any]:
        """Let the model say what it says of texts, and take that for what is right."""
        from peft_nb.data.examples import Example
        from peft_nb.data.rendering import tokens
        from peft_nb.evaluation.agreement import logits

        encoded = tokens(tokenizer, prompts, facts["max_tokens"])
        return [Example.whole(ids, self.answer(logits(model, ids), facts)) for ids in encoded]

    def answer(self, outputs: torch.Tensor, facts: Facts) -> tuple[Any, ...]:
        """What the outputs for a text, of shape ``(outputs,)``, say of it, in the form of its labels."""
        return tuple(outputs.tolist())

    def agreement(self, model: Any, other: Any, examples: Sequence[Any], facts: Facts) -> Agreement:
        """Measure how far a model says what another one says, per text."""
        from peft_nb.evaluation import agreement

        return agreement.agreement(model, other, examples, partial(self.compare, facts=facts))

    def compare(self, ours: torch.Tensor, theirs: torch.Tensor, example: Any, facts: Facts) -> Counts:
        """Compare what two models say of a text: as the means of normal distributions of variance 1."""
        from peft_nb.evaluation.agreement import Counts

        learned = self.head_loss(facts)
        loss = float(learned(ours[None], [example]) - learned(theirs[None], [example]))
        apart = float((ours - theirs).square().sum() / 2)
        return Counts(1, apart, float(apart < SAME), loss, 1)

    def beside(self, model: PeftModel, facts: Facts) -> list[Any]:
        """What the head's outputs are called has no place in PEFT's own file."""
        return [model.get_base_model().config]

    def unmergeable(self, facts: Facts) -> str:
        """Why no class of transformers can hold the merged model, or an empty string."""
        if facts.get("pooling") != "mean":
            return ""
        return "no class of transformers holds this classifier, which takes the mean over a text's hidden states"

    def usage(
        self, base: str, spec: RunSpec, facts: Facts, tokenizer: Any, *, chat: bool, changes: Changes = UNCHANGED
    ) -> str:
        """Write the Python lines that ask a saved adapter about texts."""
        lines = MEAN if facts["pooling"] == "mean" else HEAD
        if changes.rows and lines is HEAD:
            own = f"num_labels=config.num_labels)\n{changes.resized('model')}\n"
            lines = lines.replace("config=config)\n", f"{own}model.config.pad_token_id = config.pad_token_id\n")
        elif changes.rows:
            lines = lines.replace("encoder.pooler", f"{changes.resized('encoder')}\nencoder.pooler")
        lines = lines.replace(
            "AutoTokenizer.from_pretrained(base)", f"AutoTokenizer.from_pretrained({changes.loaded_from})"
        )
        return (
            lines.replace("LENGTH", str(facts["max_tokens"])).replace("LABELS", self.shown(facts)).replace("BASE", base)
        )

    def shown(self, facts: Facts) -> str:
        """The Python expression that makes of ``logits`` what is to be printed."""
        return "logits.tolist()"
