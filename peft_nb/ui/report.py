"""What a check found, on one screen: verdict, findings, lengths, next steps. As HTML, as text and as JSON."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from shlex import quote
from typing import Any

from peft_nb.data import checks, mending, sources
from peft_nb.data.findings import LEVELS, Finding
from peft_nb.data.mending import Change
from peft_nb.data.sources import IN_MEMORY
from peft_nb.notation import write_flags
from peft_nb.spec import RunSpec
from peft_nb.ui import wording
from peft_nb.ui.progress import BOX, MUTED
from peft_nb.ui.tokens import TokenView, of_row

NAMED = 5  # row numbers and changes shown
BARS, WIDE = 8, 30  # of the histogram in text
WIDTH, HEIGHT = 480, 170  # pixels of the picture
CELL = "text-align:left;vertical-align:top;white-space:"


@dataclass(eq=False)
class Report:
    """What was found in a data set; a notebook shows it as a page, a terminal as text.

    Attributes
    ----------
    findings : list of Finding
        What is wrong, worst first: each with ``title``, ``count``, ``rows``, ``examples``, ``mend`` and ``fix``.
    changes : list of Change
        Exactly what :meth:`fixed` changes: the row's number in the original, and what was done to it.
    lengths : list of int
        Tokens of each row that can be read.
    notes : list of str
        What was not looked at, and why.
    """

    spec: RunSpec
    source: sources.Source
    checked: checks.Checked
    tokenizer: Any
    data: Any

    def __post_init__(self) -> None:
        self.findings: list[Finding] = self.checked.findings
        self.lengths = list(self.checked.lengths)
        self.notes = list(self.checked.notes)
        self._mended: str | None = None  # the variable that holds what was mended, or nothing

    @property
    def changes(self) -> list[Change]:
        """What mending changes, by row."""
        return self.checked.mended.changes

    def fixed(self, name: str | None = None) -> Any:
        """Mend what needs no decision: drop, repair, redact; from now on the report shows what was changed.

        Parameters
        ----------
        name : str, optional
            The variable that will hold the mended data, for the next steps.

        Returns
        -------
        object
            The mended data, of the kind that was given: a DataFrame, a Dataset, splits; else a list of dicts. The
            original is not touched.
        """
        self._mended = name or ""
        mended = mending.rebuilt(self.data, self.source.train, self.checked.mended)
        if self.changes and self.checked.mended.kept:
            mending.remember(sources.read(mended).fingerprint, self.changes)
        return mended

    def tokens(self, row: int = 0) -> TokenView:
        """Show one row as the model sees it.

        Parameters
        ----------
        row : int, default 0
            Its number, from 0.

        Returns
        -------
        TokenView
            Its tokens, and which of them are trained on.

        Raises
        ------
        DataError
            When there is no such row, or it cannot be read.
        ModelError
            When the model's tokenizer is not on this machine.
        """
        return of_row(row, self.source.train, self.checked.layout, self.tokenizer, self.spec)

    def to_json(self) -> str:
        """Write the findings and the changes as JSON, without examples: no text of the data is in it."""
        changes = [asdict(change) for change in self.changes]
        told = {"data": self.source.origin, **self.checked.told(), "changes": changes}
        return json.dumps(told, ensure_ascii=False)

    @property
    def headline(self) -> str:
        """Name the data, its size and what was recognised."""
        return f"{self.source.origin}; {self.checked.layout.why}"

    @property
    def verdict(self) -> str:
        """Say in one line how the data are."""
        return self.checked.verdict

    @property
    def _lengths_said(self) -> str:
        spread = ", ".join(f"{name} {value:,}" for name, value in self.checked.spread.items())
        return f"tokens a row{' (estimated)' if self.checked.estimated else ''}: {spread}" if spread else ""

    @property
    def _changes_said(self) -> list[str]:
        if self._mended is None:
            return []
        left, rows = len(self.checked.mended.kept), len(self.source.train)
        more = [f"… and {len(self.changes) - NAMED:,} more in report.changes"] if len(self.changes) > NAMED else []
        where = f" in {self._mended}" if self._mended else ""
        head = f"mended: {wording.count(len(self.changes), 'change')}, {left:,} of {rows:,} rows are left{where}"
        return [head, *map(str, self.changes[:NAMED]), *more]

    @property
    def next_steps(self) -> list[str]:
        """List the sensible next steps as code for a cell."""
        named = self.source.name if self.source.name != IN_MEMORY else ""
        mendable = any(finding.fix for finding in self.findings)
        stopped = any(finding.level == "stops" and not finding.fix for finding in self.findings)
        data = self._mended if mendable else named
        said = {name: value for name, value in self.spec.changed().items() if name not in ("data", "method")}
        if self.checked.layout.kind == "labelled":
            said["task"] = "classification"
        flags = "".join(f" {quote(flag)}" for flag in write_flags(said) if not flag.endswith(IN_MEMORY))
        steps = []
        if mendable and self._mended is None:
            steps += [f"%peft data {quote(named)}{flags} --fix --out clean" if named else "clean = report.fixed()"]
            data = "clean"
        if named:
            steps += [f"%peft data {quote(named)}{flags} --row 0"]
        if data and not stopped:
            steps += [f"%%peft {self.spec.method} --data {quote(data)}{flags}"]
        return steps

    def __repr__(self) -> str:
        lines = [self.headline, self.verdict]
        for finding in self.findings:
            lines += [f"  {LEVELS[finding.level]:<16}  {finding.title}{_places(finding)}"]
            if self._mended is None:
                lines += [f"  {'':<16}    {example}" for example in finding.examples]
            lines += [f"  {'':<16}    → {_mend(finding)}"]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [self._lengths_said, *_bars(self.lengths)] if self.lengths else []
        lines += self._changes_said
        return "\n".join([*lines, *(f"  {'' if i else 'next':<6}{step}" for i, step in enumerate(self.next_steps))])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td style="{CELL}nowrap">{LEVELS[finding.level]}</td>'
            f'<td style="{CELL}normal;overflow-wrap:anywhere">{_details(finding)}</td>'
            f'<td style="{CELL}normal">{escape(_mend(finding))}</td></tr>'
            for finding in self.findings
        )
        head = "".join(f'<th scope="col" style="{CELL}nowrap">{name}</th>' for name in ("level", "found", "mend"))
        table = f'<table style="margin:0;color:inherit;font-size:inherit"><tr>{head}</tr>{rows}</table>' if rows else ""
        notes = "".join(f'<div style="{MUTED}">ⓘ {escape(note)}</div>' for note in self.notes)
        changes = "".join(f"<div>{escape(line)}</div>" for line in self._changes_said)
        code = "\n".join(map(escape, self.next_steps))
        following = (
            f'<p style="margin:8px 0 4px">Next:</p><pre style="margin:0"><code>{code}</code></pre>' if code else ""
        )
        return (
            f'<div style="{BOX}"><p>{escape(self.headline)}<br/><strong>{escape(self.verdict)}</strong></p>{table}'
            f'{notes}{self._picture}<div style="margin-top:8px">{changes}</div>{following}</div>'
        )

    @cached_property
    def _picture(self) -> str:
        if not self.lengths:
            return ""
        from peft_nb.plots import histogram

        label = "tokens a row (estimated)" if self.checked.estimated else "tokens a row"
        png = histogram(self.lengths, self.spec.max_length, label, (WIDTH / 100, HEIGHT / 100)).png()
        return (
            f'<img alt="{escape(self._lengths_said)}" width="{WIDTH}" style="display:block;max-width:100%;height:auto" '
            f'src="data:image/png;base64,{b64encode(png).decode()}">'
        )


def _places(finding: Finding) -> str:
    if not finding.rows:
        return ""
    more = f" and {finding.count - NAMED:,} more" if finding.count > NAMED else ""
    return f" ({', '.join(map(str, finding.rows[:NAMED]))}{more})"


def _mend(finding: Finding) -> str:
    return finding.mend + (f" (--fix {finding.fix})" if finding.fix else "")


def _details(finding: Finding) -> str:
    title = escape(finding.title + _places(finding))
    if not finding.examples:
        return title
    examples = "".join(f"<div>{escape(example)}</div>" for example in finding.examples)
    return f'<details><summary>{title}</summary><div style="{MUTED}">{examples}</div></details>'


def _bars(lengths: list[int]) -> list[str]:
    """Draw a histogram with characters."""
    step = max(1, -(-(max(lengths) + 1) // BARS))
    counts = [0] * BARS
    for length in lengths:
        counts[length // step] += 1
    named = {f"{step * place:,}–{step * (place + 1) - 1:,}": count for place, count in enumerate(counts) if count}
    width, most = max(map(len, named)), max(counts)
    return [f"  {name:>{width}}  {'█' * -(-WIDE * count // most)} {count:,}" for name, count in named.items()]
