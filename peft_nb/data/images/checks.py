"""What is wrong with a table of labelled or captioned images before anything is trained on it, and how it is fixed."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.images.encoding import content
from peft_nb.data.images.similar import Look, grouped, look
from peft_nb.data.layouts import Layout
from peft_nb.data.media import NEAR_ROWS
from peft_nb.data.quality.checks import Checked, label_findings, unused_findings
from peft_nb.data.quality.findings import DROP, KINDS, Findings
from peft_nb.data.quality.fixes import Change, Fixed
from peft_nb.data.quality.lengths import Options
from peft_nb.data.quality.reading import Reading, same
from peft_nb.data.rendered import RenderedRows
from peft_nb.events import Progress

Table = Sequence[Mapping[str, Any]]

TINY = 16  # pixels of the shorter side, below which hardly anything can be seen
USUAL_MODES = ("RGB", "L", "1", "P")  # what becomes RGB without a loss that matters


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
    """Look for everything that spoils training; parameters and result as of :func:`.quality.checks.check`.

    Lengths are the longer sides of the images, in pixels.
    """
    found, notes = Findings(), list[str]()
    held = _looks(eval_rows or (), eval_layout or layout, found, "evaluation", None)
    own = _looks(rows, layout, found, "malformed", progress)
    for number, one in own.items():
        about = f"{one.width} × {one.height} pixels"
        if min(one.width, one.height) < TINY:
            found.add("tiny", number, about, f"tiny: {about}")
        if one.mode not in USUAL_MODES:
            found.add("mode", number, one.mode)
        if one.located:
            found.add("location", number, about)
    labels = _labels(rows, layout, own)
    _repeated(own, labels, held, found)
    readings = {number: _reading(some) for number, some in labels.items()}
    kept = _labels(eval_rows or (), eval_layout or layout, held)
    held_readings = {number: _reading(some) for number, some in kept.items()}
    spellings = label_findings(readings, held_readings, found) if layout.kind == "image" else {}
    unused_findings(rows, layout, own, None, found)
    if len(own) + len(held) > NEAR_ROWS:
        notes.append(f"above {NEAR_ROWS:,} images only exact duplicates are looked for, no near-duplicates")
    sides = array("q", (max(one.width, one.height) for one in own.values()))
    counts = Counter(label for some in labels.values() for label in some)
    fix = partial(_fix, rows, layout, found, spellings)
    return Checked(
        rows, layout, found.all(), sides, False, dict(counts.most_common()), notes, fix, "longer side, pixels"
    )


def _looks(rows: Table, layout: Layout, found: Findings, kind: str, progress: Progress | None) -> dict[int, Look]:
    """Look at all images; those that cannot be read become findings."""
    looks = {}
    for number, row in enumerate(rows):
        try:
            layout.caption(row) if layout.kind == "captioned" else layout.labels(row)
            looks[number] = look(content(layout, row))
        except RowProblem as problem:
            found.add(kind, number, problem.reason)
        if progress:
            progress((number + 1) / len(rows), "looking at images")
    return looks


def _labels(rows: Table, layout: Layout, looks: Mapping[int, Look]) -> dict[int, tuple[str, ...]]:
    return {number: layout.labels(rows[number]) if layout.kind == "image" else () for number in looks}


def _reading(labels: tuple[str, ...]) -> Reading:
    """What checks of labels look at."""
    return Reading((), labels=labels)


def _repeated(
    own: Mapping[int, Look], labels: Mapping[int, tuple[str, ...]], held: Mapping[int, Look], found: Findings
) -> None:
    """Find images that come again, also in the evaluation set, and those that do so under another label."""
    group = grouped([*own.values(), *held.values()])
    leaked = dict(zip(reversed(group[len(own) :]), reversed(list(held)), strict=True))
    first: dict[int, int] = {}
    for number, of in zip(own, group, strict=False):
        other = first.setdefault(of, number)
        if of in leaked:
            why = f"like evaluation row {leaked[of]}"
            found.add("leak", number, why, why)
        elif other != number and {*map(same, labels[other])} != {*map(same, labels[number])}:
            found.add("contradiction", number, f"{', '.join(labels[number])}; row {other}: {', '.join(labels[other])}")
        elif other != number:
            exact = own[other].exact == own[number].exact
            why = f"{'duplicate' if exact else 'near-duplicate'} of row {other}"
            found.add("duplicate" if exact else "near_duplicate", number, why, why)


def _fix(rows: Table, layout: Layout, found: Findings, spellings: Mapping[str, str], kinds: Collection[str]) -> Fixed:
    """Leave out what is broken or repeated, and use one spelling of a label."""
    dropping = [kind for kind in KINDS if kind in kinds and KINDS[kind].fix == DROP]
    dropped = {number: kind for kind in reversed(dropping) for number in found.rows.get(kind, ())}
    patches: dict[int, dict[str, Any]] = {}
    changes = [Change(number, f"dropped: {found.why[kind, number]}") for number, kind in dropped.items()]
    for number in found.rows.get("label_spelling", ()) if "label_spelling" in kinds else ():
        if number not in dropped:
            names = layout.labels(rows[number])
            usual = [spellings.get(name, name) for name in names]
            column = layout.columns["label"]
            patches[number] = {column: usual if isinstance(rows[number][column], list | tuple) else usual[0]}
            changes.append(Change(number, f"label {', '.join(names)!r} → {', '.join(usual)!r}"))
    kept = [number for number in range(len(rows)) if number not in dropped]
    return Fixed(kept, patches, sorted(changes, key=lambda change: change.row), dropped)
