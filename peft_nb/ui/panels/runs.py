"""The panel of the store: find runs, and open, resume, compare, promote or remove them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from peft_nb.errors import RunError
from peft_nb.events import Listener
from peft_nb.runs.compare import gather, named
from peft_nb.runs.run import Run, active
from peft_nb.store import Record, Store
from peft_nb.system.frontend import variables
from peft_nb.ui import lineage, live, side_by_side, wording
from peft_nb.ui import runs as listing
from peft_nb.ui.compare import OPTIONS, Comparison
from peft_nb.ui.panels.panel import FIELD, LABEL, Panel, Tell, button, put, row
from peft_nb.ui.panels.run import EmbeddedSurface
from peft_nb.ui.view import RunView


class RunTable(anywidget.AnyWidget):
    """Runs as a table whose headers, titles and boxes can be pressed.

    Parameters
    ----------
    act : callable
        Gets what was pressed: ``sort`` with a column, ``open`` with an id, ``tag`` with a tag, or ``run`` with an id
        and ``chosen``.
    """

    _esm = Path(__file__).with_name("runs.js")
    _css = Path(__file__).with_name("runs.css")
    value = traitlets.Unicode().tag(sync=True)

    def __init__(self, act: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self.add_class("peft-nb-listing")
        self.on_msg(lambda widget, content, buffers: act(content))


class Question:
    """What is asked before something is done: a line, fields and two buttons; hidden until it is asked.

    Parameters
    ----------
    fields : sequence of ipywidgets.Widget
        What can be filled in; the first gets the focus.
    yes : str
        What stands on the button that does it.
    act, cancel : callable
        Does it, and puts it away.
    """

    def __init__(
        self, fields: Sequence[ipywidgets.Widget], yes: str, act: Callable[[], None], cancel: Callable[[], None]
    ) -> None:
        self._said, self._fields = ipywidgets.HTML(), fields
        answers = row(button(yes, act), button("Cancel", cancel))
        self.box = ipywidgets.VBox([self._said, row(*fields), answers])
        self.box.add_class("peft-nb-question")
        self.hide()

    def ask(self, text: str) -> None:
        """Show the question."""
        self._said.value = f'<div role="status">{escape(text)}</div>'
        self.box.layout.display = ""
        self._fields[0].focus()

    def hide(self) -> None:
        """Put it away."""
        self.box.layout.display = "none"


class RunsPanel(Panel):
    """The runs of a store as a table, and what can be done with those that are ticked in it.

    Parameters
    ----------
    store : Store
        The store.
    """

    command = "%peft runs"

    def __init__(self, store: Store) -> None:
        self._store, self._page, self._drawn = store, 0, dict[str, str]()
        self._column, self._descending = listing.NEWEST, True
        self._asked: list[Record] = []  # about which a question stands, whatever is chosen meanwhile
        self.chosen: list[str] = []
        self.words = _field(ipywidgets.Text, "Find", placeholder="name, method, status, tag:NAME …")
        self.words.layout.width = "300px"  # all of which is to be read
        self.table, self.place, self.opened = RunTable(self.pressed), ipywidgets.HTML(), ipywidgets.VBox()
        self.room = ipywidgets.HTML()

        self.alias = _field(ipywidgets.Text, "Alias", value="production")
        self.called = _field(ipywidgets.Text, "Name")
        self.why = _field(ipywidgets.Text, "Reason for the log")
        self.force = ipywidgets.Checkbox(description="Promote despite failed verdict", indent=False)
        self.promotion = self._question("Promote", self._promoted, self.alias, self.called, self.why, self.force)
        self.gone_why = _field(ipywidgets.Text, "Reason for the log")
        self.removal = self._question("Remove for good", self._removed, self.gone_why)
        self.tags = _field(ipywidgets.Text, "Tags", placeholder="such as baseline, long")
        self.tagging = self._question("Set tags", self._tagged, self.tags)

        self.pages = row(
            button("Previous page", partial(self.attempt, partial(self._turn, -1))),
            button("Next page", partial(self.attempt, partial(self._turn, 1))),
        )
        acts = {
            "Resume": (self._resume, "Continue from the last checkpoint"),
            "Stop": (self._stop, "End the run after its current step"),
            "Compare": (self._compare, "Compare metrics and answers of runs and their base model"),
            "Settings diff": (self._differ, "Show the settings in which runs differ"),
            "Promote …": (self._promote, "Let an alias stand for the run"),
            "Tags …": (self._tag, "Put tags on runs, or take them off"),
            "Remove …": (self._remove, "Delete runs and their folders"),
            "Refresh": (self.refresh, "Read the store again"),
        }
        buttons = [button(name, partial(self.attempt, act), help=help) for name, (act, help) in acts.items()]
        finding = row(self.words, self.place, self.pages)
        self._needs_runs = [finding, *buttons[:-1]]
        self._questions = [self.promotion, self.tagging, self.removal]
        super().__init__("runs", [finding, row(*buttons), *(question.box for question in self._questions)])
        self.box.children += (self.opened, self.table, self.room)  # last, for they are long
        self.words.observe(lambda change: self.attempt(self._first), "value")
        self.refresh()

    def _question(self, yes: str, act: Callable[[], str], *fields: ipywidgets.Widget) -> Question:
        return Question(fields, yes, partial(self.attempt, act), self._clear)

    # ---- the table -----------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the store again and show it."""
        self._records = self._store.all()
        self.result = listing.listed(self._store)
        self.room.value = escape(self.result.space if self._records else "")
        self._drawn.clear()
        self._show()
        self.keep()

    def pressed(self, content: Mapping[str, Any]) -> None:
        """Do what a press on the table means: sort by a column, open a run, choose one, or find those with a tag."""
        if (column := content.get("sort")) in listing.COLUMNS:
            usual = listing.COLUMNS[column].descending
            self._descending = not self._descending if column == self._column else usual
            self._column = column
            self.attempt(self._first)
        elif id := content.get("open"):
            self.attempt(partial(self._open, id))
        elif tag := content.get("tag"):
            self.words.value = f"tag:{tag}"
        elif id := content.get("run"):
            self.chosen = [one for one in self.chosen if one != id] + [id] * bool(content.get("chosen"))
            self._show()

    def _first(self) -> None:
        self._page = 0
        self._show()

    def _turn(self, by: int) -> None:
        self._page += by
        self._show()

    def _show(self) -> None:
        self.say("")  # what was said of what was shown until now
        found = listing.found(self._records, self.words.value)
        found = listing.ordered(found, self._column, self._descending)
        self._page = max(0, min(self._page, (len(found) - 1) // listing.PAGE))
        first = self._page * listing.PAGE
        shown = found[first : first + listing.PAGE]
        self._drawn |= listing.curves(self._store, [one for one in shown if one.id not in self._drawn])
        self.chosen = [id for id in self.chosen if id in {one.id for one in shown}]  # what is done, is done to these
        drawn = listing.table(shown, self._drawn, self._column, self._descending, self.chosen)
        self.table.value = drawn if self._records else listing.empty()
        for one in self._needs_runs:
            one.layout.display = "" if self._records else "none"
        self.pages.layout.display = "" if len(found) > listing.PAGE else "none"
        fewer = f", of {wording.count(len(self._records), 'run')} in all" if len(found) < len(self._records) else ""
        where = f"{first + 1:,}–{first + len(shown):,} of {len(found):,}" if found else "no run"
        ticked = f" · {len(self.chosen)} chosen" if self.chosen else ""
        self.place.value = f'<span role="status">{where}{fewer}{ticked}</span>'

    def _chosen(self) -> list[Record]:
        if not self.chosen:
            raise RunError("no run is chosen; tick one in the table")
        return [self._store.get(id) for id in self.chosen]

    def _one(self) -> tuple[Run, str | None]:
        first, *others = self._chosen()
        if others:
            raise RunError(f"{len(others) + 1} runs are chosen; this takes one")
        return listing.opened(first.id, self._store, variables())

    # ---- what is done with runs ----------------------------------------------------------------

    def _clear(self) -> None:
        """Put away questions, what is open and what was said: one thing at a time."""
        for question in self._questions:
            question.hide()
        put(self.opened)
        self.say("")

    def _open(self, id: str) -> str:
        run, name = listing.opened(id, self._store, variables())
        self._clear()
        live.show(run, name, EmbeddedSurface(self.opened, self._ended))
        return f"{run.id} is open below; in a cell: %peft show {name or run.id}"

    def _resume(self) -> str:
        run, name = self._one()
        self._clear()
        view, place = live.view_of(run), EmbeddedSurface(self.opened, self._ended)

        def start(listeners: Sequence[Listener]) -> Run:
            return run.resume(background=True, listeners=listeners)

        live.watch(start, background=True, view=view, name=name, on=place)
        self.refresh()
        return f"{run.id} resumes, shown below; Stop ends it. In a cell: %peft resume {name or run.id}"

    def _ended(self, view: RunView) -> None:
        if any(record.id == view.id and record.status != view.status for record in self._records):
            self.refresh()

    def _stop(self) -> str:
        run, _ = self._one()
        if run not in active():
            raise RunError(f"run {run.id} is {run.status}, and this kernel is not at work on it")
        run.stop()
        return f"{run.id} stops after its current step"

    def _compare(self) -> None:
        runs: list[Run | None] = [listing.opened(record.id, self._store, variables())[0] for record in self._chosen()]
        asked = named(runs if len(runs) > 1 else [*runs, None])
        made: list[Comparison] = []

        def work(tell: Tell) -> str:
            found = gather(asked, None, lambda share, what: tell(f"comparing: {what}, {100 * share:.0f} %"), **OPTIONS)
            made.append(Comparison(found))
            return f"compared below; in a cell: %peft compare {' '.join(run.id for run in runs if run)}"

        def then() -> None:
            for comparison in made:
                put(self.opened, comparison.panel.box)

        self._clear()
        self.in_background("comparing", work, then)

    def _differ(self) -> str:
        runs = [listing.opened(record.id, self._store, variables())[0] for record in self._chosen()]
        if len(runs) < 2:
            raise RunError("settings are compared of two or more runs; tick another one in the table")
        shown = side_by_side.settings_rows({name: run.spec for name, run in named(runs).items() if run})
        if not shown:
            return "these runs have the same settings"
        self._clear()
        put(self.opened, ipywidgets.HTML(side_by_side.settings(shown, opened=True)))
        return f"{wording.count(len(shown), 'setting')} {'differs' if len(shown) == 1 else 'differ'}, shown below"

    def _promote(self) -> None:
        run, variable = self._one()
        self._clear()
        self._asked = self._chosen()
        unnamed = self._asked[0].name is None
        self.called.layout.display = "" if unnamed else "none"
        self.called.value = (variable or "") if unnamed else ""
        self.force.value = False
        self.promotion.ask(f"Which alias shall stand for {run.id}, and why?")

    def _promoted(self) -> str:
        (one,) = self._asked
        name, alias = self.called.value.strip() or None, self.alias.value.strip()
        self._store.promote(one.id, alias, why=self.why.value, name=name, force=self.force.value)
        self.promotion.hide()
        self.refresh()
        return lineage.said(self._store.log()[0])

    def _tag(self) -> None:
        self._asked = self._chosen()
        self._clear()
        self.tags.value = ", ".join(self._common())
        whose = f"{'shared by' if len(self._asked) > 1 else 'of'} {_titles(self._asked)}"
        self.tagging.ask(f"Tags {whose}, with spaces or commas between them:")

    def _common(self) -> list[str]:
        """The tags that all runs have about which a question stands."""
        return sorted(set.intersection(*(set(record.tags) for record in self._asked)))

    def _tagged(self) -> str:
        wanted = self.tags.value.replace(",", " ").split()
        for record in self._asked:
            self._store.tag(record.id, *wanted)
            self._store.untag(record.id, *(tag for tag in self._common() if tag not in wanted))
        self.tagging.hide()
        self.refresh()
        return f"{_titles(self._asked)}: tags {', '.join(wanted) or '(none)'}"

    def _remove(self) -> None:
        self._asked = self._chosen()
        for record in self._asked:
            self._store.removable(record.id)
        self._clear()
        self.removal.ask(f"Remove {_titles(self._asked)} with folder, adapter and curve? The log and the lineage stay.")

    def _removed(self) -> str:
        try:
            for record in self._asked:
                self._store.remove(record.id, why=self.gone_why.value)
        finally:
            self.removal.hide()
            self.refresh()
        return f"{_titles(self._asked)} {'is' if len(self._asked) == 1 else 'are'} removed"


def panel_of_default_store(_: listing.Runs) -> RunsPanel:
    """Make the panel of what ``%peft runs`` lists: of all runs in the default store."""
    return RunsPanel(Store())


def _titles(records: Sequence[Record]) -> str:
    return ", ".join(record.title for record in records)


def _field(kind: type[ipywidgets.Widget], label: str, **options: Any) -> Any:
    """Make a field whose label is never cut off, and which takes the width there is."""
    return kind(description=label, style=LABEL, layout=FIELD, **options)
