"""The compare panel: metrics, curves, answers prompt after prompt, a blind vote, and promotion."""

from __future__ import annotations

import secrets
from functools import partial
from html import escape
from typing import TYPE_CHECKING

import ipywidgets

from peft_nb.errors import RunError
from peft_nb.runs.run import Run
from peft_nb.store import Store
from peft_nb.ui import lineage, side_by_side, votes
from peft_nb.ui.differences import clean
from peft_nb.ui.panels.overlay import Overlay
from peft_nb.ui.panels.panel import FIELD, LABEL, Panel, Tell, button, row

if TYPE_CHECKING:
    from peft_nb.ui.compare import Comparison

ALIASES = ("production", "candidate")
LONGEST = 60  # letters of a prompt in the list of them


class ComparePanel(Panel):
    """Runs side by side, and what can be done once they are compared.

    Parameters
    ----------
    comparison : Comparison
        What :func:`peft_nb.compare` returns; votes are kept in it.
    seed : int, optional
        Fixes in which order a blind vote shows the answers; by default nobody can foresee it.

    Attributes
    ----------
    prompt : ipywidgets.Dropdown
        The place of the prompt that is shown.
    blind : ipywidgets.Checkbox
        Whether its answers are shuffled and without names, to be voted on.
    run, alias, named, why, force : ipywidgets.Widget
        What is promoted to what, and why.
    """

    def __init__(self, comparison: Comparison, seed: int | None = None) -> None:
        self.comparison, self._found = comparison, comparison._found
        self._seed = secrets.randbits(32) if seed is None else seed
        self._asked = list(side_by_side.asked(self._found))
        settings = side_by_side.settings(side_by_side.differing(self._found))
        head = [side_by_side.title(self._found), side_by_side.table(self._found), settings]
        self._wins = _shown(side_by_side.win_rates(self._found))
        tail = [
            escape(side_by_side.ends(self._found)),
            side_by_side.notes(self._found),
            side_by_side.downloads(comparison._files()),
        ]
        super().__init__(
            "compare panel",
            [_shown(*head), self._wins, Overlay(self._found.runs), _shown(*tail), *self._asking(), *self._promoting()],
        )

    def _asking(self) -> list[ipywidgets.Widget]:
        """The answers, and what leads from one prompt to the next."""
        if not self._asked:
            return []
        lines = [" ".join(clean(prompt).split()) for prompt, _, _ in self._asked]
        options = [(f"{place + 1}. {line[:LONGEST]}", place) for place, line in enumerate(lines)]
        self.prompt = ipywidgets.Dropdown(options=options, description="Prompt", layout=FIELD, style=LABEL)
        self.blind = ipywidgets.Checkbox(description="Blind vote", indent=False, layout=FIELD)
        self._answers, self._tally = ipywidgets.HTML(), ipywidgets.HTML()
        letters = votes.letters(len(self._found.answers))
        self.ballot = row(
            *(button(f"{letter} is best", partial(self._vote, letter)) for letter in letters),
            button("No difference", lambda: self._vote(None)),
            button("Reveal", lambda: self.attempt(self._reveal), help="Say who is who, and count the votes"),
        )
        self.prompt.observe(lambda _: self._draw(), "value")
        self.blind.observe(lambda _: self._draw(), "value")
        self._draw()
        before, self._next = button("Previous", lambda: self._turn(-1)), button("Next", lambda: self._turn(1))
        bar = row(self.prompt, before, self._next, *[self.blind] * (len(letters) > 1))
        return [bar, self._answers, self.ballot, self._tally]

    def _draw(self) -> None:
        """Show the answers to a prompt; of a blind vote without saying whose they are."""
        prompt, reference, given = self._asked[self.prompt.value]
        if self.blind.value:
            given = {letter: given[name] for letter, name in self._order().items()}
        self._answers.value = clean(side_by_side.legend(given) + side_by_side.section(prompt, reference, given))
        self.ballot.layout.display = "flex" if self.blind.value else "none"

    def _order(self) -> dict[str, str]:
        return votes.shuffled(list(self._found.answers), self.prompt.value, self._seed)

    def _turn(self, by: int) -> None:
        place = self.prompt.value + by
        if 0 <= place < len(self._asked):
            self.prompt.value = place
            self.say(f"prompt {place + 1} of {len(self._asked)}")
        else:
            self.say(f"that was the {'last' if by > 0 else 'first'} prompt")

    def _vote(self, letter: str | None) -> None:
        """Keep a vote and go on to the next prompt without one; after the last say who is who."""

        def voted() -> str:
            self.comparison.vote(self.prompt.value, self._order()[letter] if letter else None)
            given = set(self.comparison.votes["place"])
            left = [place for place in range(len(self._asked)) if place not in given]
            if not left:
                return self._reveal()
            self.prompt.value = next((place for place in left if place > self.prompt.value), left[0])
            return f"voted on {len(given)} of {len(self._asked)} prompts; now prompt {self.prompt.value + 1}"

        self.attempt(voted)

    def _reveal(self) -> str:
        if self.comparison.votes.empty:
            raise RunError("nothing has been voted on yet; say which answer is best")
        self.blind.value = False
        self._next.focus()  # or the focus would vanish with the ballot
        self._seed += 1  # who votes again shall not know the letters
        self._tally.value = clean(votes.html(self.comparison.votes, self.comparison.tally))
        self._wins.value = _shown(side_by_side.win_rates(self._found)).value
        self.keep()
        return "the votes are counted and kept with the runs; peft_nb.votes() gives them as pairs"

    def _promoting(self) -> list[ipywidgets.Widget]:
        """What becomes of the run that is chosen."""
        runs = {name: run for name, run in self._found.runs.items() if run}
        if not runs:
            return []
        self.run = ipywidgets.Dropdown(options=list(runs.items()), description="Run", layout=FIELD, style=LABEL)
        self.alias = ipywidgets.Combobox(
            value=ALIASES[0], options=ALIASES, description="Alias", layout=FIELD, style=LABEL
        )
        self.named = ipywidgets.Text(description="Name", placeholder="such as tickets", layout=FIELD, style=LABEL)
        self.why = ipywidgets.Text(description="Reason", placeholder="for the log", layout=FIELD, style=LABEL)
        self.force = ipywidgets.Checkbox(description="Promote despite failed verdict", indent=False, layout=dict(FIELD))
        self.run.observe(lambda _: self._choose(), "value")
        self._choose()
        promote = button("Promote", self._promote, help="Let the alias stand for this run from now on")
        return [
            _shown('<div style="margin-top:16px"><strong>Promote a run</strong></div>'),
            row(self.run, self.alias, self.named, self.why, self.force, promote),
        ]

    def _choose(self) -> None:
        """Ask for a name where the run has none, and forget what was forced for another."""
        self.named.layout.display = "none" if self.run.value.spec.name else "flex"
        self.force.value, self.force.layout.display = False, "none"

    def _promote(self) -> None:
        run: Run = self.run.value
        alias, why, force = self.alias.value.strip(), self.why.value, self.force.value
        name = None if run.spec.name else self.named.value.strip() or None
        refused: list[RunError] = []

        def work(tell: Tell) -> str:
            try:
                run.promote(alias, why=why, name=name, force=force)
            except RunError as error:
                refused.append(error)
                raise
            return lineage.said(Store(run.folder.parents[1]).log(run.id)[0])

        def then() -> None:
            if any("force=True" in str(error) for error in refused):
                self.force.layout.display = "flex"

        self.in_background(f"promoting {self.run.label}", work, then)


def _shown(*parts: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(clean("".join(f"<div>{part}</div>" for part in parts if part)))
