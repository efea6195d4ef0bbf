"""A comparison as text, as HTML for a notebook and as a page of its own: table, curves, answers with differences.

What colour says is also said by a sign or a line, and all that comes from data or models is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from textwrap import indent
from typing import Any, NamedTuple

from peft_nb.data.prompts import Prompt
from peft_nb.metrics import comparable
from peft_nb.runs.compare import Compared
from peft_nb.spec import RunSpec
from peft_nb.ui import clips, differences, images, votes, wording
from peft_nb.ui.differences import MARK, clean, marked
from peft_nb.ui.style import BOX, MUTED, NUMBERS

BEST = "★"
WIN_RATE = "win rate (95 % interval)"
LONGEST = 400  # letters of a prompt shown at once
IN_TEXT, IN_CELL = 600, 24  # letters of an answer shown in a terminal, and of a cell that has a place in the table
WRAP = "white-space:normal;overflow-wrap:anywhere"
NARROW = f"min-width:7.5em;max-width:18em;{WRAP}"
SCROLLED = 'tabindex="0" role="region" style="overflow-x:auto"'  # by the keyboard too
CELL = "text-align:left;vertical-align:top;padding:3px 16px 3px 0"
HEADER = "min-width:8em;font-weight:normal;white-space:normal;overflow-wrap:break-word"
RIGHT = "text-align:right"
FOREIGN = "white-space:pre-wrap;overflow-wrap:anywhere"
WIDE = BOX.replace("max-width:960px", "max-width:1400px")
GRID = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(240px,100%),1fr));gap:8px;margin:6px 0 0"
CARD = "min-width:0;padding:6px 10px;border-radius:4px;border:1px "
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no script, and nothing from elsewhere


class Row(NamedTuple):
    """A row of a table: title, what is said of each run, which are best, the key of a metric, whether it is numbers."""

    title: str
    said: dict[str, str]
    best: set[str]
    key: str = ""
    number: bool = False


def keys(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name all that is known of any run, in the order in which it is shown."""
    known = ("method", "model", "data", *comparable(), "verdict")
    return [key for key in known if any(key in own for own in facts.values())]


