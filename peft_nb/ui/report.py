"""What a check found, on one screen: verdict, findings, lengths, next steps. As HTML, as text and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from itertools import islice, takewhile
from random import Random
from shlex import quote
from typing import Any

from peft_nb.data import RowProblem, Rows, sources
from peft_nb.data.images.augment import STRENGTHS, augmented
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.data.prompts import spread
from peft_nb.data.quality import checks, fixes
from peft_nb.data.quality.findings import FIXABLE, FIXED_BY_DEFAULT, KINDS, REDACTED, Finding, one_line, shown
from peft_nb.data.quality.fixes import Change, Edit, Fixed
from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import DataError, nearest
from peft_nb.spec import RunSpec
from peft_nb.spec.notation import write_flags
from peft_nb.system.display import Displayed
from peft_nb.tasks import TASKS, for_kind
from peft_nb.ui import clips, images, wording
from peft_nb.ui.style import BOX, MUTED, NUMBERS
from peft_nb.ui.tokens import TokenView, of_row

NAMED = 5  # row numbers and changes shown
LISTED = 500  # row numbers in a finding that is unfolded
PIXELS = 224  # a side of what most models see
PICTURES, PLAYERS = 24, 6  # rows of images and of clips shown
EDITS = 100  # rows whose changes are shown as HTML
DROPPED = 0.1  # share of the rows; to drop more of them has to be confirmed
BARS, WIDE = 8, 30  # of the histogram in text
WIDTH, HEIGHT = 480, 170  # pixels of the picture
CELL = "text-align:left;vertical-align:top;white-space:"
NUMBER = f"text-align:right;vertical-align:top;white-space:nowrap;{NUMBERS}"


@dataclass(eq=False)
class Report(Displayed):
    """What was found in a data set; a notebook shows it as a page, a terminal as text.

    Once fixed, it shows the fixed data: what is found in them, their lengths, rows and next steps.

    Attributes
    ----------
    findings : list of Finding
        What is wrong, worst first: each with ``title``, ``count``, ``rows``, ``examples``, ``advice`` (what to do) and
        ``fix`` (what fixing does by itself).
    changes : list of Change
        Exactly what :meth:`fixed` changes: the row's number in the original, and what was done to it.
    edits : list of Edit
        The same before and after, place by place: ``row``, ``column``, ``before`` and ``after``, shortened, with
        personal data and secrets masked.
    lengths : list of int
        Tokens of each row that can be read.
    labels : dict of str to int
        Rows of each label, most frequent first.
    notes : list of str
        What was not looked at, and why.
    """

    spec: RunSpec
    source: sources.Source
    checked: checks.Checked
    tokenizer: Any
    data: Any
    look: Callable[[checks.Table], checks.Checked]

    def __post_init__(self) -> None:
        self.fixed_kinds: frozenset[str] = frozenset()
        self._variable: str | None = None  # the variable that holds the fixed data, or nothing
        self._done: Fixed | None = None

    @cached_property
    def current(self) -> checks.Checked:
        """What was found in the data as they are now: in the fixed ones, once something is fixed."""
        return self.look(self.rows) if self._done and self._done.changes else self.checked

    @property
    def rows(self) -> Rows:
        """The rows as they are now."""
        return fixes.left(self.source.train, self._done) if self._done else self.source.train

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, worst first."""
        return self.current.findings

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row that can be read."""
        return list(self.current.lengths)

    @property
    def labels(self) -> dict[str, int]:
        """Rows of each label, most frequent first."""
        return self.current.labels

    @property
    def notes(self) -> list[str]:
        """What was not looked at, and why."""
        return self.current.notes

    @property
    def changes(self) -> list[Change]:
        """What fixing changes, by row."""
        return (self._done or self.checked.fixed).changes

    @cached_property
    def edits(self) -> list[Edit]:
        """Every fix before and after."""
        return list(fixes.edits(self.source.train, self._done or self.checked.fixed))

    @property
    def fixable(self) -> list[Finding]:
        """What was found in the original that can be fixed by itself."""
        return [finding for finding in self.checked.findings if finding.fix]

    def fixed(self, name: str | None = None, kinds: Iterable[str] | None = None, *, drop: bool = False) -> Any:
        """Fix what needs no decision: drop and repair; from now on the report shows the fixed data.

        Nothing is redacted unless ``kinds`` names it: what looks like a secret may be what is to be learned.

        Parameters
        ----------
        name : str, optional
            The variable that will hold the fixed data, for the next steps.
        kinds : iterable of str, optional
            Fix only findings of these kinds, such as ``["empty", "duplicate"]``; by default ``"all"``, which is all
            that can be but for ``personal`` and ``secret``: ``["all", "personal"]`` redacts too.
        drop : bool, default False
            Drop rows even if they are more than a tenth of all.

        Returns
        -------
        object
            The fixed data, of the kind that was given: a DataFrame, a Dataset, splits; else a list of dicts. The
            original is not touched.

        Raises
        ------
        DataError
            If a kind is none, or needs a person's decision; or if more than a tenth of the rows would be dropped.
        """
        done, chosen = self._fixed(kinds)
        if not drop and (question := self._question(done)):
            raise DataError(f"{question}; look at report.edits, and to drop them: report.fixed(drop=True), or --drop")
        rows = fixes.rebuilt(self.data, self.source.train, done)
        self._variable, self._done, self.fixed_kinds = name or "", done, chosen
        for seen in ("current", "edits", "picture_html"):
            vars(self).pop(seen, None)
        if done.changes and done.kept:
            fixes.remember(sources.read(rows).fingerprint, done.changes)
        return rows

    def question(self, kinds: Iterable[str] | None = None) -> str:
        """Say what has to be confirmed before :meth:`fixed` drops many rows; empty where nothing has to.

        Parameters
        ----------
        kinds : iterable of str, optional
            As for :meth:`fixed`.

        Returns
        -------
        str
            How many rows would be dropped, and why.
        """
        return self._question(self._fixed(kinds)[0])

    def _question(self, done: Fixed) -> str:
        rows = len(self.source.train)
        if len(done.dropped) <= DROPPED * rows:
            return ""
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in Counter(done.dropped.values()).most_common())
        return f"fixing would drop {len(done.dropped):,} of {rows:,} rows, more than a tenth ({kinds})"

    def _fixed(self, kinds: Iterable[str] | None) -> tuple[Fixed, frozenset[str]]:
        """Fix findings of some kinds; gives also which."""
        chosen = frozenset({"all"} if kinds is None else [kinds] if isinstance(kinds, str) else kinds)
        if "all" in chosen:
            chosen = chosen - {"all"} | FIXED_BY_DEFAULT
        for kind in sorted(chosen - FIXABLE):
            known = ", ".join(finding.kind for finding in self.fixable) or "none here"
            hint = "" if kind in KINDS else nearest(kind, FIXABLE)
            raise DataError(f"{kind}: no kind that can be fixed by itself{hint or f'; choose of {known}'}")
        return (self.checked.fixed if chosen == FIXED_BY_DEFAULT else self.checked.fix(chosen)), chosen

    def tokens(self, row: int = 0) -> TokenView:
        """Show one row as the model sees it.

        Parameters
        ----------
        row : int, default 0
            Its number, from 0.

        Returns
        -------
        TokenView
            Its tokens, and which of them are in the loss.

        Raises
        ------
        DataError
            When there is no such row, or it cannot be read.
        ModelError
            When the model's tokenizer is not on this machine.
        """
        return of_row(row, self.rows, self.checked.layout, self.tokenizer, self.spec)

    def row_html(self, row: int = 0) -> str:
        """Show a row as it is to be learned: its image, its clip or its tokens; as HTML.

        Raises
        ------
        DataError, ModelError
            As of :meth:`tokens`.
        """
        kind = self.checked.layout.kind
        if kind not in ("image", "captioned", "audio") or not 0 <= row < len(self.rows):
            return self.tokens(row)._repr_html_()
        if kind == "audio":
            one = self._clip(row)
            return f'{clips.player(one.audio, one.reference)}<div dir="auto">{escape(one.reference)}</div>'
        image, told, _ = self._picture(row, images.LARGE)
        return f'{images.picture(image, told, images.LARGE)}<div dir="auto">{escape(told)}</div>'

    def to_json(self) -> str:
        """Write the findings and the changes as JSON, without examples: no text of the data is in it."""
        changes = [asdict(change) for change in self.changes]
        told = {"data": self.source.origin, **self.checked.report(), "changes": changes}
        return json.dumps(told, ensure_ascii=False)

    @property
    def headline(self) -> str:
        """Name the data, its size and what was recognised."""
        return f"{self.source.origin}; {self.checked.layout.why}"

    @property
    def verdict(self) -> str:
        """Say in one line how the data are."""
        return self.current.verdict

    @property
    def limited(self) -> bool:
        """Whether rows are cut at max_length."""
        return self.current.tokens

    @property
    def lengths_said(self) -> str:
        """Say how long rows are; empty where none can be read."""
        spread = ", ".join(f"{name} {value:,}" for name, value in self.current.spread.items())
        return f"{self.checked.measured}{' (estimated)' if self.checked.estimated else ''}: {spread}" if spread else ""

    @property
    def changes_said(self) -> list[str]:
        """Say what was fixed, the first of it before and after, and how many rows are left; empty before that."""
        if self._done is None:
            return []
        lines, shown = [self.changed_said], self._by_row(NAMED)
        for row, (what, edits) in shown.items():
            lines += [f"row {row}: {what}"]
            for edit in edits:
                lines += [f"  before  {one_line(edit.before)}"]
                lines += [f"  after   {one_line(edit.after)}"] * (row not in self._done.dropped)
        left = len({change.row for change in self.changes}) - len(shown)
        return [*lines, f"… and {wording.count(left, 'more row')} in report.edits"] if left else lines

    @property
    def changed_said(self) -> str:
        """Say in one line what was fixed; empty before that."""
        if self._done is None:
            return ""
        left, rows = len(self._done.kept), len(self.source.train)
        where = f" in {self._variable}" if self._variable else ""
        return f"fixed: {wording.count(len(self.changes), 'change')}, {left:,} of {rows:,} rows are left{where}"

    def _by_row(self, most: int) -> dict[int, tuple[str, list[Edit]]]:
        """What was done to the first rows that were changed, and their edits."""
        done: dict[int, list[str]] = {}
        for change in self.changes:
            done.setdefault(change.row, []).append(change.what)
        shown = dict(islice(done.items(), most))
        edits: dict[int, list[Edit]] = {row: [] for row in shown}
        for edit in takewhile(lambda edit: edit.row in shown, self.edits):
            edits[edit.row].append(edit)
        return {row: (", ".join(what), edits[row]) for row, what in shown.items()}

    @property
    def next_steps(self) -> list[str]:
        """List the sensible next steps as code for a cell."""
        named = self.spec.data if self.spec.data != IN_MEMORY else ""
        data = self._variable or named
        task = TASKS[self.spec.task]
        said = {name: value for name, value in self.spec.changed().items() if name not in ("data", "method")}
        if self.checked.layout.kind not in task.accepts:
            task = for_kind(self.checked.layout.kind)
            said["task"] = task.name
        if task.model:
            said.setdefault("model", task.model)
        flags = "".join(
            f" {quote(flag)}" for flag in write_flags(said, RunSpec.describe()) if not flag.endswith(IN_MEMORY)
        )
        steps = []
        if data and len(self.rows) and self.limited:
            steps += [f"%peft data {quote(data)}{flags} --row 0"]
        pending = frozenset[str]()  # kinds that the next steps fix
        if not self._variable and any(finding.kind in FIXED_BY_DEFAULT for finding in self.fixable):
            pending, data = self.fixed_kinds or FIXED_BY_DEFAULT, "clean"
            steps = [self._fixing(pending, named, flags), *steps]
        stopped = any(one.level == "error" and one.kind not in pending for one in self.findings)
        if data and len(self.rows) and not stopped:
            steps += [f"%%peft {self.spec.method} --data {quote(data)}{flags}"]
        return steps

    def _fixing(self, kinds: frozenset[str], named: str, flags: str) -> str:
        """Write what binds the fixed data to a name."""
        chosen = sorted(kinds - FIXED_BY_DEFAULT if kinds >= FIXED_BY_DEFAULT else kinds)
        chosen = ["all", *chosen] if kinds >= FIXED_BY_DEFAULT and chosen else chosen
        drop = self._done is not None and bool(self._question(self._done))
        if named:
            how = f"--kinds {','.join(chosen)}" if chosen else "--fix"
            return f"%peft data {quote(named)}{flags} {how}{' --drop' * drop} --out clean"
        arguments = [f"kinds={chosen}"] * bool(chosen) + ["drop=True"] * drop
        return f"clean = report.fixed({', '.join(arguments)})"

    def __repr__(self) -> str:
        lines = [self.headline, *self.changes_said, self.verdict]
        for finding in self.findings:
            lines += [f"  {finding.level:<7}  {finding.title}{_places(finding)}"]
            lines += [f"  {'':<7}    {one_line(example)}" for example in finding.examples]
            lines += [f"  {'':<7}    → {_advice(finding)}"]
        lines += [f"  {'fixed':<7}  {finding.title}{_places(finding)}" for finding in self._gone]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [self.labels_said] if self.labels else []
        lines += [self.lengths_said, *histogram(self.lengths)] if self.lengths else []
        return "\n".join([*lines, *(f"  {'' if i else 'next':<6}{step}" for i, step in enumerate(self.next_steps))])

    def _repr_html_(self) -> str:
        return f'<div style="{BOX}">{self.head_html}{self.findings_html}{self.picture_html}{self.changes_html}</div>'

    @property
    def head_html(self) -> str:
        """Name the data, what was fixed, how they are now, and their labels; as HTML."""
        fixed = f"{escape(self.changed_said)}<br/>" if self._done else ""
        verdict = f"<strong>{escape(self.verdict)}</strong>"
        shown = f"{self._labels_html}{self._images_html}{self._clips_html}"
        return f"<p>{escape(self.headline)}<br/>{fixed}{verdict}</p>{shown}"

    @property
    def _images_html(self) -> str:
        """Show some rows of images, spread over all, with their labels or texts; empty of other rows."""
        layout = self.checked.layout
        if layout.kind not in ("image", "captioned"):
            return ""
        cells = []
        for number in spread(range(len(self.rows)), PICTURES):
            with suppress(RowProblem):
                cells.append(self._picture(number, images.SIDE))
        how = f", as augment: {self.spec.augment} may show them" if self.spec.augment in STRENGTHS else ""
        return images.grid(f"{len(cells)} of {len(self.rows):,} images{how}", cells)

    @property
    def _clips_html(self) -> str:
        """Let some clips be heard, spread over all, with what is said in them; empty of other rows."""
        if self.checked.layout.kind != "audio":
            return ""
        cells = []
        for number in spread(range(len(self.rows)), PLAYERS):
            with suppress(RowProblem):
                cells.append(self._clip(number))
        return clips.table(f"{len(cells)} of {len(self.rows):,} clips", cells)

    def _picture(self, number: int, side: int) -> images.Shown:
        """The image of a row, with its label or its text."""
        from peft_nb.data.images.encoding import content
        from peft_nb.data.images.thumbnail import thumbnail

        layout, row = self.checked.layout, self.rows[number]
        image = thumbnail(self._seen(content(layout, row).open(), number), side)
        told = layout.caption(row) if layout.kind == "captioned" else ", ".join(layout.labels(row))
        return images.Shown(image, shown(told), f"row {number}")

    def _clip(self, number: int) -> clips.Shown:
        """The clip of a row, with what is said in it."""
        from peft_nb.data.audio.player import compressed, data_uri

        clip, text, _ = self.checked.layout.spoken(self.rows[number])
        return clips.Shown(data_uri(compressed(clip.open())), shown(text), more=f"row {number}")

    def _seen(self, image: Any, number: int) -> Any:
        """An image as training may show it, where it changes images; else as it is."""
        if self.spec.augment not in STRENGTHS:
            return image
        size = self.spec.image_size or PIXELS
        prepare, draw = Preprocess(0, size, size), Random(f"{self.spec.seed}/{number}").random
        return augmented(prepare.resized(image, roomy=True), prepare, self.spec.augment, draw)

    @property
    def labels_said(self) -> str:
        """Count the labels, and the rows of the most frequent ones; empty where there are none."""
        if not self.labels:
            return ""
        named = ", ".join(f"{shown(label)} {count:,}" for label, count in islice(self.labels.items(), NAMED))
        left = len(self.labels) - NAMED
        return f"{wording.count(len(self.labels), 'label')}: {named}" + (f" and {left:,} more" if left > 0 else "")

    @property
    def _labels_html(self) -> str:
        if len(self.labels) <= NAMED:
            return f"<p>{escape(self.labels_said)}</p>" if self.labels else ""
        rows = "".join(
            f'<tr><td style="{CELL}normal;overflow-wrap:anywhere">{escape(shown(label))}</td>'
            f'<td style="{NUMBER}">{count:,}</td></tr>'
            for label, count in self.labels.items()
        )
        head = f'<th scope="col" style="{CELL}nowrap">label</th><th scope="col" style="{NUMBER}">rows</th>'
        return (
            f"<details><summary>{escape(self.labels_said)}</summary>"
            f'<table style="margin:0;color:inherit;font-size:inherit"><tr>{head}</tr>{rows}</table></details>'
        )

    @property
    def _gone(self) -> list[Finding]:
        """What was found in the original and is fixed."""
        left = {finding.kind for finding in self.findings}
        return [one for one in self.fixable if one.kind in self.fixed_kinds and one.kind not in left]

    @property
    def findings_html(self) -> str:
        """Write the findings as a table, and what was not looked at; as HTML."""
        rows = "".join(
            f'<tr><td style="{CELL}nowrap">{finding.level}</td>'
            f'<td style="{CELL}normal;overflow-wrap:anywhere">{_details(finding)}</td>'
            f'<td style="{CELL}normal">{escape(_advice(finding))}</td></tr>'
            for finding in self.findings
        )
        rows += "".join(
            f'<tr style="{MUTED}"><td style="{CELL}nowrap">✓ fixed</td>'
            f'<td style="{CELL}normal;overflow-wrap:anywhere">{_details(finding)}</td><td></td></tr>'
            for finding in self._gone
        )
        head = "".join(f'<th scope="col" style="{CELL}nowrap">{name}</th>' for name in ("level", "found", "what to do"))
        table = f'<table style="margin:0;color:inherit;font-size:inherit"><tr>{head}</tr>{rows}</table>' if rows else ""
        return table + "".join(f'<div style="{MUTED}">ⓘ {escape(note)}</div>' for note in self.notes)

    @property
    def changes_html(self) -> str:
        """Show what was fixed, before and after, and write the next steps; as HTML."""
        changes = self._edits_html if self._done else ""
        code = "\n".join(map(escape, self.next_steps))
        following = (
            f'<p style="margin:8px 0 4px">Next:</p><pre style="margin:0"><code>{code}</code></pre>' if code else ""
        )
        return f'<div style="margin-top:8px">{changes}</div>{following}'

    @property
    def _edits_html(self) -> str:
        """Show the rows that were changed, before and after, folded."""
        shown = self._by_row(EDITS)
        rows = "".join(
            f'<tr><td style="{NUMBER}">{row}</td><td style="{CELL}normal">{escape(what)}</td>'
            + "".join(
                f'<td style="{CELL}normal;overflow-wrap:anywhere">{"<br/>".join(map(escape, texts))}</td>'
                for texts in ([edit.before for edit in edits], [edit.after for edit in edits])
            )
            + "</tr>"
            for row, (what, edits) in shown.items()
        )
        head = f'<th scope="col" style="{NUMBER}">row</th>' + "".join(
            f'<th scope="col" style="{CELL}nowrap">{name}</th>' for name in ("fix", "before", "after")
        )
        left = len({change.row for change in self.changes}) - len(shown)
        more = f'<div style="{MUTED}">… and {wording.count(left, "more row")} in report.edits</div>' if left else ""
        table = f'<table style="margin:0;color:inherit;font-size:inherit"><tr>{head}</tr>{rows}</table>{more}'
        return f"<details><summary>before and after, by row of the original</summary>{table}</details>" if rows else ""

    @cached_property
    def picture_html(self) -> str:
        """Draw how long rows are; as HTML, empty where that is not known."""
        if not self.lengths:
            return ""
        from peft_nb import plots

        label = f"{self.current.measured}{' (estimated)' * self.current.estimated}"
        limit = self.spec.max_length if self.limited else None
        drawn = plots.histogram(self.lengths, limit, label, (WIDTH / 100, HEIGHT / 100))
        return drawn.html(self.lengths_said, "display:block;max-width:100%;height:auto;margin-top:8px")


def _places(finding: Finding) -> str:
    if not finding.rows:
        return ""
    more = f" and {finding.count - NAMED:,} more" if finding.count > NAMED else ""
    return f" ({', '.join(map(str, finding.rows[:NAMED]))}{more})"


def _advice(finding: Finding) -> str:
    flag = f"--kinds {finding.kind}" if finding.kind in REDACTED else "--fix"
    return finding.advice + (f" ({flag} {finding.fix})" if finding.fix else "")


def _details(finding: Finding) -> str:
    title = escape(finding.title + _places(finding))
    if not finding.examples:
        return title
    examples = "".join(f"<div>{escape(example)}</div>" for example in finding.examples)
    if finding.count > NAMED:
        listed = ", ".join(map(str, finding.rows[:LISTED]))
        examples += f"<div>rows {listed}{', … all in report.findings' if finding.count > LISTED else ''}</div>"
    return f'<details><summary>{title}</summary><div style="{MUTED}">{examples}</div></details>'


def bins(lengths: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """Count lengths by equal steps.

    Parameters
    ----------
    lengths : sequence of int
        At least one.
    most : int
        Highest number of steps.

    Returns
    -------
    list of (first, last, count)
        The steps from 0 to the longest, empty ones among them.
    """
    step = -(-(max(lengths) + 1) // most)
    counts = [0] * (max(lengths) // step + 1)
    for length in lengths:
        counts[length // step] += 1
    return [(step * place, step * (place + 1) - 1, count) for place, count in enumerate(counts)]


def histogram(lengths: Sequence[int]) -> list[str]:
    """Draw a histogram with characters."""
    named = {f"{first:,}–{last:,}": count for first, last, count in bins(lengths, BARS) if count}
    width, most = max(map(len, named)), max(named.values())
    return [f"  {name:>{width}}  {'█' * -(-WIDE * count // most)} {count:,}" for name, count in named.items()]
