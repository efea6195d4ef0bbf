"""A run as vLLM loads it: a PEFT folder with a LoRA of one rank and one scale, and the lines that serve it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.adapters.card import fenced
from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter, Live
from peft_nb.adapters.exporters.peft_folder import draft
from peft_nb.adapters.exporters.vllm_proof import proof
from peft_nb.errors import MergeError, RunError
from peft_nb.methods import REGISTRY
from peft_nb.methods.config_source import ConfigClass
from peft_nb.models.resolve import HUB_NAME
from peft_nb.spec.paths import local
from peft_nb.system.resources import MB
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    from peft_nb.spec import RunSpec

# What --max-lora-rank takes: MaxLoRARanks in vllm/config/lora.py, as read in vLLM 0.30.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Fields of a LoraConfig that PEFTHelper in vllm/lora/peft_helper.py refuses, or that vLLM would leave out in silence.
REFUSED = (
    "alora_invocation_tokens",
    "arrow_config",
    "bias",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
BEGINNINGS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")  # those that leave the base's weights as they are
BOUND = 0.001  # nats per token; the weights are the same, so that only their rounding can differ
CHAT_TEMPLATE = "chat_template.jinja"
ENDS = "generation_config.json"  # written where the base does not know what ends an answer; read by peft_nb serve
MERGED = "--as merged writes a plain model, which vLLM serves too"


def obstacle(spec: RunSpec) -> str:
    """Say why vLLM cannot load the adapter of a run with some settings, in one line, or nothing."""
    method = REGISTRY[spec.method]
    if not TASKS[spec.task].generates:
        return f"task: {spec.task} trains a head, which vLLM takes with no adapter; {MERGED}"
    if not is_lora(spec):
        from peft_nb.adapters.to_lora import convertible

        also = "--as lora converts it, and " if convertible(method) else ""
        merged = MERGED if method.mergeable else "train with one of them, such as lora or rslora"
        return f"method: {spec.method} is no LoRA, and vLLM loads no other adapters; {also}{merged}"
    options = {**method.options, **spec.method_options}
    if held := [name for name in REFUSED if options.get(name) not in (None, False, "none", (), [], {})]:
        return f"vLLM loads no adapter with {held[0]}; {MERGED}"
    begins = options.get("init_lora_weights", True)
    if isinstance(begins, str) and begins not in BEGINNINGS:
        return f"init_lora_weights: {begins} changed the base's weights, which vLLM has as they were; {MERGED}"
    return ""


def is_lora(spec: RunSpec) -> bool:
    """Whether a spec's method trains PEFT's LoRA or a variant of it."""
    kind = REGISTRY[spec.method].config_class
    return isinstance(kind, ConfigClass) and kind.name == "LoraConfig"


def write(run: Exportable, folder: Path) -> Exported:
    """Write a PEFT folder that vLLM loads, once plain PEFT is shown to do with it what the run does.

    Parameters
    ----------
    run : Exportable
        A run to which :func:`obstacle` has no objection.
    folder : Path
        Where it shall appear.

    Returns
    -------
    Exported
        With the lines that serve and ask it, and how near it is to the run.

    Raises
    ------
    MergeError
        If it differs from the run; nothing is kept.
    RunError
        If the adapter holds more than low-rank updates, or its rank is more than vLLM takes.
    StoreError
        If the disk refuses; nothing half-written stays.
    """
    from peft.tuners.lora import LoraLayer

    from peft_nb.adapters.read_back import table
    from peft_nb.adapters.uniform import unify

    with draft(run, folder) as made:
        live, staging = made.live, made.folder
        adapter = live.model.active_adapter
        scales = {
            name: layer.scaling[adapter]
            for name, layer in live.model.named_modules()
            if isinstance(layer, LoraLayer) and adapter in layer.scaling
        }
        config = unify(staging, scales)
        base = str(config["base_model_name_or_path"])
        lines = lines_for(run, live, staging, config["r"], base, str(folder.resolve()))
        candidate, saved = made.read_back()
        near = made.near(candidate, saved)
        found = table({"read back by PEFT": near})
        if near.kl > BOUND:
            told = f"what was written differs from the run by {near.kl:.3g} nats per token, so nothing is kept"
            raise MergeError(f"{told}; {MERGED}", found.to_string(index=False))
        named = base if HUB_NAME.fullmatch(base) else f"path/to/{local(base)}"
        shown = "\n".join(lines_for(run, live, staging, config["r"], named, "path/to/this/folder"))
        rank = next(one for one in RANKS if one >= config["r"])
        ran = proof(base, staging, rank, saved, live.prompts)
        note = f"Read back by PEFT, its KL divergence from the run is {near.kl:.2g} nats per token; {ran}."
        made.add("In vLLM", f"{fenced('sh', shown)}\n\n{note}")
        size = sum(file.stat().st_size for file in staging.iterdir()) / MB
    told = (
        f"{run.id} is exported to {folder}: LoRA of rank {config['r']}, {size:,.1f} MB; read back by PEFT in float32, "
        f"its KL divergence from the run is {near.kl:.2g} nats per token on {live.compared_on}; {ran}"
    )
    return Exported(folder, "\n".join([told, *lines]), found)


def lines_for(run: Exportable, live: Live, folder: Path, r: int, base: str, place: str) -> list[str]:
    """The shell's lines that serve and ask a written adapter, after comments where its base is not what it was.

    Parameters
    ----------
    run, live
        The run.
    folder : Path
        Where the adapter is now; it gets the chat template if the base has none, and what ends an answer likewise.
    r : int
        The adapter's rank.
    base, place : str
        What vLLM finds the base and the adapter by.

    Returns
    -------
    list of str
        The last is a call of curl, the one before starts the server.

    Raises
    ------
    RunError
        If the rank is more than vLLM takes.
    """
    from peft_nb.data.rendering import Renderer

    spec, renderer = run.spec, Renderer(live.tokenizer)
    name = spec.name or run.id
    if r > RANKS[-1]:
        raise RunError(f"its rank is {r}, and vLLM takes {RANKS[-1]} at most; {MERGED}")
    words = ["vllm", "serve", base, "--enable-lora", "--lora-modules", f"{name}={place}"]
    words += ["--max-lora-rank", str(next(one for one in RANKS if one >= r))]
    if (folder / "tokenizer_config.json").exists():
        words += ["--tokenizer", place]
    elif renderer.template and live.facts.chat:
        (folder / CHAT_TEMPLATE).write_text(renderer.template, encoding="utf-8")
        words += ["--chat-template", f"{place}/{CHAT_TEMPLATE}"]
    notes = []
    held = REGISTRY[spec.method].quantization(spec)
    if held == "4bit":
        words += ["--quantization", "bitsandbytes"]
    elif held != "none":
        notes.append(f"# its base was held in {held} while it was trained; vLLM holds it in its own dtype")
    if "(bundled)" in str(live.facts.base):
        notes.append("# it was trained on the packaged copy of its base, whose weights are rounded; vLLM loads others")
    asked: dict[str, Any] = {"model": name}
    if live.facts.chat:
        system = [{"role": "system", "content": spec.system}] if spec.system else []
        asked["messages"] = [*system, {"role": "user", "content": "What can you do?"}]
    else:
        asked["prompt"] = "What can you do?"
    ends = getattr(live.model.generation_config, "eos_token_id", None)
    if renderer.end not in {live.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}:
        asked["stop_token_ids"] = [renderer.end]
        (folder / ENDS).write_text(json.dumps({"eos_token_id": renderer.end}), encoding="utf-8")
    asked |= {"max_tokens": 128, "temperature": 0}
    path = "chat/completions" if live.facts.chat else "completions"
    curl = ["curl", f"http://127.0.0.1:8000/v1/{path}", "-H", "Content-Type: application/json"]
    return [*notes, shlex.join(words), shlex.join([*curl, "-d", json.dumps(asked, ensure_ascii=False)])]


EXPORTER = Exporter(
    "vllm",
    "a PEFT folder as vLLM loads it, with the line that serves it",
    "-vllm",
    write,
    lambda run: obstacle(run.spec),
)
