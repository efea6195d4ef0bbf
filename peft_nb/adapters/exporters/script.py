"""A run as a script that needs PyTorch, transformers and PEFT alone, with its data beside it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.adapters.exporters.base import Exportable, Exporter, Side
from peft_nb.data import RowProblem
from peft_nb.data.examples import Example
from peft_nb.data.rendering import Renderer, prepare
from peft_nb.errors import RunError
from peft_nb.methods import REGISTRY
from peft_nb.models import ALIASES, bundled
from peft_nb.models.live import UNCHANGED, changes
from peft_nb.models.load import Base
from peft_nb.spec import METHODS
from peft_nb.system.files import atomic_folder
from peft_nb.tasks import TASKS
from peft_nb.training import optimizer
from peft_nb.training.hooks import Hooks

if TYPE_CHECKING:
    from peft_nb.spec import RunSpec

TEMPLATE = Path(__file__).with_name("train_template.py")
BEGIN, END = "# --- settings ---\n", "# --- end of settings ---\n"
# What PEFT writes into a config by itself.
WRITTEN = {"peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
HOOKS = ("begin", "penalty", "faster", "stepped", "end")  # those that change what is trained


def obstacle(run: Exportable) -> str:
    """Say why a run cannot be written as a script, in one line, or nothing."""
    spec = run.spec
    if why := TASKS[spec.task].script:
        return why
    able = ", ".join(name for name in METHODS if name in REGISTRY and _plain(type(spec)(data="a", method=name)))
    if not _plain(spec):
        return f"method: {spec.method} needs peft_nb while it trains; a script can train {able}"
    if (held := REGISTRY[spec.method].quantization(spec)) != "none":
        return f"quantization: a base in {held} is held by peft_nb's own means; a script can train with none"
    return ""


def _plain(spec: RunSpec) -> bool:
    """Whether PEFT alone trains a method."""
    method = REGISTRY[spec.method]
    hooks = type(method.hooks(spec))
    own = any(getattr(hooks, name) is not getattr(Hooks, name) for name in HOOKS)
    quantized = "none" not in method.quantizations
    return not own and not quantized and not getattr(method.config_class, "module", "peft").startswith("peft_nb.")


def write(run: Exportable, folder: Path) -> Path:
    """Write a folder with ``train.py``, ``train.jsonl`` and ``held_out.jsonl``.

    The tokenizer and the embeddings of a live pair are written too where they are not those of the base that it names,
    and the weights of the adapter that training starts from.

    A line of the data holds messages or a text where the script makes the run's tokens of it, which is tried with the
    script's own code, and token ids elsewhere.

    Parameters
    ----------
    run : Exportable
        A run to which :func:`obstacle` has no objection.
    folder : Path
        Where it shall appear.

    Returns
    -------
    Path
        The script.

    Raises
    ------
    RunError
        If no script could find the base, or make the method's config.
    StoreError
        If the disk refuses; nothing half-written stays.
    """
    start, spec = run.init_adapter(), run.spec
    base, train, evaluation = run.examples()
    from safetensors.torch import save_file

    from peft_nb.training.packing import plan

    (model, revision), model_config = _found_by(base), base.model.config
    differs = changes(base.model, base.tokenizer, os.path.expanduser(model)) if base.source.pair else UNCHANGED
    steps = len(plan(len(train.examples), spec.effective_batch_size, spec.seed, spec.epochs, spec.max_steps))
    config = REGISTRY[spec.method].config(spec, model_config, steps, TASKS[spec.task].peft_type)
    renderer, optim = Renderer(base.tokenizer), optimizer.named(spec.optim, base.device, base.quantization)
    plain = bool(train.layout and train.layout.plain)
    before, _, rest = TEMPLATE.read_text(encoding="utf-8").partition(BEGIN)
    settings = f"""\
MODEL, REVISION = {_literal(model)}, {_literal(revision)}
DTYPE, DEVICE = torch.{base.dtype}, {_literal(base.device)}
CONFIG: Any = {_call(config, REGISTRY[spec.method].fields.values())}

CHAT_TEMPLATE = {_literal(renderer.template)}{"" if renderer.template else "  # the tokenizer's own"}
ADD_BOS = {renderer.adds_bos and (plain or bool(renderer.template))}
END = {_literal(renderer.end_text)}  # ends every answer
LOSS_ON = {_literal(spec.loss_on)}
MAX_LENGTH = {spec.max_length}  # tokens

