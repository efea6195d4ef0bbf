"""A style learned by LoRA on a pipeline that draws digits, measured by classifiers: style up, digits kept.

    pip install 'peft_nb[diffusion]'
    python benchmarks/style.py [STYLE ...] [--attention] [--base FOLDER] [--base-steps N] [--steps N] [--picture FILE]

No weights of a diffusion model can be had here, so a small one is trained first: a UNet without an autoencoder, from
random weights, on scikit-learn's digits of 8 × 8 pixels, whose prompts are the digits' names. An adapter then sees 120
digits from 0 to 7 in a style (inverted, slanted or outlined) under the same prompts, on all layers or, with
``--attention``, on those of attention alone, at three times the learning rate. 100 images are drawn with it and
without it, from the same seeds, through plain diffusers with ``load_lora_weights``; two classifiers, which were trained
on real digits in all styles, say which digit and which style they see. 8 and 9 were never seen in the style. With
``--base`` the trained pipeline is kept and found again; ``--picture`` keeps the first ten images of each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from scipy.ndimage import maximum_filter, shift
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz"
BATCH, RATE, EMPTY = 32, 2e-3, 0.1  # of the base; the share of its prompts that are empty, for guidance
SHOWN, DRAWN, UNSEEN = 120, 100, (8, 9)
STEPS, GUIDANCE, SEED = 20, 2.0, 0
LAYERS = r".*(to_([qkv]|out\.0)|(conv|proj)_(in|out)|conv([12]|_shortcut)?|net\.(0\.proj|2)|time_emb_proj|linear_.)"

Pixels = numpy.ndarray


def inverted(images: Pixels) -> Pixels:
    """Black on white."""
    return 1 - images


def slanted(images: Pixels) -> Pixels:
    """Each row a little further to the left than the one above."""
    moved = [shift(images[:, row], (0, (3.5 - row) * 0.55), order=1) for row in range(8)]
    return numpy.stack(moved, 1)


def outlined(images: Pixels) -> Pixels:
    """What lies around the strokes."""
    return (maximum_filter(images, (1, 3, 3)) - images).clip(0, 1)


STYLES: dict[str, Callable[[Pixels], Pixels]] = {"inverted": inverted, "slanted": slanted, "outlined": outlined}


def digits() -> tuple[Pixels, Pixels, Pixels, Pixels]:
    """Images from 0 to 1 and their digits, to train on and to test with."""
    found = load_digits()
    images, others, labels, truth = train_test_split(found.images / 16, found.target, test_size=0.25, random_state=SEED)
    return images, labels, others, truth


def classifiers(images: Pixels, labels: Pixels) -> tuple[SVC, SVC]:
    """What tells digits and what tells styles, in all styles."""
    seen = {"plain": images, **{name: style(images) for name, style in STYLES.items()}}
    flat = numpy.concatenate([one.reshape(len(one), -1) for one in seen.values()])
    names = numpy.repeat(list(seen), len(images))
    return SVC(C=10).fit(flat, numpy.tile(labels, len(seen))), SVC(C=10).fit(flat, names)


def pipeline() -> Any:
    """A pipeline of random weights, of about a million parameters."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokens = [*CHARACTERS, *(f"{one}</w>" for one in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    end = len(tokens) - 1
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    return diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer({token: id for id, token in enumerate(tokens)}, [], model_max_length=8),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            clip_sample=False,
            steps_offset=1,
            set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train_base(images: Pixels, labels: Pixels, steps: int) -> Any:
    """Teach a pipeline to draw digits by their names."""
    from diffusers import DDPMScheduler

    torch.manual_seed(SEED)
    pipe = pipeline()
    with torch.no_grad():
        hidden = pipe.encode_prompt([*NAMES, ""], "cpu", 1, False)[0]
    pixels = torch.tensor(images, dtype=torch.float32)[:, None] * 2 - 1
    noising = DDPMScheduler.from_config(pipe.scheduler.config)
    optimizer = torch.optim.AdamW(pipe.unet.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for step in range(steps):
        rows = torch.randint(len(pixels), (BATCH,))
        asked = torch.where(torch.rand(BATCH) < EMPTY, len(NAMES), torch.tensor(labels)[rows])
        noise, times = torch.randn(BATCH, 1, 8, 8), torch.randint(1000, (BATCH,))
        noisy = noising.add_noise(pixels[rows], noise, times)
        wanted = noising.get_velocity(pixels[rows], noise, times)
        loss = torch.nn.functional.mse_loss(pipe.unet(noisy, times, hidden[asked]).sample, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pipe.unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % 200 == 0:
            print(f"base: step {step + 1:,}, loss {loss.item():.3f}", flush=True)
    return pipe


def drawn(pipe: Any) -> tuple[Pixels, Pixels]:
    """Draw each digit as often, from the same seeds each time; images from 0 to 1, and what was asked for."""
    asked, images = numpy.arange(DRAWN) % len(NAMES), []
    pipe.set_progress_bar_config(disable=True)
    for start in range(0, DRAWN, 50):
        noise = [torch.Generator().manual_seed(start + place) for place in range(50)]
        prompts = [NAMES[one] for one in asked[start : start + 50]]
        how = {"height": 64, "width": 64, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        images.append(pipe(prompts, generator=noise, output_type="latent", **how).images[:, 0])
    return (torch.cat(images) / 2 + 0.5).clamp(0, 1).numpy(), asked


def style_adapter(
    base: Path, style: str, images: Pixels, labels: Pixels, steps: int, attention: bool, scratch: Path
) -> Any:
    """A run of peft_nb on some digits in a style."""
    from peft_nb.runs.run import begin
    from peft_nb.spec import RunSpec
    from peft_nb.store import Store

    some = numpy.flatnonzero(~numpy.isin(labels, UNSEEN))[:SHOWN]
    shown = (STYLES[style](images[some]) * 255).round().astype("uint8")
    rows = [
        {"image": Image.fromarray(one), "text": NAMES[label]} for one, label in zip(shown, labels[some], strict=True)
    ]
    spec = RunSpec(
        data="rows",
        task="text-to-image",
        model=str(base),
        method="lora",
        r=16,
        max_steps=steps,
        batch_size=16,
        learning_rate=3e-3 if attention else 1e-3,
        target_modules=None if attention else LAYERS,
        eval_steps=steps,
        sample_prompts=list(NAMES[:4]),
        guidance_scale=GUIDANCE,
        dtype="float32",
        seed=SEED,
    )
    return begin(spec, namespace={"rows": rows}, store=Store(scratch)).wait()


def picture(rows: list[Pixels], file: Path) -> None:
    """Keep the first image of each digit, a row for each pipeline, large enough to be seen."""
    shown = [numpy.pad(one[: len(NAMES)], ((0, 0), (1, 1), (1, 1)), constant_values=0.5) for one in rows]
    whole = numpy.concatenate([numpy.concatenate([*one], 1) for one in shown])
    image = Image.fromarray((whole * 255).round().astype("uint8"))
    image.resize((image.width * 5, image.height * 5), Image.Resampling.NEAREST).save(file, optimize=True)


def main() -> None:
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("styles", nargs="*", default=list(STYLES))
    parser.add_argument("--attention", action="store_true")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--base-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    images, labels, others, truth = digits()
    digit, style_of = classifiers(images, labels)
    with tempfile.TemporaryDirectory() as folder:
        base, start = given.base or Path(folder) / "base", time.perf_counter()
        if not (base / "model_index.json").is_file():
            train_base(images, labels, given.base_steps).save_pretrained(base)
            print(f"base trained in {time.perf_counter() - start:.0f} s", flush=True)
        print(f"{'':22}style    digit    unseen: style  digit  seconds", flush=True)

        def told(name: str, found: Pixels, asked: Pixels, style: str, seconds: float = 0.0) -> None:
            flat, rare = found.reshape(len(found), -1), numpy.isin(asked, UNSEEN)
            of, right = style_of.predict(flat) == style, digit.predict(flat) == asked
            print(
                f"{name:<22}{of.mean():>5.1%}   {right.mean():>6.1%}   {of[rare].mean():>13.1%} "
                f"{right[rare].mean():>6.1%}  {seconds:>7.1f}",
                flush=True,
            )

        bare = drawn(DiffusionPipeline.from_pretrained(base, vae=None, local_files_only=True))
        told("base, plain", *bare, "plain")
        drawings = [bare[0]]
        for style in given.styles:
            told(f"real digits, {style}", STYLES[style](others), truth, style)
            told(f"base, {style}", *bare, style)
            run = style_adapter(base, style, images, labels, given.steps, given.attention, Path(folder) / "runs")
            pipe = DiffusionPipeline.from_pretrained(base, vae=None, local_files_only=True)
            pipe.load_lora_weights(run.adapter_dir)
            drawings.append((found := drawn(pipe))[0])
            told(f"adapter, {style}", *found, style, run.metrics["train_seconds"])
    if given.picture:
        picture(drawings, given.picture)


if __name__ == "__main__":
    main()
