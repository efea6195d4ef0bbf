"""The rows of a run: found, and their layout recognised, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft_nb.data import Rows, detection, sources
from peft_nb.data.layouts import Layout
from peft_nb.data.rendered import RenderedRows

if TYPE_CHECKING:
    from peft_nb.spec import RunSpec


@dataclass(frozen=True)
class Table:
    """The rows of a run, read and recognised once.

    Attributes
    ----------
    rows, layout : sequence of mapping, Layout
        Training rows, and what their columns mean.
    eval_rows, eval_layout : sequence of mapping or None, Layout
        Rows for evaluation, or None where a share of the training rows is set aside.
    origin : str
        Where they came from, in words.
    fingerprint, eval_fingerprint : str
        SHA-256 of the content of the data that they are a part of.
    bare : Table, optional
        The same rows without the documents that were put before their questions.
    again : tuple of Rows
        The training rows as later epochs read them, with their documents in another order.
    """

    rows: Rows
    layout: Layout
    eval_rows: Rows | None
    eval_layout: Layout
    origin: str
    fingerprint: str
    eval_fingerprint: str
    bare: Table | None = None
    again: tuple[Rows, ...] = ()
    _rendered: dict[str, RenderedRows] = field(default_factory=dict, init=False, repr=False, compare=False)

    def rendered(self, tokenizer: Any, spec: RunSpec) -> RenderedRows:
        """The training rows as a model will see them; the same object each time, so that each is rendered once."""
        return self._once("train", self.rows, self.layout, tokenizer, spec)

    def rendered_eval(self, tokenizer: Any, spec: RunSpec) -> RenderedRows:
        """The rows that evaluation rows come from as a model will see them; the same object each time."""
        if self.eval_rows is None:
            return self.rendered(tokenizer, spec)
        return self._once("eval", self.eval_rows, self.eval_layout, tokenizer, spec)

    def _once(self, part: str, rows: Rows, layout: Layout, tokenizer: Any, spec: RunSpec) -> RenderedRows:
        if part not in self._rendered:
            self._rendered[part] = RenderedRows(rows, layout, tokenizer, loss_on=spec.loss_on, system=spec.system)
        return self._rendered[part]

    @property
    def held_out(self) -> tuple[Rows, Layout]:
        """The rows that evaluation rows come from, and what their columns mean."""
        return (self.rows, self.layout) if self.eval_rows is None else (self.eval_rows, self.eval_layout)


def read(spec: RunSpec, data: Any = None, eval_data: Any = None, namespace: Mapping[str, Any] | None = None) -> Table:
    """Find the rows of a spec and recognise their layout; imports no PyTorch.

    Parameters
    ----------
    spec : RunSpec
        Which rows.
    data, eval_data : object, optional
        What is passed instead of the names in the spec.
    namespace : mapping, optional
        The notebook's variables, where names are looked up first.

    Returns
    -------
    Table
        Nothing of it has been checked.

    Raises
    ------
    DataError
        When rows cannot be found, read or recognised.
    """
    source = sources.read(spec.data if data is None else data, namespace)
    eval_rows, eval_fingerprint = source.eval, source.fingerprint
    if spec.eval_data is not None:
        apart = sources.read(spec.eval_data if eval_data is None else eval_data, namespace)
        eval_rows, eval_fingerprint = apart.train, apart.fingerprint
    layout = eval_layout = detection.detect(source.train, spec.format, spec.columns)
    if eval_rows is not None:
        # All of them may be good, and rated all the same.
        eval_format = "rated" if layout.kind == "rated" else spec.format
        eval_layout = detection.detect(eval_rows, eval_format, spec.columns)
    return Table(source.train, layout, eval_rows, eval_layout, source.origin, source.fingerprint, eval_fingerprint)
