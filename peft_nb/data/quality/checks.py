"""What is wrong with a table before anything is trained on it, and how it can be fixed."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from peft_nb.data import RowProblem, printed, unused
from peft_nb.data.examples import key
from peft_nb.data.layouts import Layout
from peft_nb.data.quality import characters, duplicates, pii, preferences, secrets
from peft_nb.data.quality.findings import DROP, EXAMPLES, FIXED_BY_DEFAULT, KINDS, LEVELS, Finding, Findings, shown
from peft_nb.data.quality.fixes import Change, Fixed, Patches, overlaid, repaired, strings
from peft_nb.data.quality.lengths import Options, lengths
from peft_nb.data.quality.reading import Reading, read, same, trouble, turns
from peft_nb.data.rendered import BATCH, RenderedRows
from peft_nb.errors import nearest
from peft_nb.events import Progress
from peft_nb.system.files import atomic_text

Table = Sequence[Mapping[str, Any]]

# What a task that accepts such a layout needs, and what to do where the rows are others.
NEEDS = {
    "chat": ("conversations or texts", "name no task"),
    "labelled": ("labels", "set format: text_label and columns: {text: …, label: …}"),
    "image": ("images with labels", "set format: image_label and columns: {image: …, label: …}"),
    "audio": ("clips with texts", "set format: audio_text and columns: {audio: …, text: …}"),
    "preference": ("preference pairs", "set format: preference and columns: {prompt: …, chosen: …, rejected: …}"),
    "rated": ("rated answers", "set format: rated and columns: {prompt: …, completion: …, label: …}"),
    "prompt": ("prompts", "set format: prompt and columns: {prompt: …}"),
}
VERSION = 7  # to be raised whenever the same rows get another report
PERSONAL_ROWS = 20_000  # rows looked at for personal data, the slowest check by far
# A rule of thumb: SetFit (Tunstall et al., 2022) and other work on few examples begin at 8 a class.
USUAL_ROWS_A_LABEL = 8
COMPARED = 8  # pairs or rated answers that a near-duplicate one is compared with, answer by answer
IMBALANCE = 10  # a rule of thumb as well: the largest class over the smallest


@dataclass(frozen=True, eq=False)
class Checked:
    """What was found.

    Attributes
    ----------
    rows : sequence of mapping
        The table.
    layout : Layout
        How it was read.
    findings : list of Finding
        What is wrong, worst first.
    lengths : array of int
        Tokens of each row that can be read, in order, or what `measured` says.
    estimated : bool
        Whether they are estimated from characters.
    labels : dict of str to int
        Rows of each label, most frequent first; empty where there are none.
    notes : list of str
        What was not looked at, and why.
    """

    rows: Table
    layout: Layout
    findings: list[Finding]
    lengths: array[int]
    estimated: bool
    labels: dict[str, int]
    notes: list[str]
    fix: Callable[[Collection[str]], Fixed] = field(repr=False)
    """What is left when findings of some kinds of `FIXABLE` are fixed, and the list of changes."""
    measured: str = "tokens per row"
    """What `lengths` are."""

    @cached_property
    def fixed(self) -> Fixed:
        """What is left when everything is fixed that needs no decision, but nothing redacted; and the changes."""
        return self.fix(FIXED_BY_DEFAULT)

    @property
    def verdict(self) -> str:
        """Say in one line how the data are."""
        if not self.findings:
            return "clean: nothing to fix"
        counts = Counter(finding.level for finding in self.findings)
        return ", ".join(
            f"{counts[level]} {level}{'s' * (counts[level] != 1 and level != 'info')}"
            for level in LEVELS
            if counts[level]
        )

    @property
    def tokens(self) -> bool:
        """Whether lengths are those of texts, in tokens."""
        return self.measured.startswith("tokens")

    @property
    def spread(self) -> dict[str, int]:
        """The shortest, median and longest row, in tokens; empty where no row can be read."""
        if not self.lengths:
            return {}
        return {"shortest": min(self.lengths), "median": round(median(self.lengths)), "longest": max(self.lengths)}

    def report(self) -> dict[str, Any]:
        """Say what was found without any text of the data, as JSON can hold it."""
        return {
            "layout": self.layout.why,
            "rows": len(self.rows),
            "verdict": self.verdict,
            "findings": [
                {name: value for name, value in asdict(finding).items() if name != "examples"}
                for finding in self.findings
            ],
            "lengths": {"estimated": self.estimated, **({} if self.tokens else {"of": self.measured}), **self.spread},
            "notes": self.notes,
        }


def check(
    rows: Table,
    layout: Layout,
    eval_rows: Table | None = None,
    eval_layout: Layout | None = None,
    *,
    rendered: RenderedRows | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Checked:
    """Look for everything that spoils training.

    Parameters
    ----------
    rows : sequence of mapping
        Training rows.
    layout : Layout
        What their columns mean.
    eval_rows, eval_layout : optional
        Evaluation rows and their layout.
    rendered : RenderedRows, optional
        The training rows, and perhaps more behind them, as the model will see them; without them lengths are
        estimated from characters.
    options : Options
        What is planned.
    progress : callable, optional
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    Checked
        Findings, lengths, and on demand what fixing changes.
    """
    options = options or Options()
    found, notes = Findings(), []
    held = dict(_readings(eval_rows or (), eval_layout or layout, found, "evaluation"))
    readings = _structure(rows, layout, held, found, progress)
    spellings = label_findings(readings, held, found) if layout.kind == "labelled" else {}
    if layout.kind == "preference":
        preferences.pair_findings(readings, found)
        preferences.tie_findings(readings, {number: layout.scores(rows[number]) for number in readings}, found)
    if layout.kind == "rated":
        preferences.rating_findings(readings, options, found)
    text_findings(rows, layout, readings, found, options, progress)
    tokens = lengths(readings, rendered, options, found, progress)
    unused_findings(rows, layout, readings, rendered, found)
    judged = layout.kind in ("preference", "rated", "prompt")
    if layout.kind not in options.accepts and (judged or "chat" not in options.accepts):
        needed, advice = NEEDS.get(options.accepts[0], ("other rows", "choose another task"))
        if judged and "chat" in options.accepts:
            advice = ", or ".join(filter(None, [advice, layout.alone(rows[next(iter(readings), 0)])]))
        if "labelled" in options.accepts and (several := unused.flags(rows, layout.columns.values())):
            advice = unused.as_lists(several, next(iter(layout.columns.values())))
        title = f"task: {options.task} needs {needed}, and the rows are {layout.name}"
        found.say("task", title=title, advice=advice)
    if layout.kind != "labelled" and len(rows) < options.usual_rows:
        found.say(
            "few",
            title=f"{len(rows)} rows, where {options.method} usually needs {options.usual_rows:,} (rule of thumb)",
        )
    if not pii.available():
        notes.append("personal data were not looked for: pip install 'peft_nb[privacy]'")
    elif len(rows) > PERSONAL_ROWS:
        notes.append(f"personal data were looked for in the first {PERSONAL_ROWS:,} rows; redacting looks at all")
    if len(rows) + len(held) > duplicates.NEAR_ROWS:
        notes.append(f"above {duplicates.NEAR_ROWS:,} rows only exact duplicates are looked for, no near-duplicates")

    if authors := unused.synthetic(rows):
        by = ", ".join(authors)
        notes.append(f"{sum(authors.values()):,} of {len(rows):,} rows are synthetic, written by {by}")

    fix = partial(_fix, rows, layout, held, found, spellings, options.allow)
    counts = Counter(label for reading in readings.values() for label in reading.labels)
    return Checked(rows, layout, found.all(), tokens, rendered is None, dict(counts.most_common()), notes, fix)


def cached(
    root: Path,
    fingerprints: Sequence[str],
    rendered: RenderedRows,
    eval_rows: Table | None = None,
    eval_layout: Layout | None = None,
    *,
    options: Options,
    most: int,
    progress: Progress | None = None,
    looked: Callable[..., Checked] | None = None,
    state: str = "",
) -> dict[str, Any]:
    """Report what a check found in the same rows before, or check them and keep the report for the next time.

    Parameters
    ----------
    root : Path
        Folder of all reports.
    fingerprints : sequence of str
        Of the data that the training and evaluation rows are a part of.
    rendered : RenderedRows
        The training rows as the model will see them.
    eval_rows, eval_layout, options, progress
        As for :func:`check`.
    most : int
        Rows to look at on each side, the first ones.
    looked : callable, optional
        What looks at them in place of :func:`check`.
    state : str
        What the rows depend on beside their cells, such as files.

    Returns
    -------
    dict
        :meth:`Checked.report`.

    Raises
    ------
    StoreError
        When the report cannot be written.
    """
    layouts = [(one.name, one.columns) for one in (rendered.layout, eval_layout) if one]
    settings = {
        **asdict(options),
        "loss_on": rendered.loss_on,
        "system": rendered.system,
        "check": VERSION,
        "fingerprints": list(fingerprints),
        "layouts": layouts,
        "eval": eval_rows is not None,
        "most": most,
        "pii": pii.available(),
        "state": state,
    }
    file = root / f"{key('', rendered.tokenizer, settings)}.json"
    with suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return kept
    first, held = rendered.first(most), eval_rows and eval_rows[:most]
    how: dict[str, Any] = {"rendered": first, "options": options, "progress": progress}
    checked = (looked or check)(first.rows, first.layout, held, eval_layout, **how)
    if len(rendered) > most:
        checked.notes.append(f"the first {most:,} of {len(rendered):,} rows were looked at")
    text = json.dumps(checked.report(), ensure_ascii=False)
    atomic_text(file, text)
    report: dict[str, Any] = json.loads(text)
    return report


def _readings(rows: Table, layout: Layout, found: Findings, kind: str = "") -> Iterator[tuple[int, Reading]]:
    """Read all rows; those that cannot be read become findings, of `kind` or of that which they are."""
    for number, row in enumerate(rows):
        try:
            yield number, read(row, layout)
        except RowProblem as problem:
            found.add(kind or trouble(row, layout), number, problem.reason)


def _structure(
    rows: Table, layout: Layout, held: Mapping[int, Reading], found: Findings, progress: Progress | None
) -> dict[int, Reading]:
    """Find what concerns whole rows: unreadable, empty, repeated, contradicting, also in the evaluation."""
    readings = {}
    for number, reading in _readings(rows, layout, found):
        flaws = {flaw for part in reading.parts if part for flaw in characters.flaws(part)}
        if "empty" in flaws:
            found.add("empty", number, "nothing but characters that cannot be seen")
            continue
        if "near_empty" in flaws:
            found.add("near_empty", number, reading.text)
        if any(map(printed.by_numpy, reading.parts)):
            found.add("printed", number, reading.text)
        if any(role == following != "tool" for role, following in pairwise(reading.roles)):
            found.add("turns", number, reading.text)
        readings[number] = reading
        if progress and number % BATCH == 0:
            progress(number / len(rows), "checking rows")
    texts = [reading.text for reading in (*readings.values(), *held.values())]
    groups = duplicates.groups(texts, progress=progress)
    leaked = dict(zip(reversed(groups[len(readings) :]), reversed(list(held)), strict=True))
    asked = {same(one.prompt): number for number, one in list(held.items())[::-1] if one.answers and one.prompt}
    first: dict[tuple[int, str], list[int]] = {}
    exact: dict[tuple[str, str], int] = {}
    for (number, reading), group in zip(readings.items(), groups, strict=False):
        labels, why = reading.answer if reading.labels else "", ""
        before = first.setdefault((group, labels), [])
        if reading.answers and (other := asked.get(same(reading.prompt))) is not None:
            why = f"the prompt of evaluation row {other}"
        elif (other := leaked.get(group)) is not None and preferences.near(reading, held[other]):
            why = f"like evaluation row {other}"
        if why:
            found.add("leak", number, f"{why}: {reading.text}", why)
        elif (other := exact.setdefault((same(reading.text), labels), number)) != number:
            found.add("duplicate", number, f"duplicate of row {other}: {reading.text}", f"duplicate of row {other}")
        elif (other := next((one for one in before if preferences.near(reading, readings[one])), None)) is not None:
            why = f"near-duplicate of row {other}"
            found.add("near_duplicate", number, f"{why}: {reading.text}", why)
        elif len(before) < COMPARED:
            before.append(number)
    repeated = {*found.rows["leak"], *found.rows["duplicate"], *found.rows["near_duplicate"]}
    _contradictions({number: one for number, one in readings.items() if number not in repeated}, found)
    return readings


def _contradictions(readings: Mapping[int, Reading], found: Findings) -> None:
    answers: dict[str, tuple[int, str]] = {}
    for number, reading in readings.items():
        if reading.prompt and not reading.answers:  # to compare or rate several answers is what preferences do
            other, answer = answers.setdefault(same(reading.prompt), (number, same(reading.answer)))
            if answer != same(reading.answer):
                said = {} if reading.labels else {"level": "info", "advice": "keep both only if both are right"}
                found.add("contradiction", number, f"conflicts with row {other}: {reading.prompt}", **said)


def label_findings(readings: Mapping[int, Reading], held: Mapping[int, Reading], found: Findings) -> dict[str, str]:
    """Look at the labels; gives the usual spelling of each that has another one."""
    counts = Counter(label for reading in readings.values() for label in reading.labels)
    usual: dict[str, str] = {}
    for label, _ in counts.most_common():
        usual.setdefault(same(label), label)
    spellings = {label: usual[same(label)] for label in counts if usual[same(label)] != label}
    for number, reading in readings.items():
        for label in reading.labels:
            if label in spellings:
                found.add("label_spelling", number, f"{label!r}, usually {spellings[label]!r}")
    for number, reading in held.items():
        for label in reading.labels:
            if label not in counts:
                found.add("unknown_label", number, f"{label!r}{nearest(label, counts)}")
    merged = Counter(spellings.get(label, label) for label in counts.elements()).most_common()
    if len(merged) == 1:
        found.say("one_label", title=f"a single label, {shown(merged[0][0])!r}: nothing to classify")
    rare = [f"{shown(label)!r} {count}" for label, count in reversed(merged) if count < USUAL_ROWS_A_LABEL]
    if rare:
        more = f" and {len(rare) - EXAMPLES:,} more labels" if len(rare) > EXAMPLES else ""
        title = f"few rows of {', '.join(rare[:EXAMPLES])}{more}; {USUAL_ROWS_A_LABEL} of each are a rule of thumb"
        found.say("few", title=title)
    if merged and merged[0][1] >= IMBALANCE * merged[-1][1]:
        (most, many), (least, few) = merged[0], merged[-1]
        found.say("imbalance", title=f"imbalanced classes: {shown(most)!r} has {many:,} rows, {shown(least)!r} {few:,}")
    return spellings


def unused_findings(
    rows: Table, layout: Layout, readable: Container[int], rendered: RenderedRows | None, found: Findings
) -> None:
    """Name the columns and keys that nothing reads though they could change what is learned."""
    columns = unused.find(rows, layout.columns.values())
    said: dict[str, str] = {
        kind: ", ".join(str(one) for one in columns if one.what == what)
        for kind, what in (("media", "media"), ("unused_column", "content"), ("judgement", "judgement"))
    }
    if said["media"]:
        media = [one for one in columns if one.what == "media"]
        found.say("media", title=unused.untrained(media, layout.columns))
    if said["unused_column"]:
        found.say(
            "unused_column", title=f"columns that are not used, though they hold content: {said['unused_column']}"
        )
    if said["judgement"]:
        title = f"columns of ratings that are not used (all rows count the same): {said['judgement']}"
        found.say("judgement", title=title)
    if layout.plain:  # no messages, no keys
        return
    dropped = rendered is not None and "reasoning_content" in rendered.renderer.unwritten
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        keys = [key for key, _ in layout.unread(row)]
        if dropped and number in readable and any("reasoning_content" in turn for turn in turns(row, layout)):
            keys.append("reasoning_content (the model's chat template does not write it)")
        if keys:
            names |= dict.fromkeys(keys)
            found.add("unused_key", number, ", ".join(dict.fromkeys(keys)))
        if number in readable and layout.by_number(row):
            found.add("choice_number", number, "")
    if names:
        told = {"title": "{rows} with keys of messages that are not used: " + ", ".join(names)}
        found.changed["unused_key"] |= told | ({"level": "info"} if all(map(unused.is_aside, names)) else {})


def text_findings(
    rows: Table, layout: Layout, readable: Container[int], found: Findings, options: Options, progress: Progress | None
) -> None:
    """Look at the letters of every text that can be read: encoding, control characters, secrets, personal data."""
    people = pii.available()
    said: dict[str, Any] = {"level": "error"} if options.personal_data == "refuse" else {}
    for number, row in enumerate(rows):
        if number not in readable:
            continue
        before = ""
        for text in (text for column in layout.written.values() for text in strings(row.get(column))):
            for kind in dict.fromkeys(FLAWS[flaw] for flaw in characters.flaws(text) if flaw in FLAWS):
                found.add(kind, number, text)
            if matches := secrets.secrets(text, before, options.allow):
                found.add("secret", number, _named(text, matches))
            if people and number < PERSONAL_ROWS and (matches := pii.personal(text, options.allow)):
                found.add("personal", number, _named(text, matches), **said)
            before += f"{text}\n"
        if progress and number % 64 == 0:
            progress(number / len(rows), "checking texts")


FLAWS = {"mojibake": "encoding", "replacement": "replacement", "control": "control", "invisible": "control"}


def _named(text: str, matches: Sequence[pii.Match]) -> str:
    return ", ".join(f"{match.kind} {pii.masked(text, match)}" for match in matches)


def _fix(
    rows: Table,
    layout: Layout,
    held: Mapping[int, Reading],
    found: Findings,
    spellings: Mapping[str, str],
    allow: Collection[str],
    kinds: Collection[str],
) -> Fixed:
    """Repair cells, then leave out what is still unreadable, empty, repeated or in the evaluation too."""
    touched = {number for kind in REPAIRED if kind in kinds for number in found.rows.get(kind, ())}
    patches: Patches = {}
    done: dict[int, list[str]] = {}
    for number, row in enumerate(rows):
        if number in touched or ("personal" in kinds and number >= PERSONAL_ROWS):
            patch, what = repaired(row, layout, spellings, kinds, allow)
            if patch:
                patches[number], done[number] = patch, what
    again = Findings()
    _structure(overlaid(rows, patches), layout, held, again, None)
    dropping = [kind for kind in KINDS if kind in kinds and KINDS[kind].fix == DROP]
    measured = [kind for kind in MEASURED if kind in kinds and found.fix(kind)]
    dropped = {number: (kind, found) for kind in measured for number in found.rows.get(kind, ())}
    dropped |= {number: (kind, again) for kind in dropping for number in again.rows[kind]}
    done |= {number: [f"dropped: {why.why[kind, number]}"] for number, (kind, why) in dropped.items()}
    changes = [Change(number, what) for number in sorted(done) for what in done[number]]
    kept = [number for number in range(len(rows)) if number not in dropped]
    patches = {number: patch for number, patch in patches.items() if number not in dropped}
    return Fixed(kept, patches, changes, {number: kind for number, (kind, _) in dropped.items()})


REPAIRED = ("encoding", "control", "secret", "personal", "label_spelling")
MEASURED = ("malformed", "identical", "nothing", "long_prompt", "cut_alike", "echo")