def said(prompt: Prompt) -> str:
    """Give a prompt as one text; of a conversation who says what."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt if turn["role"] != "system")


def headline(found: Compared) -> str:
    """Say what is compared, such as ``"a, b, base on smollm2-135m"``."""
    models = dict.fromkeys(own["model"] for own in found.facts.values())
    return f"{', '.join(found.runs)} on {' and '.join(models)}"


def rows(found: Compared) -> list[Row]:
    """List what is known of the runs, one measure a row: runs are fewer than measures."""
    told = []
    for key in keys(found.facts):
        own = {name: facts[key] for name, facts in found.facts.items() if key in facts}
        if measure := comparable().get(key):
            best: set[str] = set()
            if key not in found.unranked and len(set(own.values())) > 1:
                best = {name for name, value in own.items() if value == measure.best(own.values())}
            shown = {name: wording.measured(value, measure.unit) for name, value in own.items()}
            told.append(Row(measure.title, shown, best, key, number=True))
        else:
            told.append(Row(key, own, set()))
    return told


def text(found: Compared) -> str:
    """Write a comparison for a terminal.

    Parameters
    ----------
    found : Compared
        What is compared.

    Returns
    -------
    str
        The table, what is too long for it, notes, and the answers one below the other.
    """
    told = rows(found)
    shown = [row for row in told if all(len(said) <= IN_CELL for said in row.said.values())]
    lines = [headline(found), *_lines(list(found.runs), shown)]
    lines += [line for row in told if row not in shown for line in _below(row, list(found.runs))]
    lines += [
        f"  {row.title}: " + ", ".join(f"{name} {said}" for name, said in row.said.items()) for row in differing(found)
    ]
    lines += [f"  {BEST} best of its row"] * any(row.best for row in shown)
    lines += [f"  {row.title}: {WIN_RATE} {', '.join(row.said.values())}" for row in _wins(found)]
    lines += [f"  note: {note}" for note in found.notes]
    for prompt, reference, given in asked(found):
        first = next(iter(given))
        lines += ["", _cut(prompt, LONGEST)]
        lines += [f"  reference: {_indented(reference)}"] if reference else []
        for name, answer in given.items():
            same = name != first and answer == given[first]
            lines.append(f"  {name}: {f'(as {first})' if same else _indented(answer)}")
    longest = max((len(answer) for answers in found.answers.values() for answer in answers), default=0)
    lines += ["", f"  answers end after {IN_TEXT} letters here; .answers holds them whole"] * (longest > IN_TEXT)
    return clean("\n".join(lines))


def _below(row: Row, names: list[str]) -> list[str]:
    """What has no place in a table in a terminal; what is the same for all is said once."""
    said = {row.said.get(name) for name in names}
    if len(said) == 1:
        return [f"  {row.title}: {said.pop()}"]
    return [f"  {row.title} of {name}: {one}" for name, one in row.said.items()]


def _lines(names: list[str], shown: list[Row]) -> Iterable[str]:
    """A table in a terminal, numbers to the right."""
    head = Row("", {name: name for name in names}, set(), number=any(row.number for row in shown))
    titles = [f"{row.title} ({row.key})" if row.key else row.title for row in (head, *shown)]
    cells = [
        [row.said.get(name, "") + (f" {BEST}" if name in row.best else "  " * row.number) for name in names]
        for row in (head, *shown)
    ]
    side, widths = max(map(len, titles)), [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, title, line in zip((head, *shown), titles, cells, strict=True):
        pad = str.rjust if row.number else str.ljust
        yield f"  {title:<{side}}  {'  '.join(map(pad, line, widths))}".rstrip()


def html(found: Compared, heading: str = "p") -> str:
    """Draw a comparison.

    Parameters
    ----------
    found : Compared
        What is compared; its words may come from anywhere and are escaped.
    heading : str
        The element of the headline.

    Returns
    -------
    str
        An HTML fragment that needs neither scripts nor style sheets.
    """
    metrics, learned = table(found) + win_rates(found) + settings(differing(found)), _picture(found)
    parts = (title(found, heading), metrics, learned, notes(found), _answers(found))
    return clean(f'<div style="{WIDE}">{"".join(parts)}</div>')


def page(found: Compared) -> str:
    """Draw a comparison as a page of its own; see :func:`html`."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(clean(headline(found)))}</title>'
        "<style>:root{color-scheme:light dark}body{margin:24px auto;padding:0 16px;max-width:1400px}</style>"
        f"</head><body><main>{html(found, 'h1')}</main></body></html>\n"
    )


def title(found: Compared, heading: str = "p") -> str:
    """Draw the headline."""
    style = f"margin:0 0 8px;font-size:1.15em;{WRAP}"
    return f'<{heading} style="{style}"><strong>{escape(headline(found))}</strong></{heading}>'


def notes(found: Compared) -> str:
    """Draw what a reader has to know."""
    return "".join(f'<div style="{MUTED}" dir="auto">Note: {escape(note)}</div>' for note in found.notes)


def table(found: Compared) -> str:
    """Draw the metrics."""
    names = {}
    for name, run in found.runs.items():
        id = f'<br/><span style="{MUTED};font-weight:normal">{run.id}</span>' if run and run.id != name else ""
        names[name] = escape(name) + id
    shown = rows(found)
    legend = f'<div style="{MUTED}">{BEST} best of its row</div>' if any(row.best for row in shown) else ""
    return _table("metrics", names, shown) + legend


def win_rates(found: Compared) -> str:
    """Draw how often each was preferred to each; nothing where nobody voted."""
    shown = _wins(found)
    return _table("win rates", {key: key for key in shown[0].said}, shown) if shown else ""


