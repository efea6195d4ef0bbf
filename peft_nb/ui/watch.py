"""``peft_nb.watch`` and ``%peft watch``: whether what a run is asked is still what it learned from."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from peft_nb.data.prompts import short
from peft_nb.evaluation.drift import LEVEL
from peft_nb.runs.run import Run, load
from peft_nb.runs.watch import Found, history
from peft_nb.runs.watch import watch as compared
from peft_nb.serving.route import ENCODER
from peft_nb.system.frontend import variables
from peft_nb.ui import listing, wording
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.style import BOX, MUTED

if TYPE_CHECKING:
    import pandas

    from peft_nb.plots import Picture
    from peft_nb.store import Store


def watch(run: Run | str, rows: Any, *, encoder: str = ENCODER, store: Store | None = None) -> Drift:
    """Compare new rows with those that a run learned from.

    Parameters
    ----------
    run : Run or str
        The run, or its id or name in the store.
    rows : object
        New rows: prompts as a list of str, images or clips as a list of what ``predict`` takes, or whatever a run takes
        as data; with answers their loss is compared too. Also the log of a server that keeps texts.
    encoder : str, default "minilm-l6"
        What embeds texts.
    store : Store, optional
        Where ids and names are looked up; default ``peft_runs`` in the working folder.

    Returns
    -------
    Drift
        ``.drifted``, ``.table``, ``.topics``, ``.step`` and ``.why``, the next step; shown by a notebook.

    Raises
    ------
    DataError
        If there are too few rows, or they are none that can be asked of this run.
    RunError
        If the run draws images, or its rows have left the store.
    """
    found = run if isinstance(run, Run) else load(run, store=store)
    with progress_bar() as progress:
        made = compared(found, rows, encoder=encoder, namespace=variables(), progress=progress)
        return Drift(made, history(found))


class Drift:
    """What has changed since a run was trained, as a notebook shows it.

    Parameters
    ----------
    found : Found
        What was found.
    history : pandas.DataFrame
        What was found so far, as of :func:`peft_nb.runs.watch.history`.
    """

    def __init__(self, found: Found, history: pandas.DataFrame) -> None:
        self.found, self._history = found, history

    @property
    def drifted(self) -> bool:
        """Whether anything has changed."""
        return self.found.drifted

    @property
    def table(self) -> pandas.DataFrame:
        """One row a test: ``what``, ``before``, ``now``, ``distance``, ``p`` and ``alarm``."""
        return self.found.table

    @property
    def topics(self) -> pandas.DataFrame:
        """One row a topic that grew: ``words``, ``before``, ``now`` and ``example``."""
        import pandas

        rows = [(", ".join(one.words), one.before, one.now, one.example) for one in self.found.topics]
        return pandas.DataFrame(rows, columns=["words", "before", "now", "example"])

    @property
    def history(self) -> pandas.DataFrame:
        """One row a test and time: ``at``, ``rows``, ``what``, ``distance``, ``p`` and ``alarm``."""
        return self._history

    def plot(self) -> Picture:
        """Draw how surely each test saw a change, each time that the run was watched."""
        from peft_nb import plots

        rows = self._history[["at", "what", "p"]].itertuples(index=False)
        return plots.watched([tuple(row) for row in rows], LEVEL)

    @property
    def step(self) -> str:
        """What is to be done: ``nothing``, ``label``, ``retrain`` or ``roll back``."""
        return self.found.step

    @property
    def why(self) -> str:
        """The next step, in words."""
        return self.found.why

    def __repr__(self) -> str:
        found = self.found
        lines = [headline(found)]
        for one in found.tests:
            lines.append(f"  {one.name}: {one.before} → {one.now} (p {one.p:.3f}){' changed' if one.alarm else ''}")
        if found.words and found.drifted:
            lines.append(f"  words that grew: {', '.join(word for word, *_ in found.words)}")
        for topic in found.topics if found.drifted else ():
            said = f"{', '.join(topic.words)} ({topic.before} → {topic.now})"
            lines.append(f"  topic that grew: {said}, such as: {short(topic.example)}")
        return "\n".join([*lines, *(f"note: {one}" for one in found.notes), f"next: {found.why}"])

    def _repr_html_(self) -> str:
        times = self._history["at"].nunique()
        said = f"How surely each test saw a change, each of the {times} times that it was watched"
        return page(self.found, self.plot().html(said) if times > 1 else "")


def headline(found: Found) -> str:
    """Say in a line whether anything has changed."""
    changed = [one.name for one in found.tests if one.alarm]
    said = f"changed: {', '.join(changed)}" if changed else "no change"
    return f"{found.run}, {wording.count(found.rows, 'new row')}: {said}"


def page(found: Found, chart: str = "") -> str:
    """Draw the tests, how they went over time, what grew, the rows least like any before, and the next step."""
    tests = [(one.name, one.before, one.now, f"{one.p:.3f}", "changed" if one.alarm else "") for one in found.tests]
    parts = [f"<div><b>{escape(headline(found))}</b></div>", listing.rows(("what", "before", "now", "p", ""), tests)]
    parts += [chart, *(f"<div>{escape(one)}</div>" for one in found.notes)]
    if found.drifted:
        if found.words:
            grew = ", ".join(f"{word} ({before} → {now})" for word, before, now in found.words)
            parts.append(f"<div>Words that grew, by the rows that have them: {escape(grew)}</div>")
        if found.topics:
            topics = [(", ".join(one.words), str(one.before), str(one.now), short(one.example)) for one in found.topics]
            parts.append("<div>Topics that grew, by their rows</div>")
            parts.append(listing.rows(("topic", "before", "now", "such as"), topics))
        unlike = [(short(new), short(old), f"{similarity:.2f}") for new, old, similarity in found.new]
        parts.append("<div>Least like anything it learned from</div>")
        parts.append(listing.rows(("new row", "nearest training row", "similarity"), unlike))
    note = f"All tests together see a change where there is none in {LEVEL:.0%} of cases at most; p is corrected."
    parts += [f'<div style="{MUTED}">{note}</div>', f"<div><b>Next:</b> {escape(found.why)}</div>"]
    return f'<div style="{BOX}">{"".join(parts)}</div>'
