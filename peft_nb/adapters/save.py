"""Write an adapter as a plain PEFT folder: safetensors, config, model card, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file, save_file

from peft_nb.adapters.card import CardInput, card
from peft_nb.adapters.usage import usage
from peft_nb.models import ALIASES
from peft_nb.models.live import UNCHANGED, WEIGHTS, Changes, changes, plain_name
from peft_nb.models.load import LIVE
from peft_nb.models.resolve import HUB_NAME
from peft_nb.plots import confusion, loss_curve
from peft_nb.spec import RunSpec
from peft_nb.spec.paths import local, named
from peft_nb.store import Facts
from peft_nb.system.files import atomic_folder
from peft_nb.tasks import TASKS


def save(
    model: PeftModel,
    folder: Path,
    spec: RunSpec,
    facts: Facts,
    metrics: Mapping[str, Any],
    *,
    tokenizer: Any,
    history: Sequence[Mapping[str, Any]] = (),
    data: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write an adapter so that its folder appears whole or not at all.

    Parameters
    ----------
    model : PeftModel
        The model whose active adapter is written.
    folder : Path
        Where the folder shall appear.
    spec : RunSpec
        The run's settings, written beside the weights as ``spec.yaml`` and told in the model card, both with names in
        place of the paths of this machine.
    facts : Facts
        What it takes to open the run again.
    metrics : mapping
        What the run measured, for the card.
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's, for the card; written too where it is that of a live pair and not as the base's.
    history : sequence of mapping
        Rows with ``step``, ``loss`` and ``eval_loss``, drawn as ``curves.png``; without them there is no picture.
    data : mapping, optional
        What the check of the data told, for the card.
    tags : sequence of str
        Those of the run, for the card.
    overwrite : bool
        Whether a folder of the program's own is replaced.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    StoreError
        If the disk refuses; nothing half-written stays.
    """
    with atomic_folder(folder, overwrite=overwrite) as staging:
        model.save_pretrained(str(staging), save_embedding_layers=False)
        differs = _changes(model, tokenizer, facts)
        _bring(differs.weights, staging / WEIGHTS)
        if differs.tokenizer:
            tokenizer.save_pretrained(str(staging))
        for one in TASKS[spec.task].beside(model, facts.task):
            one.save_pretrained(str(staging))
        losses, eval_losses = (
            [(row["step"], row[name]) for row in history if row[name] is not None] for name in ("loss", "eval_loss")
        )
        if losses or eval_losses:
            (staging / "curves.png").write_bytes(loss_curve(losses, eval_losses, unit=TASKS[spec.task].loss_unit).png())
        illustrate(staging, facts, metrics)
        told = readme(model, spec, facts, metrics, tokenizer, data or {}, bool(losses or eval_losses), differs, tags)
        (staging / "README.md").write_text(told, encoding="utf-8")
        (staging / "spec.yaml").write_text(RunSpec(**named(spec.changed())).to_yaml(), encoding="utf-8")
    return Path(folder)


def illustrate(folder: Path, facts: Facts, metrics: Mapping[str, Any]) -> None:
    """Draw what was measured as pictures beside the model card: the confusion matrix, where there is one."""
    if counts := metrics.get("confusion"):
        (folder / "confusion.png").write_bytes(confusion(facts.task["classes"], counts).png())


def readme(
    model: PeftModel,
    spec: RunSpec,
    facts: Facts,
    metrics: Mapping[str, Any],
    tokenizer: Any,
    data: Mapping[str, Any],
    curves: bool,
    differs: Changes | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Write the model card of a live adapter; parameters as of :func:`save`, and whether there is a picture."""
    base = _base(model)
    differs = differs or _changes(model, tokenizer, facts)
    on_hub = HUB_NAME.fullmatch(base) and base not in ALIASES  # one that is told by its alias is on none
    found = base if on_hub else f"path/to/{local(base)}"
    lines = usage(found, spec, facts, tokenizer, differs)
    return card(CardInput(base, spec, facts, metrics, lines, data, curves, differs, tags))


def _base(model: PeftModel) -> str:
    return str(model.peft_config[model.active_adapter].base_model_name_or_path)


def _changes(model: PeftModel, tokenizer: Any, facts: Facts) -> Changes:
    """How the pair differs from the base that the adapter names; only a live one can."""
    return changes(model, tokenizer, _base(model)) if f" ({LIVE}) " in str(facts.base) else UNCHANGED


def _bring(weights: Mapping[str, Any], file: Path) -> None:
    """Add embeddings to a saved adapter under the names by which PEFT loads them, unless it has them whole already."""
    if not weights:
        return
    saved = load_file(file)
    for name, weight in weights.items():
        module = plain_name(name).rpartition(".")[0]
        if not any(one.shape == weight.shape and key.startswith(f"{module}.") for key, one in saved.items()):
            saved[name] = weight.detach().cpu().contiguous()
    save_file(saved, file, {"format": "pt"})
