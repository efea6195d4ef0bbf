"""Image classification: a model learns to give images labels, one or several an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem
from peft_nb.data.prompts import Asked
from peft_nb.errors import DataError, ModelError, RunError
from peft_nb.events import Sampled
from peft_nb.models.live import UNCHANGED, Changes
from peft_nb.tasks.base import Facts, Look, Rows
from peft_nb.tasks.classification import Classification, classes, probabilities

if TYPE_CHECKING:
    import pandas
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from peft_nb.data.examples import Encoded, Example
    from peft_nb.data.images.preprocess import Preprocess
    from peft_nb.data.layouts import Layout
    from peft_nb.data.quality.checks import Checked
    from peft_nb.data.rendered import RenderedRows
    from peft_nb.evaluation.agreement import Agreement
    from peft_nb.evaluation.evaluators import Evaluator
    from peft_nb.events import Progress
    from peft_nb.models.load import Base
    from peft_nb.spec import RunSpec
    from peft_nb.training.image_objective import ImageObjective

WATCHED = 6  # images whose predictions are shown while they change
MISTAKES = 12  # shown in the end, those the model is surest of
STRIDE = 16  # pixels that a model in stages has for one token, about

USAGE = """
from peft import PeftModel
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

folder, base, images = "path/to/this/folder", BASE, ["path/to/an/image.jpg"]
config = AutoConfig.from_pretrained(folder)  # with the names of the classes
model = AutoModelForImageClassification.from_pretrained(base, config=config, ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(model, folder).eval()
processor = AutoImageProcessor.from_pretrained(folder)
pixels = processor([Image.open(one).convert("RGB") for one in images], return_tensors="pt")
logits = model(**pixels).logits
print(LABELS)
"""


class ImageClassification(Classification):
    """To give images labels.

    The facts also hold ``prepare``, how an image becomes what the model takes, ``patches``, what it costs, and
    ``interpolate``, whether the model has to be told that images are of another size than it was made for.
    """

    name = "image-classification"
    help = "to give an image one or several labels"
    source = "Dosovitskiy et al., 2020, arXiv:2010.11929"
    accepts = ("image",)
    wants = (
        "say which columns hold images and labels, format: image_label and columns: {image: …, label: …}, or move each "
        "image into a folder named as its label"
    )
    unit = "image"
    counted_in = "patches"
    learned = "to classify images"
    instead = "gives images labels and writes no texts; call predict() on it"
    pipeline_tag = "image-classification"
    auto_class = "AutoModelForImageClassification"
    reader_class = "AutoImageProcessor"
    peft_type = ""  # PEFT has no name for it, and calls the model as it is
    base = "vision"
    model = "dinov2-small"
    proposed = True
    unused: Mapping[str, str] = {
        **dict.fromkeys(("score", "regression"), "a classifier is judged by its accuracy"),
        **dict.fromkeys(("system", "neftune_noise_alpha"), "an image is no text"),
    }
    options: Mapping[str, Any] = {"augment": "none", "image_size": None}
    script = "task: a script is written for generation alone; as adapter and as yaml serve image-classification too"
    columns = ("image", "label", "probability")

    def problems(self, spec: RunSpec) -> list[str]:
        """What is wrong with its options; as of :meth:`Task.problems`."""
        if spec.torch_compile:
            return ["torch_compile: not tried with images; turn it off"]
        return []

    # ---- rows

    def validate(self, layout: Layout, spec: RunSpec) -> None:
        """Refuse rows without images; parameters and errors as of :meth:`Task.validate`."""
        if layout.kind not in self.accepts:
            raise DataError(f"{layout.why}: task: {self.name} learns an image's label; {self.wants}")

    def check(self, *tables: Any, **how: Any) -> Checked:
        """Look for what is wrong with images; as of :meth:`Task.check`."""
        from peft_nb.data.images import checks

        return checks.check(*tables, **how)

    def state(self, rows: Rows, layout: Layout) -> str:
        """Whether files have changed; as of :meth:`Task.state`."""
        from peft_nb.data.images import encoding

        return encoding.state(rows, layout)

    def groups(self, contents: Sequence[Any], *, progress: Progress | None = None) -> Sequence[int]:
        """Which images are the same or nearly; as of :meth:`Task.groups`."""
        from peft_nb.data.images import similar

        return similar.groups(contents, progress=progress)

    def limit(self, base: Base, spec: RunSpec, facts: Facts) -> None:
        """Note how images are prepared for the base, and what one costs."""
        from peft_nb.models import image_head

        prepare = base.tokenizer.at(spec.image_size)
        config = getattr(base.model.config, "vision_config", base.model.config)
        patch = STRIDE if getattr(config, "depths", None) else getattr(config, "patch_size", None) or STRIDE
        patch = patch[0] if isinstance(patch, list | tuple) else patch
        if min(prepare.height, prepare.width) < patch:
            raise ModelError(f"image_size: {spec.image_size} is less than a patch of {spec.model}, {patch} pixels")
        facts["prepare"] = prepare.to_dict()
        size = getattr(config, "image_size", None) or prepare.height
        sides = [*size] if isinstance(size, list | tuple) else [size, size]
        able = "interpolate_pos_encoding" in signature(type(base.model).forward).parameters
        facts["interpolate"] = able and sides != [prepare.height, prepare.width]
        if spec.image_size is not None and (why := image_head.refuses(base, prepare, facts["interpolate"])):
            raise ModelError(f"image_size: {spec.model} takes no {spec.image_size} pixels ({why}); leave it out")
        facts["patches"] = (prepare.height // patch) * (prepare.width // patch) + 1

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
        """Decode and resize each image once, and give it its labels; as of :meth:`Task.encode`."""
        from peft_nb.data.images import encoding

        rows, layout = rendered.rows, rendered.layout
        how: dict[str, Any] = {
            "learned": self.labels(rows, layout, facts, row_name),
            "told": self.told(facts),
            "cost": facts["patches"],
            "roomy": spec.augment not in (None, "none"),
            "row_name": row_name,
            "progress": progress,
        }
        if cache is None:
            return "", encoding.encode(rows, layout, _prepare(facts), **how)
        return encoding.cached(cache, fingerprint, rows, layout, _prepare(facts), **how)

    def prompts(self, rows: Rows, layout: Layout, numbers: Sequence[int], facts: Facts) -> list[Asked]:
        """Choose a few images, as small copies, and the names of their classes."""
        from peft_nb.data.images.encoding import content
        from peft_nb.data.images.thumbnail import thumbnail
        from peft_nb.data.prompts import spread

        chosen = [rows[number] for number in spread(numbers)]
        small = [thumbnail(content(layout, row).open(), facts["prepare"]["width"]) for row in chosen]
        told = [", ".join(name for name in facts["classes"] if name in {*layout.labels(row)}) for row in chosen]
        return [Asked(image, names) for image, names in zip(small, told, strict=True)]

    # ---- model and loss

    def build(self, base: Base, facts: Facts) -> tuple[PreTrainedModel, list[str]]:
        """Put a fresh head on a vision model; as of :meth:`Task.build`."""
        from peft_nb.models import image_head

        return image_head.build(base, *self.head(facts))

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
    ) -> ImageObjective:
        """As of :meth:`Task.objective`."""
        from peft_nb.training import image_objective

        return image_objective.choose(model, examples, device, self._objective(facts, spec.augment), fast=spec.fast)

    def foreseen(
        self, model: PeftModel, pad_id: int, spec: RunSpec, facts: Facts, *, supported: bool
    ) -> ImageObjective:
        """As of :meth:`Task.foreseen`."""
        from peft_nb.training import image_objective

        return image_objective.foresee(self._objective(facts, spec.augment), fast=spec.fast)

    # ---- the trained model

    def measure(
        self,
        model: PeftModel,
        objective: Any,
        examples: Sequence[Example],
        device: torch.device,
        budget: int,
        facts: Facts,
    ) -> dict[str, Any]:
        """How often the model is right on the evaluation set, and where it is surest and wrong."""
        from peft_nb.evaluation.texts import logits
        from peft_nb.tasks.classification import scores

        found = probabilities(logits(model.eval(), objective, examples, device, budget), classes(facts))
        measured = scores(examples, found, classes(facts))
        if not facts["multi_label"]:
            given, sure = found.argmax(1).tolist(), found.max(1).tolist()
            wrong = [
                [place, one.labels[0], given[place], sure[place], float(found[place, one.labels[0]])]
                for place, one in enumerate(examples)
                if given[place] != one.labels[0]
            ]
            measured["mistakes"] = sorted(wrong, key=lambda one: -one[3])[:MISTAKES]
        return measured

    def watched(
        self, model: PeftModel, tokenizer: Any, objective: Any, examples: Sequence[Example], step: int, facts: Facts
    ) -> Iterator[Sampled]:
        """What the model says of a few images of the evaluation set; as of :meth:`Task.watched`."""
        from peft_nb.data.prompts import spread
        from peft_nb.evaluation.texts import logits

        places = spread(range(len(examples)), WATCHED)
        chosen = [examples[place] for place in places]
        found = probabilities(logits(model.eval(), objective, chosen, model.device), classes(facts))
        told = self.said(self.told_of([""] * len(chosen), found, facts))
        for place, one, said in zip(places, chosen, told, strict=True):
            names = ", ".join(facts["classes"][number] for number in one.labels)
            yield Sampled(step, f"eval image {place}", names, said, image=objective.thumbnail(one))

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained classifier of images."""
        from peft_nb.evaluation.evaluators import ImageEvaluator

        return ImageEvaluator

    def asked(self, given: Any) -> list[Any]:
        """One image or several, as of :meth:`Task.asked`: paths, PIL images, arrays or bytes."""
        several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
        several = several and getattr(given, "ndim", 1) != 2 and not hasattr(given, "getexif")
        several = several and not (getattr(given, "ndim", 1) == 3 and given.shape[2] in (1, 3, 4))
        return list(given) if several else [given]

    def outputs(self, model: PeftModel, tokenizer: Any, texts: Sequence[Any], facts: Facts) -> torch.Tensor:
        """Logits for images; shape ``(images, outputs)``, float32, on the CPU."""
        import torch

        from peft_nb.evaluation.texts import logits

        encoded = self._examples(texts, facts)
        if not encoded:
            return torch.zeros(0, len(facts["classes"]))
        return logits(model, self._objective(facts), encoded, model.device)

    def unlabelled(self, given: Any, tokenizer: Any, facts: Facts) -> list[Example]:
        """As of :meth:`Task.unlabelled`."""
        return self._examples(self.asked(given), facts)

    def look(self, model: PeftModel, tokenizer: Any, examples: Sequence[Example], facts: Facts) -> Look:
        """Look at images by what the base sees in them and by how bright they are; as of :meth:`Task.look`."""
        import numpy

        from peft_nb.data.images.encoding import pixels
        from peft_nb.evaluation.features import pooled
        from peft_nb.models.load import body_of

        objective, inside = self._objective(facts), model.eval().get_base_model()
        body = inside.get_submodule(body_of(inside))

        def states(some: Sequence[Example]) -> torch.Tensor:
            seen: torch.Tensor = body(objective.inputs(some, model.device), **objective.options).last_hidden_state
            return seen

        with model.disable_adapter():
            vectors = pooled(states, examples)
        bright = numpy.array([pixels(one.signal).mean() / 255 for one in examples])
        return Look("image", vectors, "brightness", "of 1", bright)

    def predicted(
        self, model: PeftModel, tokenizer: Any, examples: Sequence[Example], facts: Facts
    ) -> pandas.DataFrame:
        """As of :meth:`Task.predicted`."""
        from peft_nb.evaluation.texts import logits

        found = logits(model.eval(), self._objective(facts), examples, model.device)
        shown = [f"image {place}" for place in range(len(examples))]
        return self.told_of(shown, probabilities(found, classes(facts)), facts)

    def inputs_shown(self, given: Sequence[Any]) -> list[Any]:
        """The paths of images, or their places, for the table of predictions."""
        return [str(one) if isinstance(one, str | Path) else f"image {place}" for place, one in enumerate(given)]

    def reference(
        self, model: PeftModel, tokenizer: Any, prompts: Sequence[Any], spec: RunSpec, facts: Facts, chat: bool
    ) -> list[Any]:
        """Let the model say what it says of images, and take that for what is right."""
        from dataclasses import replace

        found = self.outputs(model, tokenizer, prompts, facts)
        encoded = self._examples(prompts, facts)
        return [replace(one, labels=self.answer(row, facts)) for one, row in zip(encoded, found, strict=True)]

    def agreement(self, model: Any, other: Any, examples: Sequence[Any], facts: Facts) -> Agreement:
        """Measure how far a model says what another one says, per image."""
        from peft_nb.evaluation import agreement
        from peft_nb.evaluation.texts import logits

        objective = self._objective(facts)

        def says(model: Any, example: Any) -> torch.Tensor:
            return logits(model, objective, [example], model.device)[0]

        return agreement.agreement(model, other, examples, partial(self.compare, facts=facts), says)

    def _objective(self, facts: Facts, augment: str | None = None) -> ImageObjective:
        from peft_nb.training.image_objective import ImageObjective

        how = _prepare(facts), self.head_loss(facts), augment or "none"
        return ImageObjective(*how, interpolate=facts["interpolate"], metrics=self.head_metrics(facts))

    def _examples(self, given: Sequence[Any], facts: Facts) -> list[Example]:
        from peft_nb.data.images.encoding import example
        from peft_nb.data.images.picture import picture

        try:
            return [example(picture(one).open(), _prepare(facts), facts["patches"]) for one in given]
        except RowProblem as problem:
            raise RunError(f"an image {problem.reason}; {problem.fix}") from None

    # ---- files

    def beside(self, model: PeftModel, facts: Facts) -> list[Any]:
        """The configuration with the names of the classes, and how images are prepared."""
        return [*super().beside(model, facts), _prepare(facts)]

    def unmergeable(self, facts: Facts) -> str:
        """Every head is one of transformers'."""
        return ""

    def usage(
        self, base: str, spec: RunSpec, facts: Facts, tokenizer: Any, *, chat: bool, changes: Changes = UNCHANGED
    ) -> str:
        """Write the Python lines that ask a saved adapter about images."""
        lines = USAGE.replace("BASE", base).replace("LABELS", self.shown(facts))
        return (
            lines.replace("(**pixels)", "(**pixels, interpolate_pos_encoding=True)") if facts["interpolate"] else lines
        )

    def described(self, facts: Facts) -> Iterator[str]:
        """How many classes there are, and how large images are."""
        if names := facts.get("classes"):
            yield f"{len(names):,} classes" + (", several an image" if facts.get("multi_label") else "")
        if told := facts.get("prepare"):
            yield f"images of {told['height']} × {told['width']} pixels"


def _prepare(facts: Facts) -> Preprocess:
    from peft_nb.data.images.preprocess import Preprocess

    return Preprocess.from_dict(facts["prepare"])
