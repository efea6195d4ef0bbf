"""``%peft panel``: a run described in a form, checked and estimated while it is typed, kept as a cell, and started."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby, zip_longest
from typing import Any, get_args

import ipywidgets

from peft_nb.data.sources import at_hand
from peft_nb.errors import DataError, RunError
from peft_nb.events import Listener, Progress
from peft_nb.planning.advise import CHOICES, Advice, advise
from peft_nb.planning.rules import Goal
from peft_nb.runs import run
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.place import Place
from peft_nb.spec.recipes import get, names
from peft_nb.system.frontend import variables
from peft_nb.ui import check, forecast, form
from peft_nb.ui.live import watch
from peft_nb.ui.panels.controls import Collapsible, Control, StatusLine, choice, grid, prose
from peft_nb.ui.panels.debounce import Debouncer, RaiseIfSuperseded
from peft_nb.ui.panels.insert_cell import InsertCell
from peft_nb.ui.panels.panel import Panel, Tell, button, row
from peft_nb.ui.panels.run import EmbeddedSurface
from peft_nb.ui.view import RunView


def named(word: str) -> dict[str, Any]:
    """Give the fields of a recipe, or of a YAML file, not yet checked."""
    return get(word) if word in names() else notation.parse_train([word], RunSpec.describe())


class ConfigPanel(Panel):
    """A form for a run.

    Parameters
    ----------
    fields : mapping, optional
        What to fill in, by any fields of :class:`peft_nb.RunSpec`, such as :func:`named` gives.
    namespace : mapping, optional
        The notebook's variables, from which data are picked and to which the run is bound.

    Attributes
    ----------
    command : str
        What brings the form back once its kernel is gone.
    form : peft_nb.ui.form.Form
        What is described, what is wrong with it, and the cell that says the same.
    controls : dict of str to Control
        What is typed into, by field.
    run : Run or None
        What was started last.

    Raises
    ------
    SpecError
        When one of the fields is wrong.
    """

    command = "%peft panel"

    def __init__(self, fields: Mapping[str, Any] | None = None, namespace: Mapping[str, Any] | None = None) -> None:
        given = form.filled(fields or {})
        self.run: Run | None = None
        self.form = form.read(form.blank())
        self._namespace: Any = variables() if namespace is None else namespace
        self._debouncer = Debouncer()
        self._filling = False
        self._reported: object = None  # what the data were checked as
        self._advice: Advice | None = None
        offers = form.offered(self._namespace)
        self.controls = {
            name: Control(entry, offers, partial(self.attempt, self._changed))
            for name, entry in self.form.entries.items()
        }

        self.recipe = ipywidgets.Combobox(description="recipe or file", placeholder="spec.yaml", options=names())
        fill = button("Fill in", lambda: self.attempt(self._fill_in), help="Use the settings of a recipe or YAML file")
        self.goal = choice(get_args(Goal), "not specified", description="goal")
        self.advise = button("Advise", self._advise, help="Recommend methods for the data and the goal")
        self.takes = [button("", partial(self.attempt, partial(self._take, rank))) for rank in range(CHOICES)]
        self._reasons, self.insert, self.shown = prose(), InsertCell(), ipywidgets.VBox()
        self._advised = Collapsible("Advice", [self._reasons, row(*self.takes)], hidden=True)
        self.data_status = StatusLine("Data report")
        self.estimate_status = StatusLine("Estimate")
        self.search = ipywidgets.Text(placeholder="Search settings", description="search")
        self.search.observe(lambda _: self.attempt(self._find), "value")
        self.collapsibles = self._sections()
        self.cell = ipywidgets.Textarea(description="equivalent cell", rows=6, continuous_update=False)
        self.cell.add_class("peft-nb-wide")
        self.cell.observe(lambda _: self.attempt(self._read_cell), "value")
        self.start = button("Start", self._start, help="Start the run; the kernel stays free", primary=True)
        first = grid([self.controls[name].box for name in form.ESSENTIAL])
        first.add_class("peft-nb-first")
        super().__init__(
            "config panel",
            [
                *(first, self.estimate_status.box, row(self.start, self.insert)),
                *(self.shown, self.data_status.box, row(self.search, self.recipe, fill)),
                *(part.box for part in self.collapsibles.values()),
                self.cell,
            ],
        )
        children = [one for one in self.box.children if one is not self._outcome]
        children.insert(children.index(self.shown), self._outcome)  # what is said of Start stands beside it
        self.box.children = children
        self.fill({**form.blank(), "data": offers["data"][0], "out": form.free("run", self._namespace), **given})
        ipython = sys.modules.get("IPython")
        self._shell = ipython.get_ipython() if ipython else None
        if self._shell:
            self._shell.events.register("post_run_cell", self._follow)
        self._keyboard.observe(lambda change: self._follow() if change["old"] == 0 else None, "views")

    def __repr__(self) -> str:
        return f"a form for the cell\n\n{self.form.cell}".rstrip()

    def page(self) -> str:
        """Return what is left of the form where no kernel runs, as HTML."""
        return form.page(self.form, self.estimate_status.said)

    def _sections(self) -> dict[str, Collapsible]:
        """Fold what is not asked first away, by section."""
        beside = {"method": [row(self.goal, self.advise), self._advised.box]}
        found = {}
        for section, infos in groupby(form.SPEC.values(), key=lambda info: info.section):
            inside = grid([self.controls[info.name].box for info in infos if info.name not in form.ESSENTIAL])
            title = f"Advanced: {section}" if section in form.ADVANCED else section.capitalize()
            found[section] = Collapsible(title, [inside, *beside.get(section, ())])
        return found

    def _find(self) -> None:
        """Show the settings that are looked for, in their sections; all sections are folded where nothing is."""
        self._show_entries()
        words, found = self.search.value.strip(), self._found()
        for section, part in self.collapsibles.items():
            inside = {name for name in found if self.form.entries[name].info.section == section}
            part.offer(not words or bool(inside - {*form.ESSENTIAL}))
            part.open(bool(words))

    def _found(self) -> set[str]:
        return form.found(self.search.value, self.form.entries) | {*form.ESSENTIAL} | self.form.problems.keys()

    def _show_entries(self) -> None:
        found = self._found()
        for name, entry in self.form.entries.items():
            self.controls[name].show(entry, name in found)

    def fill(self, raw: form.Raw) -> None:
        """Put something into the controls, by field; the others keep what they hold."""
        self._filling = True
        try:
            for name, value in raw.items():
                if name == "method":
                    self.controls[name].input.options = form.method_names(str(value))
                self.controls[name].value = value
        finally:
            self._filling = False
        self._changed()

    def _fill_in(self) -> str:
        word = self.recipe.value.strip()
        given = form.filled(named(word))
        self.fill({name: value for name, value in form.blank().items() if name not in ("data", "out")} | given)
        return f"filled in from {word}"

    def _changed(self) -> None:
        """Show at once what is wrong and the cell, and in a while what the data and the estimate say."""
        if self._filling:
            return
        self.form = form.read({name: control.value for name, control in self.controls.items()})
        self._show_entries()
        for name in self.form.problems.keys() - {*form.ESSENTIAL}:
            self.collapsibles[self.form.entries[name].info.section].offer(True)
            self.collapsibles[self.form.entries[name].info.section].open()
        self.cell.value = self.form.cell
        self.insert.cell = self.form.cell
        self.keep()
        self._examine()

    def _follow(self, *_: object) -> None:
        """Look at what a cell has made, while anybody sees the form; one that was closed never looks again."""
        if self.box.comm is None and self._shell:
            self._shell.events.unregister("post_run_cell", self._follow)
        if not self.closed:
            self.attempt(self._offer_variables)

    def _offer_variables(self) -> None:
        """Offer the variables that a cell has made; look again where it has made the chosen data anew."""
        for name, words in form.offered(self._namespace).items():
            self.controls[name].input.options = words
        if self.form.spec and self._reported != self._report_key(self.form.spec):
            self._examine()

    def _report_key(self, spec: RunSpec) -> object:
        fields = [getattr(spec, info.name) for info in form.SPEC.values() if info.section in ("model", "data")]
        return (*fields, spec.method, id(self._namespace.get(spec.data)), id(self._namespace.get(spec.eval_data)))

    def _examine(self) -> None:
        """Check the data and estimate the run, unless something else is typed meanwhile."""
        spec, wrong = self.form.spec, form.wrong(self.form)

        def work(superseded: RaiseIfSuperseded) -> None:
            if spec is None:
                self.estimate_status.say(wrong)
                return
            if self._reported != (key := self._report_key(spec)):
                self.data_status.run("checking the data", superseded, partial(self._report, spec))
                self._reported = key
            if run.active():  # two that compute at once slow each other many times over
                self.estimate_status.say("estimated when no run is training")
            else:
                self.estimate_status.run("estimating", superseded, partial(self._estimate, spec))

        self._debouncer.submit(work)

    def _report(self, spec: RunSpec, tell: Progress) -> tuple[str, str]:
        if not at_hand(spec.data, self._namespace):
            raise DataError(f"{spec.data} is on the hub; %peft data {spec.data} fetches and checks it")
        report = check.report_on(spec, namespace=self._namespace, progress=tell)
        return f"{report.headline}. {report.verdict}", report._repr_html_()

    def _estimate(self, spec: RunSpec, tell: Progress) -> tuple[str, str]:
        expected = forecast.ahead(spec, self._namespace, tell)
        return forecast.line(expected), forecast.html(expected)

    def _advise(self) -> None:
        data = self.form.entries["data"].problem == "" and str(self.controls["data"].value)
        known = {name: str(self.controls[name].value) for name in ("task", "model")}
        known = {name: value for name, value in known.items() if value != form.SPEC[name].default}
        if self.goal.value:
            known["goal"] = self.goal.value

        def work(tell: Tell) -> str:
            here = data if data and at_hand(data, self._namespace) else None
            self._advice = advise(here, namespace=self._namespace, **known)
            return f"advice: {', then '.join(one.method.name for one in self._advice.choices)}"

        def draw() -> None:
            if self._advice is None:
                return
            self._reasons.value = self._advice._repr_html_()
            for take, one in zip_longest(self.takes, self._advice.choices):
                take.description = take.tooltip = f"Use {one.method.name}" if one else ""
                take.layout.display = None if one else "none"
            self._advised.offer(True)
            self._advised.open()

        self.in_background("advising", work, draw)

    def _take(self, rank: int) -> str:
        assert self._advice is not None  # or there would be nothing to press
        taken = self._advice.choices[rank]
        raw = form.filled(taken.spec.changed())
        self.fill({name: value for name, value in raw.items() if name != "data"} | {"method": taken.method.name})
        return f"filled in: {taken.method.name}"

    def _read_cell(self) -> str | None:
        """Fill the form in from a cell that was changed by hand, or pasted."""
        if self.cell.value.strip() in ("", self.form.cell.strip()):
            return None
        said = notation.read_cell(self.cell.value, RunSpec.describe())
        self.fill(form.blank() | form.filled(said.fields) | {"out": said.out or ""})
        elsewhere = "" if said.place == Place() else f"; the form trains here, the cell on {said.place.on}"
        return f"filled in from the cell{elsewhere}"

    def _start(self) -> None:
        def work(tell: Tell) -> str:
            spec, out = self.form.valid_spec(), str(self.controls["out"].value)
            if self.run in run.active():
                raise RunError(f"{self.run.id} is still training; stop it or wait for it")
            self._debouncer.cancel()
            self._debouncer.wait()

            def start(listeners: Sequence[Listener]) -> Run:
                begun = run.begin(spec, namespace=self._namespace, listeners=listeners)
                if out:
                    self._namespace[out] = begun
                return begun

            self.run = watch(start, background=True, name=out or None, on=EmbeddedSurface(self.shown, self.ended))
            return f"{self.run.id} has started; the kernel stays free"

        self.in_background("starting", work)

    def ended(self, view: RunView) -> None:
        """Say how a run ended; now there is time for an estimate again."""
        self.say(f"{view.id} {view.status}")  # the reason stands in the panel of the run
        if not self.closed:
            self._examine()
