"""One example as the model sees it: every token, and which of them are in the loss, told by more than colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.layouts import Layout
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import unwrap
from peft_nb.errors import DataError, ModelError
from peft_nb.spec import RunSpec
from peft_nb.ui import wording
from peft_nb.ui.style import BOX, MUTED

MOST = 600  # tokens shown
NOTES = {
    "text": "the whole text is in the loss",
    "labelled": "the whole text is the input, the loss is that of its label",
}
SIGNS = {" ": "·", "\n": "⏎", "\t": "⇥"}
BORDER = "border:1px solid rgba(128,128,128,.5);border-radius:3px"
TOKEN = f"display:inline-block;margin:1px;padding:0 2px;white-space:pre;{BORDER}"
LEARNED = f"{TOKEN};border-color:currentColor;font-weight:700;text-decoration:underline;background:rgba(0,114,178,.25)"
SPECIAL = ";font-style:italic"


@dataclass(frozen=True)
class Token:
    """One token: what it says, whether it is in the loss, and whether it is a special one."""

    text: str
    supervised: bool
    special: bool

    @property
    def visible(self) -> str:
        """What it says, with signs for white space and codes for what cannot be seen."""
        signs = (SIGNS.get(sign, sign if sign.isprintable() else f"⟨{ord(sign):04X}⟩") for sign in self.text)
        return self.text if self.special else "".join(signs)


@dataclass(frozen=True)
class TokenView:
    """A row, token by token; a notebook shows it in boxes, a terminal with brackets.

    Attributes
    ----------
    row : int
        Its number.
    tokens : list of Token
        What the model is given, cut at `max_length`.
    whole : int
        Tokens before cutting.
    note : str
        How the row was written.
    label : str
        The label of a labelled row, which is learned of the whole text; empty for others.
    """

    row: int
    tokens: list[Token]
    whole: int
    note: str
    label: str = ""

    @property
    def headline(self) -> str:
        """Count the tokens in words."""
        supervised = sum(token.supervised for token in self.tokens)
        cut = f" of {self.whole:,}, the rest is over max_length" if self.whole > len(self.tokens) else ""
        learned = f"label: {self.label}" if self.label else f"{supervised:,} in the loss"
        return f"row {self.row}: {wording.count(len(self.tokens), 'token')}{cut}, {learned}"

    @property
    def _more(self) -> str:
        return f"… {wording.count(len(self.tokens) - MOST, 'more token')} in .tokens" if len(self.tokens) > MOST else ""

    def __repr__(self) -> str:
        parts = []
        for supervised, run in groupby(self.tokens[:MOST], key=lambda token: token.supervised):
            said = "|".join(token.visible for token in run)
            parts.append(f"[{said}]" if supervised else said)
        legend = "tokens are divided by |, those in the loss stand in [ ]"
        return "\n".join(filter(None, (self.headline, f"{self.note}; {legend}", " ".join(parts), self._more)))

    def _repr_html_(self) -> str:
        boxes = "".join(
            f'<span style="{LEARNED if token.supervised else TOKEN}{SPECIAL if token.special else ""}">'
            f"{escape(token.visible)}</span>{'<br/>' if token.text.endswith(chr(10)) else ''}"
            for token in self.tokens[:MOST]
        )
        legend = f'<span style="{LEARNED}">in the loss</span> <span style="{TOKEN}">masked</span>'
        return (
            f'<div style="{BOX}"><p><strong>{escape(self.headline)}</strong> {legend} '
            f'<span style="{MUTED}">{escape(self.note)}</span></p>'
            f'<div style="font-family:var(--jp-code-font-family,monospace);overflow-wrap:anywhere">{boxes}'
            f"{self._more}</div></div>"
        )


def of_row(row: int, rows: Sequence[Mapping[str, Any]], layout: Layout, tokenizer: Any, spec: RunSpec) -> TokenView:
    """Take one row apart.

    Parameters
    ----------
    row : int
        Its number, from 0.
    rows : sequence of mapping
        The table.
    layout : Layout
        What its columns mean.
    tokenizer : transformers.PreTrainedTokenizerBase or None
        The model's.
    spec : RunSpec
        How it is going to be trained on.

    Returns
    -------
    TokenView
        To be shown.

    Raises
    ------
    DataError
        When there is no such row, or it cannot be read.
    ModelError
        When there is no tokenizer.
    """
    if not 0 <= row < len(rows):
        raise DataError(f"row {row}: there are {wording.count(len(rows), 'row')}, numbered from 0")
    if tokenizer is None:
        advice = "name one that is, or pass model=(model, tokenizer)"
        raise ModelError(f"tokens need the tokenizer of {spec.model}, which is not on this machine; {advice}")
    try:
        ids, spans = unwrap(
            next(iter(RenderedRows([rows[row]], layout, tokenizer, loss_on=spec.loss_on, system=spec.system)))
        )
    except RowProblem as problem:
        raise DataError(f"row {row} (counting from 0): {problem}") from None
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)}
    tokens = []
    for place, id in enumerate(ids[: spec.max_length]):
        supervised = any(start <= place < stop for start, stop in spans)
        tokens.append(Token(_said(tokenizer, id, id in special), supervised, id in special))
    label = (", ".join(layout.labels(rows[row])) or "(none)") if layout.kind == "labelled" else ""
    return TokenView(row, tokens, len(ids), NOTES.get(layout.kind, f"loss_on: {spec.loss_on}"), label)


def _said(tokenizer: Any, id: int, special: bool) -> str:
    raw: str = tokenizer.convert_ids_to_tokens(id)
    if special or raw.startswith("▁"):  # decoding would take SentencePiece's space away
        return raw if special else raw.replace("▁", " ")
    text: str = tokenizer.decode([id], clean_up_tokenization_spaces=False)
    return raw if "\ufffd" in text else text  # a part of a character