def _wins(found: Compared) -> list[Row]:
    told = []
    for one in votes.win_rates(found.votes, found.ids):
        rate = "unknown"
        if one.share is not None and one.low is not None and one.high is not None:
            rate = f"{wording.share(one.share)} ({wording.share(one.low)} to {wording.share(one.high)})"
        ties = f", {wording.count(one.ties, 'tie')}" * (one.ties > 0)
        said = {WIN_RATE: rate, "votes": wording.count(one.of, "vote") + ties}
        told.append(Row(f"{one.run} over {one.over}", said, set(), number=True))
    return told


def differing(found: Compared) -> list[Row]:
    """List the settings in which the runs differ, one setting a row."""
    return settings_rows({name: run.spec for name, run in found.runs.items() if run})


def settings_rows(specs: Mapping[str, RunSpec]) -> list[Row]:
    """List the settings in which specs differ, one setting a row."""
    told = differences.settings(specs).items()
    return [
        Row(field, {name: _value(value) for name, value in own.items()}, set(), number=_numbers(own.values()))
        for field, own in told
    ]


def settings(shown: list[Row], *, opened: bool = False) -> str:
    """Draw settings that differ, folded away unless they are `opened`; nothing where there are none."""
    if not shown:
        return ""
    names = {name: escape(name) for name in shown[0].said}
    unfolded = " open" * opened
    head = f'<summary style="margin-top:8px">Settings that differ ({len(shown)})</summary>'
    return f"<details{unfolded}>{head}{_table('settings that differ', names, shown)}</details>"


def _numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(one, int | float | None) and not isinstance(one, bool) for one in values)


