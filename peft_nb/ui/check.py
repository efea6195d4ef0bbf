"""``peft_nb.check`` and ``%peft data``: what is wrong with the data, before anything is trained on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
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
from peft_nb.system import frontend
from peft_nb.ui.report import Report
from peft_nb.ui.tokens import TokenView, of_row
from peft_nb.ui.train import described, variables


def check(data: Any, *, eval_data: Any = None, model: Any = None, **fields: Any) -> Report:
    """Look for everything in a data set that spoils training, before it does.

    Parameters
    ----------
    data : str, DataFrame, list of dict, Dataset or DatasetDict
        Training rows, or their name.
    eval_data : optional
        Held-out rows or their name; by default those that the data bring.
    model : str or tuple, optional
        Whose tokenizer measures the rows, if it is on this machine; nothing is downloaded.
    **fields
        Any field of :class:`peft_nb.RunSpec`, such as ``format``, ``columns``, ``max_length``, ``loss_on``, ``task``.

    Returns
    -------
    Report
        Shown by a notebook; ``report.fixed()`` mends, ``report.tokens(row=0)`` shows a row as the model sees it.

    Raises
    ------
    PeftNbError
        What is wrong, in one line, when the data cannot be read or recognised.
    """
    spec, live = described(None, fields, data=data, eval_data=eval_data, model=model)
    return look(spec, **live, namespace=variables())


def look(
    spec: RunSpec,
    *,
    data: Any = None,
    eval_data: Any = None,
    model: Any = None,
    namespace: Mapping[str, Any],
    progress: Progress | None = None,
) -> Report:
    """Check what a spec describes; parameters as for :func:`peft_nb.run.begin`, and live held-out rows.

    Where `progress` is told how far it is, no bar is shown.
    """
    source = sources.read(spec.data if data is None else data, namespace)
    layout = detection.detect(source.train, spec.format, spec.columns)
    held, held_layout = source.eval, layout
    if eval_data is not None or spec.eval_data is not None:
        held = sources.read(spec.eval_data if eval_data is None else eval_data, namespace).train
    if held is not None:
        held_layout = detection.detect(held, spec.format, spec.columns)
    with nullcontext(progress) if progress else shown_progress() as progress:
        tokenizer = _tokenizer(spec, model, namespace)
        rendered = tokenizer and RenderedRows(source.train, layout, tokenizer, loss_on=spec.loss_on, system=spec.system)
        checked = checks.check(
            source.train, layout, held, held_layout, rendered=rendered, options=options(spec), progress=progress
        )
    if tokenizer is None:
        where = f"the tokenizer of {spec.model} is not on this machine"
        checked.notes.append(f"lengths are estimated, {CHARACTERS_A_TOKEN} characters a token: {where}")
    return Report(spec, source, checked, tokenizer, namespace.get(spec.data) if data is None else data)


def options(spec: RunSpec) -> Options:
    """What a check has to know of a spec."""
    return Options.of(spec, REGISTRY[spec.method].rows)


def tokens(spec: RunSpec, row: int, namespace: Mapping[str, Any]) -> TokenView:
    """Show one row of what a spec describes as the model sees it, without a check; see :meth:`Report.tokens`."""
    rows = sources.read(spec.data, namespace).train
    layout = detection.detect(rows, spec.format, spec.columns)
    return of_row(row, rows, layout, _tokenizer(spec, None, namespace), spec)


def _tokenizer(spec: RunSpec, model: Any, namespace: Mapping[str, Any]) -> Any:
    """Load the model's tokenizer if that takes no download; else None."""
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


@contextmanager
def shown_progress(delay: float = 2) -> Iterator[Progress | None]:
    """Show a bar while something takes longer than `delay` seconds, where a person looks on."""
    shown_in = frontend.frontend()
    if shown_in == "notebook-headless" or (shown_in == "terminal" and not sys.stderr.isatty()):
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=100, delay=delay, leave=False, bar_format="{desc} {percentage:3.0f}% {bar} {elapsed}") as bar:

        def show(share: float, what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update(round(100 * share) - bar.n)

        yield show
        show(1, "done")  # or a notebook keeps the bar as one that failed
