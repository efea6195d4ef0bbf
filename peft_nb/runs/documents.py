"""The documents of a run: its index found, put before the questions of its rows, and before those of its users."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import splits
from peft_nb.data.prompts import Prompt
from peft_nb.data.quality import pii
from peft_nb.data.table import Table
from peft_nb.documents import raft
from peft_nb.documents.passages import Passage, retrieve
from peft_nb.errors import DataError, SpecError
from peft_nb.events import Notice
from peft_nb.runs.context import Context
from peft_nb.spec import RunSpec
from peft_nb.store import Facts

if TYPE_CHECKING:
    from peft_nb.documents.retriever import Retriever

FEW = 4  # documents of a run that learned with none
ORDERS = 4  # of the documents of a row, one an epoch; then the first comes again


def find(spec: RunSpec, namespace: Mapping[str, Any], store: Path, facts: Facts | None = None) -> Retriever:
    """Open the index of a run.

    Parameters
    ----------
    spec : RunSpec
        Names it.
    namespace : mapping
        The notebook's variables, where the name is looked up first.
    store : Path
        The folder of the store.
    facts : Facts, optional
        The run's, which know what a variable stood for.

    Returns
    -------
    Retriever
        Its encoder is loaded when it first searches.

    Raises
    ------
    SpecError
        If the index is in another store.
    StoreError
        If there is no such index.
    """
    from peft_nb.documents.retriever import Retriever, folder_of

    assert spec.documents
    found = getattr(namespace.get(spec.documents), "retriever", None)
    known = (facts and facts.documents) or {}
    if not isinstance(found, Retriever):
        return Retriever(folder_of(known.get("index", spec.documents), store), namespace)
    if found.folder.resolve() != folder_of(found.folder.name, store).resolve():
        fix = f"build it in that of the run, {store}, with peft_nb.index(…, store=…)"
        raise SpecError([f"documents: the index {spec.documents} is in another store, {found.folder}; {fix}"])
    return found


def described(spec: RunSpec, table: Table, namespace: Mapping[str, Any], store: Path) -> dict[str, str]:
    """Find what is wrong with the documents of a run before anything is loaded, and say which index it is.

    Raises
    ------
    DataError, SpecError, StoreError
        The rows are no conversations, the column of golden chunks is missing, or there is no such index.
    """
    for layout in (table.layout, table.eval_layout):
        raft.refuse(layout)
    if spec.golden and not any(spec.golden in row for row in table.rows[:1]):
        fix = f"; there are {', '.join(map(str, table.rows[0]))}" if len(table.rows) else ""
        raise DataError(f"golden: no column is named {spec.golden!r}{fix}")
    found = find(spec, namespace, store)
    return {"index": found.folder.name, "fingerprint": found.fingerprint}


def put(context: Context, table: Table) -> Table:
    """Put documents before the questions of all rows: for training as RAFT does, for evaluation as for users.

    Parameters
    ----------
    context : Context
        The run; how often documents were found goes into its metrics.
    table : Table
        Its rows, redacted.

    Returns
    -------
    Table
        With an evaluation set of its own, ``bare`` without the documents; the same where the run has none.

    Raises
    ------
    DataError, StoreError
        When rows or the index cannot be used.
    """
    spec = context.spec
    if not spec.documents:
        return table
    retriever = find(spec, context.inputs.namespace, context.folder.parents[1], context.facts)
    bare = _named(_parted(context, table), spec)
    how: dict[str, Any] = {"clean": _cleaner(context, retriever), "progress": context.progress}
    options = {name: getattr(spec, name) for name in ("distractors", "golden_fraction", "seed")}
    epochs = (
        spec.epochs if spec.max_steps is None else spec.max_steps * spec.effective_batch_size / max(1, len(bare.rows))
    )
    options["orders"] = min(ORDERS, max(1, math.ceil(epochs)))
    train = raft.for_training(retriever, bare.rows, bare.layout, **options, **how)
    settings = f"documents {retriever.fingerprint} {spec.golden} {spec.personal_data} {spec.allow} {options}"
    laid: dict[str, Any] = {"rows": train.rows, "layout": train.layout, "again": train.again}
    found = replace(bare, **laid, bare=bare, fingerprint=f"{bare.fingerprint}, {settings}")
    _tell(context, retriever, train)
    if bare.eval_rows is not None:
        k = spec.distractors + 1
        evaluation = raft.for_evaluation(retriever, bare.eval_rows, bare.eval_layout, k=k, **how)
        found = replace(found, eval_rows=evaluation.rows, eval_layout=evaluation.layout)
        found = replace(found, eval_fingerprint=f"{bare.eval_fingerprint}, {settings}")
        if (recall := evaluation.recall) is not None:
            context.metrics["recall_at_k"] = recall
            told = f"the golden chunk is among the {k} found by the question in {recall:.0%} of the evaluation rows"
            context.publish(Notice(f"documents: {told}"))
    return found


def _parted(context: Context, table: Table) -> Table:
    """Set evaluation rows aside first: they get other documents than training rows do."""
    spec = context.spec
    if table.eval_rows is not None or not spec.eval_fraction:
        return table
    texts = splits.Texts(table.rows, table.layout, range(len(table.rows)))
    how = spec.eval_fraction, spec.seed, None, context.progress, context.task.groups
    train, aside = splits.split(texts, *how)
    if not aside:
        return table
    part = f", {spec.eval_fraction} set aside by seed {spec.seed}"
    fingerprints = dict.fromkeys(("fingerprint", "eval_fingerprint"), f"{table.fingerprint}{part}")
    rows = {"rows": splits.chosen(table.rows, train), "eval_rows": splits.chosen(table.rows, aside)}
    return replace(table, **rows, **fingerprints)  # type: ignore[arg-type]


def _named(table: Table, spec: RunSpec) -> Table:
    layouts = {name: raft.naming(getattr(table, name), spec.golden) for name in ("layout", "eval_layout")}
    return replace(table, **layouts)  # type: ignore[arg-type]


def _cleaner(context: Context, retriever: Retriever) -> Callable[[str], str]:
    """What takes personal data out of chunks, or refuses them, as the spec wants it of rows."""
    spec, found = context.spec, retriever.found()
    if spec.personal_data == "warn":
        if found:
            told = ", ".join(f"{kind} in {count:,} ({first})" for kind, (count, first) in found.items())
            context.publish(Notice(f"documents: the index holds {told}", "warning", "personal_data: redact"))
        return str
    if not pii.available():
        fix = "pip install 'peft_nb[privacy]', or set personal_data: warn"
        raise DataError(f"personal_data: {spec.personal_data} needs presidio-analyzer, which is not installed; {fix}")

    def clean(text: str) -> str:
        matches = pii.personal(text, spec.allow)
        if matches and spec.personal_data == "refuse":
            kinds = ", ".join(sorted({one.kind for one in matches}))
            raise DataError(f"documents: personal data in the index ({kinds}); set personal_data: redact, or remove it")
        return pii.redact(text, matches)

    return clean


def _tell(context: Context, retriever: Retriever, train: raft.Found) -> None:
    """Say what the training rows got."""
    golden, total = [one for one in train.golden if one is not None], len(train.golden)
    kept = sum(one in chunks for one, chunks in zip(train.golden, train.chunks, strict=True) if one is not None)
    most = max(map(len, train.chunks), default=0)
    told = f"documents: {most} of the {retriever.facts.chunks:,} chunks of {retriever.folder.name} before each row"
    context.publish(Notice(f"{told}; the golden one is among them in {kept:,} of {total:,}"))
    if lacking := total - len(golden):
        first = train.golden.index(None)
        told = f"documents: {lacking:,} of {total:,} rows have no golden chunk (first row {first}, counting from 0)"
        fix = "name it in a column with golden, or add the documents that hold the answers"
        context.publish(Notice(f"{told}; they learn their answers without", "warning", fix))


def changed(context: Context) -> str:
    """Say that the index of a run is not what it was when the run began, or nothing."""
    if not (before := context.facts.documents):
        return ""
    now = find(context.spec, context.inputs.namespace, context.folder.parents[1], context.facts).fingerprint
    return f"the index {before['index']} has changed since the run began" if now != before["fingerprint"] else ""


def asking(context: Context) -> Callable[[Sequence[Prompt]], Sequence[Prompt]]:
    """What puts documents before the prompts that a run answers while it learns."""
    where = context.inputs.namespace, context.folder.parents[1], context.facts
    return lambda prompts: Shelf(context.spec, lambda: find(context.spec, *where)).retrieve(prompts)[0]


@dataclass
class Shelf:
    """What a run is asked with: its index, opened once.

    Attributes
    ----------
    spec : RunSpec
        The run's.
    open : callable
        Opens the index that it learned with.
    """

    spec: RunSpec
    open: Callable[[], Retriever]
    _opened: Retriever | None = None

    def wanted(self, documents: Any) -> Retriever | None:
        """The index that is meant.

        Parameters
        ----------
        documents : bool, Index or None
            None takes that of the run, if it learned with documents; True demands one, False none.

        Raises
        ------
        DataError
            If there is none, or it is something else.
        """
        from peft_nb.documents.retriever import Retriever

        if documents is False or (documents is None and not self.spec.documents):
            return None
        if documents is None or documents is True:
            if not self.spec.documents:
                raise DataError("documents: the run learned with none; pass the index itself, documents=kb")
            self._opened = self._opened or self.open()
            return self._opened
        found = getattr(documents, "retriever", documents)
        if not isinstance(found, Retriever):
            raise DataError(
                f"documents: a {type(documents).__name__} is no index; pass True, False or peft_nb.index(…)"
            )
        return found

    def retrieve(
        self, prompts: Sequence[Prompt], documents: Any = None
    ) -> tuple[Sequence[Prompt], list[list[Passage]]]:
        """Put documents before prompts where they are wanted; parameters and errors as of :meth:`wanted`."""
        found = self.wanted(documents)
        if found is None:
            return prompts, [[] for _ in prompts]
        return retrieve(found, prompts, self.spec.distractors + 1 if self.spec.documents else FEW)
