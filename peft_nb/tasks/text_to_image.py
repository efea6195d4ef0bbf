"""Text to image: the denoiser of a diffusers pipeline learns a style, or a thing, from captioned images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data.prompts import Asked
from peft_nb.errors import DataError, ModelError
from peft_nb.events import Sampled
from peft_nb.models.live import UNCHANGED, Changes
from peft_nb.tasks.base import Facts, Rows, Task

if TYPE_CHECKING:
    import pandas
    import torch
    from peft import PeftModel
    from PIL.Image import Image
    from transformers import PreTrainedModel

    from peft_nb.data.examples import Encoded, Example
    from peft_nb.data.images.preprocess import Preprocess
    from peft_nb.data.layouts import Layout
    from peft_nb.data.quality.checks import Checked
    from peft_nb.data.rendered import RenderedRows
    from peft_nb.evaluation.evaluators import Evaluator
    from peft_nb.events import Progress
    from peft_nb.models.load import Base
    from peft_nb.spec import RunSpec
    from peft_nb.training.diffusion_objective import DiffusionObjective

WATCHED = 4  # prompts whose images are shown while they change
STEPS = 20  # of the scheduler
SHOWN = 64  # pixels of the side of an image that is shown, at least
AT_ONCE = 4  # images drawn together
CLASS_IMAGES = 100  # as in diffusers' own script for DreamBooth
NAMED = ("vae", "text_encoder", "tokenizer")  # parts of a pipeline that it does not load without, unless it is told

USAGE = """
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(BASE)
pipe.load_lora_weights("path/to/this/folder")
image = pipe(PROMPT, height=SIZE, width=SIZE, generator=torch.Generator().manual_seed(0)).images[0]
image.save("image.png")
"""
LATENTS = """
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(BASE)
pipe.load_lora_weights("path/to/this/folder")
generator = torch.Generator().manual_seed(0)
drawn = pipe(PROMPT, height=SIZE, width=SIZE, generator=generator, output_type="latent").images[0]
pixels = (drawn / 2 + 0.5).clamp(0, 1)  # there is no autoencoder: the latents are the image
"""


class TextToImage(Task):
    """To draw images as a set of images has them.

    The facts hold ``prepare``, how an image is resized, ``cost``, what one costs, ``samples``, what is drawn and how,
    ``absent``, the parts that the pipeline has none of, and ``class_images``, where those are that the base drew.
    """

    name = "text-to-image"
    help = "to draw images in a style, or of a thing, that a set of images shows"
    source = "Rombach et al., 2022, arXiv:2112.10752; Ruiz et al., 2022, arXiv:2208.12242"
    accepts = ("captioned", "image")
    wants = "say which columns hold images and texts, format: image_text and columns: {image: …, text: …}"
    unit = "image"
    loss_unit = "MSE"
    counted_in = "patches"
    tokenwise = False
    generates = False
    learned = "to draw images"
    instead = "draws images and writes no texts; call predict() on it with prompts"
    pipeline_tag = "text-to-image"
    auto_class = "DiffusionPipeline"
    reader_class = ""  # prompts are read by the pipeline
    peft_type = ""  # PEFT has no name for it, and calls the model as it is
    base = "diffusion"
    target_modules = (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("q_proj", "k_proj", "v_proj", "out_proj"),  # of text encoders, which are out of reach unless they are trained
    )
    draws = True
    unused: Mapping[str, str] = {
        **dict.fromkeys(("score", "regression"), "images are shown, and not scored"),
        **dict.fromkeys(("system", "neftune_noise_alpha"), "no text is learned"),
    }
    options: Mapping[str, Any] = {
        "image_size": None,
        "prompt": None,
        "class_data": None,
        "class_prompt": None,
        "class_images": CLASS_IMAGES,
        "prior_loss_weight": 1.0,
        "snr_gamma": None,
        "train_text_encoder": False,
        "sample_prompts": None,
        "num_inference_steps": STEPS,
        "guidance_scale": None,
    }
    rate = 0.5
    script = "task: a script is written for generation alone; as adapter and as yaml serve text-to-image too"

    def problems(self, spec: RunSpec) -> list[str]:
        """What is wrong with its options; as of :meth:`Task.problems`."""
        found = []
        if spec.torch_compile:
            found.append("torch_compile: not tried with pipelines of diffusers; turn it off")
        if "model" not in spec.model_fields_set:
            such = "a folder or one on the hub, such as stable-diffusion-v1-5/stable-diffusion-v1-5"
            found.append(f"model: name a pipeline as diffusers saves it, {such}")
        if spec.class_prompt is None:
            given: dict[str, Any] = {"class_data": spec.class_data, "class_images": spec.class_images}
            given["prior_loss_weight"] = None if spec.prior_loss_weight == 1.0 else spec.prior_loss_weight
            such = "what the images of the class show, such as a photo of a dog"
            found += [f"{name}: needs class_prompt, {such}" for name, value in given.items() if value is not None]
        elif spec.class_data is not None and spec.class_images is not None:
            found.append("class_images: class_data has images of the class, and none are drawn; leave one of them out")
        return found

    # ---- rows

    def validate(self, layout: Layout, spec: RunSpec) -> None:
        """Refuse rows without images, or of which nothing says what they show; as of :meth:`Task.validate`."""
        from peft_nb.data.images.captioned import LABEL, of_class

        super().validate(layout, spec)
        labelled, asks = layout.kind == "image", LABEL in (spec.prompt or "")
        if asks and not labelled:
            raise DataError(f"prompt: there is no column of labels to take the place of {LABEL}; {layout.why}")
        if spec.prompt is None and "text" not in layout.columns:
            such = f"a photo of {LABEL}" if labelled else "a photo of sks dog"
            fix = f"add a column text, or set prompt: {such}"
            raise DataError(f"{layout.why}: nothing says what the images show; {fix}")
        if spec.class_data is not None:
            of_class(spec.class_data)

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
        """Note how images are prepared for the base, what one costs, and what is drawn how."""
        from peft_nb.training.diffusion_objective import flows

        model = base.model
        prepare = base.tokenizer.at(spec.image_size)
        patch = 2 * model.shrinks
        if prepare.height % patch:
            raise ModelError(f"image_size: {prepare.height} is no multiple of {patch}, as {spec.model} needs it")
        if spec.snr_gamma is not None and flows(model.pipeline.scheduler.config):
            raise ModelError(f"snr_gamma: {spec.model} is a flow, whose times are not weighed so; leave it out")
        facts["prepare"] = prepare.to_dict()
        facts["cost"] = (prepare.height // patch) * (prepare.width // patch)
        parts = model.pipeline.components.items()
        facts["absent"] = sorted(name for name, part in parts if part is None and name.startswith(NAMED))
        facts["trains_text"] = bool(spec.train_text_encoder)
        how = {"steps": spec.num_inference_steps or STEPS, "guidance": spec.guidance_scale, "seed": spec.seed}
        facts["samples"] = {"prompts": spec.sample_prompts, **how}

    def supply(self, base: Base, spec: RunSpec, facts: Facts, progress: Progress) -> None:
        """Let the base draw images of the class where none are given; as of :meth:`Task.supply`."""
        from peft_nb.models.class_images import class_images

        if spec.class_prompt is not None and spec.class_data is None:
            how, size = facts["samples"], facts["prepare"]["height"]
            settings = {"size": size, "steps": how["steps"], "guidance": how["guidance"], "seed": how["seed"]}
            count = spec.class_images or CLASS_IMAGES
            found = class_images(base, spec.class_prompt, count, **settings, progress=progress)
            facts["class_images"] = str(found)

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
        """Decode and resize each image once, with its caption; as of :meth:`Task.encode`."""
        from peft_nb.data.images import captioned

        rows, layout = rendered.rows, rendered.layout
        how: dict[str, Any] = {"cost": facts["cost"], "prompt": spec.prompt, "row_name": row_name, "progress": progress}
        how["class_data"] = self._of_class(rendered, spec, facts) if row_name == "row" else None
        if cache is None:
            return "", captioned.encode(rows, layout, _prepare(facts), **how)
        return captioned.cached(cache, fingerprint, rows, layout, _prepare(facts), **how)

    def _of_class(self, rendered: RenderedRows, spec: RunSpec, facts: Facts) -> Any:
        """Where images of the class are; an estimate, which draws none, takes the rows' own in their place."""
        if spec.class_prompt is None or spec.class_data is not None or "class_images" in facts:
            return spec.class_data or facts.get("class_images")
        from peft_nb.data.images.encoding import content

        own = [content(rendered.layout, row) for row in rendered.rows]
        return [own[number % len(own)] for number in range(spec.class_images or CLASS_IMAGES)]

    def prompts(self, rows: Rows, layout: Layout, numbers: Sequence[int], facts: Facts) -> list[Asked]:
        """Choose a few texts of images."""
        from peft_nb.data.prompts import spread

        if layout.kind != "captioned":
            return []
        told = (layout.caption(rows[number]) for number in spread(numbers))
        return [Asked(text) for text in dict.fromkeys(filter(None, told))]

    # ---- model and loss

    def build(self, base: Base, facts: Facts) -> tuple[PreTrainedModel, list[str]]:
        """Share the pipeline; as of :meth:`Task.build`."""
        from peft_nb.models.share import share

        model = share(base.model)
        if facts.get("trains_text"):
            model.train_text_encoders()
        return model, []

    def require(self, config: Any, method: str) -> None:
        """Refuse what diffusers does not load; as of :meth:`Task.require`."""
        from peft_nb.models import diffusion_lora

        diffusion_lora.require(config, method)

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
    ) -> DiffusionObjective:
        """As of :meth:`Task.objective`."""
        return self.foreseen(model, pad_id, spec, facts, supported=supported)

    def foreseen(
        self, model: PeftModel, pad_id: int, spec: RunSpec, facts: Facts, *, supported: bool
    ) -> DiffusionObjective:
        """As of :meth:`Task.foreseen`."""
        from peft_nb.training.diffusion_objective import DiffusionObjective, Noise

        self.require(model.peft_config["default"], spec.method)
        noise = Noise(model.get_base_model().pipeline.scheduler.config, spec.snr_gamma)
        weight = 1.0 if spec.prior_loss_weight is None else spec.prior_loss_weight
        return DiffusionObjective(noise, spec.class_prompt or "", weight, facts["trains_text"])

    # ---- the trained model

    def watched(
        self, model: PeftModel, tokenizer: Any, objective: Any, examples: Sequence[Example], step: int, facts: Facts
    ) -> Iterator[Sampled]:
        """What the model draws to a few prompts, from the same seeds each time; as of :meth:`Task.watched`."""
        from peft_nb.data.images.captioned import parts
        from peft_nb.data.prompts import spread

        own = [examples[place] for place in spread(range(len(examples)), 4 * WATCHED)]
        prompts = facts["samples"]["prompts"] or list(dict.fromkeys(parts(one.signal).caption for one in own))
        prompts = prompts[:WATCHED]
        for prompt, image in zip(prompts, self._drawn(model, prompts, facts), strict=True):
            yield Sampled(step, prompt, "", "", image=_small(image))

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained denoiser."""
        from peft_nb.evaluation.drawing import DrawingEvaluator

        return DrawingEvaluator

    def predict(self, model: PeftModel, tokenizer: Any, texts: Sequence[str], facts: Facts) -> pandas.DataFrame:
        """Draw an image to each prompt: columns ``prompt`` and ``image``, a PIL image."""
        import pandas

        images = self._drawn(model, texts, facts)
        return pandas.DataFrame({"prompt": list(texts), "image": pandas.Series(images, dtype=object)})

    def said(self, predicted: pandas.DataFrame) -> list[str]:
        """The images as small data URIs."""
        return list(map(_small, predicted["image"]))

    def _drawn(self, model: PeftModel, prompts: Sequence[str], facts: Facts) -> list[Image]:
        """An image to each prompt; the seed of each is that of the run plus its place."""
        from PIL import Image

        base, how, size = model.get_base_model(), facts["samples"], facts["prepare"]["height"]
        images: list[Image.Image] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = prompts[start : start + AT_ONCE]
            seeds = [how["seed"] + start + place for place in range(len(some))]
            images += map(Image.fromarray, base.drawn(some, seeds, size, how["steps"], how["guidance"]).numpy())
        return images

    # ---- files

    def beside(self, model: PeftModel, facts: Facts) -> list[Any]:
        """The adapter as diffusers keeps it."""
        from peft_nb.models.diffusion_lora import LoraFile

        return [LoraFile(model)]

    def unmergeable(self, facts: Facts) -> str:
        """Pipelines merge by themselves."""
        return "diffusers merges it: pipe.load_lora_weights(…), pipe.fuse_lora(), pipe.save_pretrained(…)"

    def usage(
        self, base: str, spec: RunSpec, facts: Facts, tokenizer: Any, *, chat: bool, changes: Changes = UNCHANGED
    ) -> str:
        """Write the Python lines that draw with a saved adapter."""
        from peft_nb.models.diffusion import LATENT_SHARE

        prompts = facts["samples"]["prompts"] or [spec.prompt or "what the image shall show"]
        bare = "vae" in facts["absent"]
        size = facts["prepare"]["height"] * (LATENT_SHARE if bare else 1)
        named = ", ".join([base, *(f"{part}=None" for part in facts["absent"])])
        lines = LATENTS if bare else USAGE
        return lines.replace("BASE", named).replace("PROMPT", repr(prompts[0])).replace("SIZE", str(size))

    def described(self, facts: Facts) -> Iterator[str]:
        """How large images are, and what is adapted."""
        if told := facts.get("prepare"):
            yield f"images of {told['height']} × {told['width']} pixels"
        if facts.get("trains_text"):
            yield "the text encoders are adapted too"


def _small(image: Image) -> str:
    """An image as a data URI, made larger where nobody could see it."""
    from peft_nb.data.images.thumbnail import thumbnail

    if (times := -(-SHOWN // max(image.size))) > 1:
        image = image.resize((image.width * times, image.height * times), 0)
    return thumbnail(image)


def _prepare(facts: Facts) -> Preprocess:
    from peft_nb.data.images.preprocess import Preprocess

    return Preprocess.from_dict(facts["prepare"])
