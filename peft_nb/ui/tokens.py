"""One example as the model sees it: every token, and which of them are in the loss, told by more than colour.

Of a pair what both sequences begin with is shown once, and under it the two answers side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby, takewhile
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.layouts import Layout
from peft_nb.data.quality.reading import read
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import Rendered, unwrap
from peft_nb.errors import DataError, ModelError
from peft_nb.spec import RunSpec
from peft_nb.ui import wording
from peft_nb.ui.style import BOX, MUTED

MOST = 600  # tokens shown
NOTES = {
    "text": "the whole text is in the loss",
    "labelled": "the whole text is the input, the loss is that of its label",
    "preference": "the loss compares the log-probabilities of both answers",
    "rated": "the loss is that of the answer's log-probability",
    "prompt": "the model's own answers are learned from",
}
SIGNS = {" ": "·", "\n": "⏎", "\t": "⇥"}
BORDER = "border:1px solid rgba(128,128,128,.5);border-radius:3px"
TOKEN = f"display:inline-block;margin:1px;padding:0 2px;white-space:pre;{BORDER}"
LEARNED = f"{TOKEN};border-color:currentColor;font-weight:700;text-decoration:underline;background:rgba(0,114,178,.25)"
SPECIAL = ";font-style:italic"
CODE = "font-family:var(--jp-code-font-family,monospace);overflow-wrap:anywhere"
SIDES = "display:flex;flex-wrap:wrap;gap:0 16px"
SIDE = "flex:1 1 280px;min-width:0"


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
        What the model is given, cut at `max_length`; of a pair the prompt and the chosen answer.
    whole : int
        Tokens before cutting.
    note : str
        How the row was written.
    label : str
        The label of a labelled row, which is learned of the whole text, or the rating of an answer; empty for others.
    rejected : list of Token
        Of a pair the prompt and the rejected answer, cut likewise; empty for others.
    rejected_whole : int
        Its tokens before cutting.
    shared : int
        With how many masked tokens both sequences of a pair begin.
    """

    row: int
    tokens: list[Token]
    whole: int
    note: str
    label: str = ""
    rejected: list[Token] = field(default_factory=list)
    rejected_whole: int = 0
    shared: int = 0

    @property
    def parts(self) -> dict[str, list[Token]]:
        """What is shown, by its heading: all of a row, or the prompt of a pair and its two answers."""
        if not self.rejected:
            return {"": self.tokens}
        prompt, sides = self.tokens[: self.shared], {"chosen": self.tokens, "rejected": self.rejected}
        return {"prompt, the same for both": prompt} | {name: side[self.shared :] for name, side in sides.items()}

    @property
    def headline(self) -> str:
        """Count the tokens in words."""
        count = f"row {self.row}: {wording.count(len(self.tokens), 'token')}{_cut(self.tokens, self.whole)}"
        if self.rejected:
            sides = ("chosen", self.tokens, self.whole), ("rejected", self.rejected, self.rejected_whole)
            told = [f"{name} {_supervised(side):,} in the loss{_cut(side, whole)}" for name, side, whole in sides]
            return f"row {self.row}: prompt {wording.count(self.shared, 'token')}, {', '.join(told)}"
        if self.label and not _supervised(self.tokens):
            return f"{count}, label: {self.label}"
        return f"{count}, {_supervised(self.tokens):,} in the loss{f', rated {self.label}' if self.label else ''}"

    def __repr__(self) -> str:
        legend = "tokens are divided by |, those in the loss stand in [ ]"
        lines = [self.headline, f"{self.note}; {legend}"]
        for name, tokens in self.parts.items():
            groups = groupby(tokens[:MOST], key=lambda token: token.supervised)
            runs = [(supervised, "|".join(token.visible for token in run)) for supervised, run in groups]
            said = " ".join(f"[{text}]" if supervised else text for supervised, text in runs)
            lines += [f"{name}: {said}" if name else said, _more(tokens)]
        return "\n".join(filter(None, lines))

    def _repr_html_(self) -> str:
        whole, *answers = [_html(name, tokens) for name, tokens in self.parts.items()]
        beside = f'<div style="{SIDES}">{"".join(answers)}</div>' if answers else ""
        legend = f'<span style="{LEARNED}">in the loss</span> <span style="{TOKEN}">masked</span>'
        return (
            f'<div style="{BOX}"><p><strong>{escape(self.headline)}</strong> {legend} '
            f'<span style="{MUTED}">{escape(self.note)}</span></p>'
            f"{whole}{beside}</div>"
        )


