"""What is wrong with a table of clips and their texts before anything is trained on it, and how it can be fixed."""

from __future__ import annotations

import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.audio.hearing import Look, grouped, look
from peft_nb.data.layouts import Layout
from peft_nb.data.media import NEAR_ROWS
from peft_nb.data.quality.checks import Checked, text_findings, unused_findings
from peft_nb.data.quality.findings import DROP, KINDS, Findings
from peft_nb.data.quality.fixes import Change, Fixed, Patches, repaired
from peft_nb.data.quality.lengths import Options
from peft_nb.data.quality.reading import same, trouble
from peft_nb.data.rendered import RenderedRows
from peft_nb.events import Progress

Table = Sequence[Mapping[str, Any]]

LONGEST_S = 30  # that Whisper hears at once
FASTEST, FASTEST_SIGNS = 30, 12  # characters a second that anybody says; of scripts with a sign for a syllable or word
SLOWEST, ENOUGH_S = 1.0, 4.0  # characters a second of speech, and seconds of it, below which a text seems to lack some
MIXED = 0.05  # share of the rows that a second language has at least
WORDS = {  # the commonest of each that the others have not
    "en": "the and of is that with for this was you",
    "de": "der die und das ist nicht mit ein ich auf",
    "fr": "le les et est une des dans que pour je",
    "es": "el los y es una del por que con lo",
    "it": "il di che per non sono della gli con è",
    "pt": "o os e um uma não para com em do",
    "nl": "de het een van en niet dat op zijn met",
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
    """Look for everything that spoils training; parameters and result as of :func:`.quality.checks.check`.

    Lengths are those of the clips, in seconds, rounded up.
    """
    found, notes, options = Findings(), list[str](), options or Options()
    held = _looks(eval_rows or (), eval_layout or layout, found, "evaluation", None)
    own = _looks(rows, layout, found, "", progress)
    texts = {number: layout.spoken(rows[number])[1] for number in own}
    for number, one in own.items():
        _alone(number, one, texts[number], found)
    _repeated(own, texts, held, found)
    _languages(texts, found)
    text_findings(rows, layout, own, found, options, progress)
    unused_findings(rows, layout, own, None, found)
    if len(own) + len(held) > NEAR_ROWS:
        notes.append(f"above {NEAR_ROWS:,} clips only exact duplicates are looked for, no near-duplicates")
    if len(own) < options.usual_rows:
        found.say("few", title=f"few rows: {len(own):,}; {options.usual_rows} are a rule of thumb")
    lengths = array("q", (math.ceil(one.seconds) for one in own.values()))
    fix = partial(_fix, rows, layout, found, options.allow)
    return Checked(rows, layout, found.all(), lengths, False, {}, notes, fix, "seconds per clip")


def _looks(rows: Table, layout: Layout, found: Findings, kind: str, progress: Progress | None) -> dict[int, Look]:
    """Listen to all clips; those that cannot be read, or have no text, become findings."""
    looks = {}
    for number, row in enumerate(rows):
        try:
            looks[number] = look(layout.spoken(row)[0])
        except RowProblem as problem:
            found.add(kind or trouble(row, layout), number, problem.reason)
        if progress:
            progress((number + 1) / len(rows), "listening to clips")
    return looks


def _alone(number: int, one: Look, text: str, found: Findings) -> None:
    """What is wrong with a clip and its text by themselves."""
    told = f"{one.seconds:.1f} s: {text}"
    signs = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text) > len(text) / 2
    if one.silent:
        found.add("silent", number, told)
    elif len(text) > max(2, (FASTEST_SIGNS if signs else FASTEST) * one.seconds):
        found.add("too_much_text", number, told)
    elif one.spoken > ENOUGH_S and len(text) < SLOWEST * one.spoken:
        found.add("little_text", number, told)
    if one.seconds > LONGEST_S:
        found.add("over_30_s", number, told)
    if one.overdriven:
        found.add("clipping", number, told)


def _repeated(own: Mapping[int, Look], texts: Mapping[int, str], held: Mapping[int, Look], found: Findings) -> None:
    """Find clips that come again, also in the evaluation set, and those that do so with another text."""
    group = grouped([*own.values(), *held.values()])
    leaked = dict(zip(reversed(group[len(own) :]), reversed(list(held)), strict=True))
    first: dict[int, int] = {}
    for number, of in zip(own, group, strict=False):
        other = first.setdefault(of, number)
        if of in leaked:
            why = f"like evaluation row {leaked[of]}"
            found.add("leak", number, why, why)
        elif other != number and same(texts[other]) != same(texts[number]):
            found.add("contradiction", number, f"{texts[number]}; row {other}: {texts[other]}")
        elif other != number:
            exact = own[other].exact == own[number].exact
            why = f"{'duplicate' if exact else 'near-duplicate'} of row {other}"
            found.add("duplicate" if exact else "near_duplicate", number, why, why)


def _languages(texts: Mapping[int, str], found: Findings) -> None:
    """Find texts in another script or language than most."""
    kinds = {number: kind for number, text in texts.items() if (kind := _language(text))}
    counts = Counter(kinds.values()).most_common()
    others = [(kind, count) for kind, count in counts[1:] if count >= max(2, MIXED * len(kinds))]
    if others:
        named = ", ".join(f"{kind} {count:,}" for kind, count in [counts[0], *others])
        found.say("languages", title=f"texts in several scripts or languages: {named}")
        usual = {counts[0][0], None}
        for number, kind in kinds.items():
            if kind not in usual:
                found.add("languages", number, f"{kind}: {texts[number]}")


def _language(text: str) -> str:
    """The script of most letters or, of Latin ones, the language that the commonest words tell; or nothing."""
    scripts = Counter(unicodedata.name(letter, "?").partition(" ")[0] for letter in text if letter.isalpha())
    script = next((name for name, _ in scripts.most_common(1)), "")
    if script != "LATIN":
        return script.capitalize()
    words = Counter(same(text).replace(",", " ").replace(".", " ").split())
    hits = {code: sum(words[one] for one in common.split()) for code, common in WORDS.items()}
    best, second = sorted(hits, key=lambda code: -hits[code])[:2]
    return best if hits[best] >= 2 and hits[best] > hits[second] else ""


def _fix(rows: Table, layout: Layout, found: Findings, allow: Iterable[str], kinds: Collection[str]) -> Fixed:
    """Leave out what is broken, silent or repeated, and repair the letters of texts."""
    dropping = [kind for kind in KINDS if kind in kinds and KINDS[kind].fix == DROP]
    dropped = {number: kind for kind in reversed(dropping) for number in found.rows.get(kind, ())}
    changes = [Change(number, f"dropped: {found.why[kind, number]}") for number, kind in dropped.items()]
    kept, patches = [number for number in range(len(rows)) if number not in dropped], Patches()
    touched = {number for kind in ("encoding", "control", "secret", "personal") for number in found.rows.get(kind, ())}
    for number in sorted(touched - dropped.keys()):
        patch, done = repaired(rows[number], layout, {}, kinds, allow)
        if patch:
            patches[number] = patch
            changes += [Change(number, what) for what in done]
    return Fixed(kept, patches, sorted(changes, key=lambda change: change.row), dropped)
