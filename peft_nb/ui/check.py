"""``peft_nb.check`` and ``%peft data``: what is wrong with the data, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from peft_nb.data import detection, sources
from peft_nb.data.quality import checks
from peft_nb.data.quality.lengths import CHARACTERS_A_TOKEN, Options
from peft_nb.data.rendered import RenderedRows
from peft_nb.errors import ModelError
from peft_nb.events import Progress
from peft_nb.methods import REGISTRY
from peft_nb.models import ALIASES, bundled, hub
from peft_nb.models.quiet import first_line, quiet
from peft_nb.models.resolve import HUB_NAME, resolve
from peft_nb.spec import RunSpec
from peft_nb.system.frontend import variables
from peft_nb.tasks import TASKS, for_kind, proposed
from peft_nb.ui.arguments import described
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.report import Report
from peft_nb.ui.tokens import TokenView, of_row


def check(data: Any, *, eval_data: Any = None, model: Any = None, **fields: Any) -> Report:
    """Look for everything in a data set that spoils training, before it does.

    Parameters
    ----------
    data : str, DataFrame, list of dict, Dataset or DatasetDict
        Training rows, or their name.
    eval_data : optional
        Evaluation rows or their name; by default those that the data bring.
    model : str or tuple, optional
        Whose tokenizer measures the rows, if it is on this machine; nothing is downloaded.
    **fields
        Any field of :class:`peft_nb.RunSpec`, such as ``format``, ``columns``, ``max_length``, ``allow``, ``task``.

    Returns
    -------
    Report
        Shown by a notebook; ``report.fixed()`` fixes all but what is redacted, ``report.fixed(kinds=["personal"])``
        redacts, ``report.edits`` shows every fix before and after, ``report.tokens(row=0)`` a row as the model sees it.

    Raises
    ------
    PeftNbError
        What is wrong, in one line, when the data cannot be read or recognised.
    """
    spec, live = described(None, fields, data=data, eval_data=eval_data, model=model)
    return report_on(spec, **live, namespace=variables())


def report_on(
    spec: RunSpec,
    *,
    data: Any = None,
    eval_data: Any = None,
    model: Any = None,
    namespace: Mapping[str, Any],
    progress: Progress | None = None,
) -> Report:
    """Check the data of a spec; parameters as for :func:`peft_nb.runs.run.begin`, and live evaluation rows.

    Where `progress` is told how far it is, no bar is shown.
    """
    with nullcontext(progress) if progress else progress_bar() as progress:
        progress(0, "reading the data")
        source = sources.read(spec.data if data is None else data, namespace)
        layout = detection.detect(source.train, spec.format, spec.columns)
        spec = proposed(spec, layout)
        held, held_layout = source.eval, layout
        if eval_data is not None or spec.eval_data is not None:
            held = sources.read(spec.eval_data if eval_data is None else eval_data, namespace).train
        if held is not None:
            held_layout = detection.detect(held, spec.format, spec.columns)
        progress(0, "loading the tokenizer")
        tokenizer = _tokenizer(spec, model, namespace)

        def look(rows: checks.Table, progress: Progress | None = None) -> checks.Checked:
            rendered = tokenizer and RenderedRows(rows, layout, tokenizer, loss_on=spec.loss_on, system=spec.system)
            task = TASKS[spec.task]
            task = task if layout.kind in task.accepts else for_kind(layout.kind)  # who can read such rows
            checked = task.check(
                rows, layout, held, held_layout, rendered=rendered, options=options(spec), progress=progress
            )
            if tokenizer is None and checked.tokens and "image" not in layout.columns:
                where = f"the tokenizer of {spec.model} is not on this machine"
                checked.notes.append(f"lengths are estimated, {CHARACTERS_A_TOKEN} characters per token: {where}")
            return checked

        progress(0, "checking rows")
        checked = look(source.train, progress)
    held_by = namespace.get(spec.data) if data is None else data
    return Report(spec, source, checked, tokenizer, held_by, look)


def options(spec: RunSpec) -> Options:
    """What a check has to know of a spec."""
    return Options.of(spec, REGISTRY[spec.method].rows, TASKS[spec.task].accepts)


def tokens(spec: RunSpec, row: int, namespace: Mapping[str, Any]) -> TokenView:
    """Show one row of what a spec describes as the model sees it, without a check; see :meth:`Report.tokens`."""
    rows = sources.read(spec.data, namespace).train
    layout = detection.detect(rows, spec.format, spec.columns)
    return of_row(row, rows, layout, _tokenizer(spec, None, namespace), spec)


def _tokenizer(spec: RunSpec, model: Any, namespace: Mapping[str, Any]) -> Any:
    """Load the model's tokenizer if that takes no download; else None, as for a task that reads no texts."""
    if TASKS[spec.task].reader_class != "AutoTokenizer":
        return None
    held = namespace.get(spec.model) if model is None else model
    if held is not None and not isinstance(held, str | Path):
        pair = resolve(held).pair
        return pair[1] if pair else None
    alias, folder = ALIASES.get(spec.model), Path(spec.model).expanduser()
    if alias and bundled.where(alias).is_dir():
        folder = bundled.where(alias)
    elif alias or (HUB_NAME.fullmatch(spec.model) and not folder.is_dir()):
        folder = hub.on_disk(alias.repo if alias else spec.model, alias.revision if alias else spec.revision) or folder
    if not folder.is_dir():
        return None
    from transformers import AutoTokenizer

    with quiet():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises whatever it likes at files it cannot use
            why = first_line(error)
            raise ModelError(f"the tokenizer of {spec.model} cannot be loaded: {why}; name another model") from None