def _supervised(tokens: Sequence[Token]) -> int:
    return sum(token.supervised for token in tokens)


def _cut(tokens: Sequence[Token], whole: int) -> str:
    return f" of {whole:,}, the rest is over max_length" if whole > len(tokens) else ""


def _more(tokens: Sequence[Token]) -> str:
    return f"… {wording.count(len(tokens) - MOST, 'more token')} in .tokens" if len(tokens) > MOST else ""


def _html(name: str, tokens: Sequence[Token]) -> str:
    """Write tokens as boxes, under their heading if they have one."""
    boxes = "".join(
        f'<span style="{LEARNED if token.supervised else TOKEN}{SPECIAL if token.special else ""}">'
        f"{escape(token.visible)}</span>{'<br/>' if token.text.endswith(chr(10)) else ''}"
        for token in tokens[:MOST]
    )
    code = f'<div style="{CODE}">{boxes}{_more(tokens)}</div>'
    return f'<div style="{SIDE}"><div style="margin-top:4px">{escape(name)}</div>{code}</div>' if name else code


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
    if layout.kind == "audio":
        raise DataError("a clip has no tokens; the report lets some be heard beside their texts")
    if layout.kind in ("image", "captioned"):
        raise DataError("an image has no tokens; the report shows some, with augment as training may show them")
    if tokenizer is None:
        advice = "name one that is, or pass model=(model, tokenizer)"
        raise ModelError(f"tokens need the tokenizer of {spec.model}, which is not on this machine; {advice}")
    rendered = RenderedRows([rows[row]], layout, tokenizer, loss_on=spec.loss_on, system=spec.system)
    note = NOTES.get(layout.kind, f"loss_on: {spec.loss_on}")
    try:
        if layout.kind != "preference":
            whole = unwrap(next(iter(rendered)))
            label = ", ".join(read(rows[row], layout).labels) if layout.kind in ("labelled", "rated") else ""
            label = label or "(none)" * (layout.kind == "labelled")
            return TokenView(row, _tokens(whole, tokenizer, spec), len(whole.ids), note, label)
        pairs = unwrap(next(rendered.pairs()))
    except RowProblem as problem:
        raise DataError(f"row {row} (counting from 0): {problem}") from None
    chosen, rejected = pairs[0]
    both = [_tokens(side, tokenizer, spec) for side in (chosen, rejected)]
    together = takewhile(lambda two: two[0] == two[1] and not two[0].supervised, zip(*both, strict=False))
    note += f"; this is the first of {len(pairs)} pairs" if len(pairs) > 1 else ""
    return TokenView(row, both[0], len(chosen.ids), note, "", both[1], len(rejected.ids), len(list(together)))


def _tokens(whole: Rendered, tokenizer: Any, spec: RunSpec) -> list[Token]:
    """What each token of a sequence says, up to `max_length`."""
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)}
    tokens = []
    for place, id in enumerate(whole.ids[: spec.max_length]):
        supervised = any(start <= place < stop for start, stop in whole.spans)
        tokens.append(Token(_said(tokenizer, id, id in special), supervised, id in special))
    return tokens


def _said(tokenizer: Any, id: int, special: bool) -> str:
    raw: str = tokenizer.convert_ids_to_tokens(id)
    if special or raw.startswith("▁"):  # decoding would take SentencePiece's space away
        return raw if special else raw.replace("▁", " ")
    text: str = tokenizer.decode([id], clean_up_tokenization_spaces=False)
    return raw if "\ufffd" in text else text  # a part of a character