def _value(value: Any) -> str:
    if value is None:
        return "not specified"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(label: str, names: Mapping[str, str], shown: list[Row]) -> str:
    """Draw rows, a column a name, whose HTML is given; numbers stand to the right."""
    numbers = any(row.number for row in shown)
    head = "".join(
        f'<th scope="col" style="{CELL};{NARROW};{RIGHT * numbers}" dir="auto">{html}</th>' for html in names.values()
    )
    body = ""
    for row in shown:
        key = f' <code style="{MUTED}">{row.key}</code>' if row.key else ""
        body += f'<tr><th scope="row" style="{CELL};{HEADER}">{escape(row.title)}{key}</th>'
        for name in names:
            value = escape(row.said.get(name, ""))
            value = f"<strong>{value} {BEST}</strong>" if name in row.best else value
            body += f'<td style="{CELL};{NARROW};{NUMBERS};{RIGHT * row.number}" dir="auto">{value}</td>'
        body += "</tr>"
    style = "margin:0;color:inherit;font-size:inherit;border-collapse:collapse"
    return (
        f'<div {SCROLLED} aria-label="{label}"><table style="{style}"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def downloads(files: Mapping[str, str]) -> str:
    """Draw links to files that lie in the links themselves; the csv has a mark by which Excel reads UTF-8."""
    links = []
    for name, text in files.items():
        kind, sign = ("text/html", "utf-8") if name.endswith("html") else ("text/csv", "utf-8-sig")
        data = b64encode(text.encode(sign, "replace")).decode()
        link = f'download="{name}" href="data:{kind};charset=utf-8;base64,{data}"'
        links.append(f'<a style="text-decoration:underline" {link}>{name}</a>')
    return f"Download: {' · '.join(links)}"


def ends(found: Compared) -> str:
    """Say in words what the curves show; nothing where there are none."""
    told = []
    for name, (losses, evals) in found.curves.items():
        last = [f"{kind} {wording.loss(one[-1][1])}" for kind, one in (("train", losses), ("eval", evals)) if one]
        told += [f"{name} ends at {', '.join(last)}"] * bool(last)
    return "Loss over steps: " + "; ".join(told) if told else ""


def _picture(found: Compared) -> str:
    if not (told := ends(found)):
        return ""
    from peft_nb.plots import loss_curves

    style = "display:block;min-width:640px;max-width:100%;height:auto;margin:12px 0"
    drawn = loss_curves(found.curves, unit=found.loss_unit)
    return f'<div {SCROLLED} aria-label="loss curves">{drawn.html(told, style)}</div>'


def _answers(found: Compared) -> str:
    """A section a prompt."""
    drawn = list(asked(found))
    return "".join([*(legend(given) for _, _, given in drawn[:1]), *(section(*one) for one in drawn)])


def legend(given: Mapping[str, str]) -> str:
    """Explain the marks in the answers to a prompt, where there are several."""
    if len(given) < 2:
        return ""
    said = f'<ins style="{MARK}">underlined</ins>: not in the answer of <bdi>{escape(next(iter(given)))}</bdi>'
    return f'<div style="margin-top:12px">{said}</div>'


def section(prompt: str, reference: str, given: Mapping[str, str]) -> str:
    """Draw a prompt and a card an answer, beside each other as far as there is room.

    Parameters
    ----------
    prompt, reference : str
        What was asked, and its answer where one is known.
    given : mapping of str to str
        The answers by whom they are from; words that the first has not are marked in the others.
    """
    first, *others = given
    cards = [_card("reference", "", escape(reference), "dashed")] if reference else []
    cards += [_card(first, "", _image(given[first]) or escape(given[first]))]
    for name in others:
        note = f"as {first}" if given[name] == given[first] else ""
        cards += [_card(name, note, _image(given[name]) or marked(given[name], given[first]))]
    return _beside(prompt, cards)


def turn(prompt: str, given: Mapping[str, str], notes: Mapping[str, str]) -> str:
    """Draw a prompt and its answers as :func:`section` does, but mark nothing; with notes on some of them."""
    return _beside(prompt, [_card(name, notes.get(name, ""), escape(answer)) for name, answer in given.items()])


def _beside(prompt: str, cards: Iterable[str]) -> str:
    return f'<section style="margin-top:16px">{_question(prompt)}<div style="{GRID}">{"".join(cards)}</div></section>'


def asked(found: Compared) -> Iterable[tuple[str, str, dict[str, str]]]:
    """Give each prompt that was answered, its reference, and the answers by run."""
    for place, one in enumerate(found.asked if found.answers else []):
        given = {name: answers[place] for name, answers in found.answers.items()}
        yield said(one.prompt), one.reference, given


def _image(answer: str) -> str:
    """An answer that is an image; empty for texts."""
    return images.picture(answer, "the image drawn")


def _question(prompt: str) -> str:
    if image := images.picture(prompt, "the image asked about"):
        return f"<div>{image}</div>"
    if sound := clips.player(prompt, "the clip asked about"):
        return f"<div>{sound}</div>"
    style = f"{FOREIGN};font-weight:600"
    if len(prompt) <= LONGEST:
        return f'<div style="{style}" dir="auto">{escape(prompt)}</div>'
    cut = f'<summary style="{style}" dir="auto">{escape(_cut(prompt, LONGEST // 2))}</summary>'
    return f'<details>{cut}<div style="{FOREIGN}" dir="auto">{escape(prompt)}</div></details>'


def _card(name: str, note: str, answer: str, line: str = "solid") -> str:
    told = f' <span style="{MUTED}">({escape(note)})</span>' if note else ""
    shown = answer or f'<span style="{MUTED}">(empty)</span>'
    return (
        f'<div style="{CARD}{line} rgba(128,128,128,.5)"><div><strong><bdi>{escape(name)}</bdi></strong>{told}</div>'
        f'<div style="{FOREIGN}" dir="auto">{shown}</div></div>'
    )


def _indented(answer: str) -> str:
    answer = "(an image)" if _image(answer) else answer
    return indent(_cut(answer, IN_TEXT), "    ").lstrip() or "(empty)"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