STEPS = {steps}
BATCH_SIZE, GRADIENT_ACCUMULATION_STEPS = {spec.batch_size}, {spec.gradient_accumulation_steps}
LEARNING_RATE = {spec.learning_rate}
LR_SCHEDULER_TYPE, WARMUP_STEPS = {_literal(spec.lr_scheduler_type)}, {spec.warmup(steps)}
OPTIM, WEIGHT_DECAY, MAX_GRAD_NORM = {_literal(optim)}, {spec.weight_decay}, {spec.max_grad_norm}
NEFTUNE_NOISE_ALPHA = {spec.neftune_noise_alpha}
GRADIENT_CHECKPOINTING = {spec.gradient_checkpointing}
SEED = {spec.seed}
{_differences(base.dtype, config.to_dict() | model_config.to_dict(), spec.neftune_noise_alpha)}"""
    source = f"{before}{BEGIN}{settings}{END}{rest.partition(END)[2]}"
    tried: dict[str, Any] = {"__name__": "exported", "__file__": str(TEMPLATE)}
    exec(compile(source, "train.py", "exec"), tried)  # defines functions, and trains nothing under this name
    if tried["CONFIG"].to_dict() != config.to_dict():
        raise RunError(f"method: the config of this {spec.method} cannot be written as code; save the adapter instead")
    with atomic_folder(folder) as staging:
        (staging / "train.py").write_text(source, encoding="utf-8")
        if differs.tokenizer:
            base.tokenizer.save_pretrained(staging / "tokenizer")
        if differs.weights:
            own = {name: weight.detach().cpu().contiguous() for name, weight in differs.weights.items()}
            save_file(own, staging / "embeddings.safetensors")
        if start:
            shutil.copyfile(start / "adapter_model.safetensors", staging / "init_adapter.safetensors")
        for name, side in (("train.jsonl", train), ("held_out.jsonl", evaluation)):
            with (staging / name).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in _lines(side, spec.system, renderer, tried["encode"]))
    return folder / "train.py"


def _found_by(base: Base) -> tuple[str, str | None]:
    """What ``from_pretrained`` finds the very weights of a base by: a name on the hub and its revision, or a folder."""
    source, alias = base.source, ALIASES.get(base.source.name)
    if source.repo:
        return source.repo, source.revision
    if alias and base.folder != bundled.where(alias):
        return alias.repo, alias.revision
    folder = str(base.folder or (source.pair[0].name_or_path if source.pair else ""))
    if not folder:
        raise RunError("the base was made in memory, where no script finds it; save it, and start a run on its folder")
    home = f"{Path.home()}{os.sep}"  # which names a user
    return folder.replace(home, f"~{os.sep}", 1) if folder.startswith(home) else folder, None


def _lines(side: Side, system: str | None, renderer: Renderer, encode: Any) -> Iterator[str]:
    for number, example in zip(side.examples.rows.tolist(), side.examples, strict=True):
        line = _said(side, number, system, renderer)
        wanted = example.ids.tolist(), list(map(bool, example.supervised))
        yield line if line and _gives(encode, line, renderer.tokenizer) == wanted else json.dumps(_written_out(example))


def _said(side: Side, number: int, system: str | None, renderer: Renderer) -> str:
    """What a row says as a line of JSON, or nothing where that cannot be told."""
    if side.rows is None or side.layout is None:
        return ""
    said: dict[str, Any]
    try:
        if side.layout.plain:
            said = {"text": side.layout.text(side.rows[number])}
        else:
            messages = prepare(side.layout.messages(side.rows[number]), system, generation=False)
            said = {"messages": list(map(renderer.closed, messages))}
        return json.dumps(said, ensure_ascii=False)
    except (RowProblem, TypeError):
        return ""


def _gives(encode: Any, line: str, tokenizer: Any) -> Any:
    """What the script makes of a line."""
    try:
        return encode(json.loads(line), tokenizer)
    except Exception:  # a template is somebody's program and can raise anything
        return None


def _written_out(example: Example) -> dict[str, Any]:
    spans, start = [], 0
    for on, places in groupby(example.supervised):
        stop = start + len(list(places))
        spans += [[start, stop]] if on else []
        start = stop
    return {"ids": example.ids.tolist(), "learned": spans}


def _differences(dtype: str, settings: Mapping[str, Any], noise: float | None) -> str:
    """What keeps a script from having exactly the losses of its run, as comments."""
    told = ""
    if dtype != "float32":
        told += f"# In {dtype} other batches round otherwise: losses differ from the run's in the third digit.\n"
    if any("drop" in name and isinstance(value, float) and value > 0 for name, value in settings.items()):
        told += "# In other batches dropout falls on other places: losses differ from the run's.\n"
    if noise:
        told += "# In other batches other noise falls on a token: losses differ from the run's.\n"
    return told


def _call(config: Any, told: Collection[str]) -> str:
    """Write what makes a config again: the fields in `told`, and those that are not as PEFT has them."""
    given = {
        one.name: value
        for one in dataclasses.fields(config)
        if one.init
        and one.name not in WRITTEN
        and ((value := getattr(config, one.name)) != _default(one) or one.name in told)
    }
    lines = "".join(f"    {name}={_literal(value)},\n" for name, value in given.items())
    return f"peft.{type(config).__name__}(\n{lines})"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _literal(value: Any) -> str:
    if isinstance(value, str):  # PEFT's words are of classes of their own
        return json.dumps(str.__str__(getattr(value, "value", value)), ensure_ascii=False)
    if isinstance(value, list | tuple | set):
        return f"[{', '.join(map(_literal, sorted(value) if isinstance(value, set) else value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(name)}: {_literal(one)}' for name, one in value.items())}}}"
    return repr(value)


EXPORTER = Exporter("script", "train.py, which needs PEFT alone, and its data", "-script", write, obstacle)
