"""``peft_nb.label`` and ``%peft label``: the rows of a pool, labelled by a person beside what a run guesses."""

from __future__ import annotations

import json
import string
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import decisions
from peft_nb.data.prompts import Prompt, short
from peft_nb.evaluation.acquisition import STRATEGIES, Curve
from peft_nb.runs.labelling import Item, Labelling
from peft_nb.runs.pool import again
from peft_nb.runs.run import Run, load
from peft_nb.serving.route import ENCODER, text_of
from peft_nb.system.display import Displayed, panel_of
from peft_nb.system.frontend import variables
from peft_nb.ui import listing, wording
from peft_nb.ui.differences import clean
from peft_nb.ui.live import watch
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.side_by_side import FOREIGN
from peft_nb.ui.style import BOX, MUTED, NUMBERS

if TYPE_CHECKING:
    import pandas

    from peft_nb.store import Store

OUT = "labelled"
KEYS = string.digits[1:] + string.ascii_lowercase  # what is pressed for each class, in their order
LAST = 5  # decisions that the page shows


def label(
    pool: Any,
    run: Run | str,
    *,
    budget: int = 50,
    strategy: str = "both",
    out: str | Path = OUT,
    by: str | None = None,
    encoder: str = ENCODER,
    store: Store | None = None,
) -> Labels:
    """Label rows of a pool, those first from which a run learns most.

    Parameters
    ----------
    pool : object
        Rows without labels: texts as a list of str, or whatever a run takes as data.
    run : Run or str
        What guesses, or its id or name in the store: a run that gives texts one class, or one that writes texts.
    budget : int, default 50
        How many rows are to be labelled in all.
    strategy : {"both", "uncertainty", "entropy", "diversity", "random"}, default "both"
        Which rows come first: those that the run is unsure of, those that differ most, or both.
    out : str or Path, default "labelled"
        Folder that keeps every decision as it is made; one that holds some goes on. Data for the next run.
    by : str, optional
        Who labels; by default the name of the account. Each person is asked the same rows.
    encoder : str, default "minilm-l6"
        What embeds rows, to find similar ones and those that differ.
    store : Store, optional
        Where ids and names are looked up; default ``peft_runs`` in the working folder.

    Returns
    -------
    Labels
        Shown by a notebook; data for the next run.

    Raises
    ------
    DataError
        If the pool holds nothing to label, or the folder something else.
    RunError
        If the run gives neither one class nor texts, or its rows are gone.
    """
    found = run if isinstance(run, Run) else load(run, store=store)
    told: dict[str, Any] = {"budget": budget, "strategy": strategy, "by": by, "encoder": encoder}
    with progress_bar() as progress:
        return Labels(Labelling(pool, found, Path(out).expanduser(), **told, namespace=variables(), progress=progress))


class Labels(Displayed):
    """Rows that are being labelled; a path of their folder, so that they are data wherever these are taken.

    Parameters
    ----------
    labelling : Labelling
        What is labelled.
    """

    panel = cached_property(panel_of)  # always the same one, at the row that is labelled

    def __init__(self, labelling: Labelling) -> None:
        self.labelling = labelling

    def __fspath__(self) -> str:
        return str(self.labelling.folder.resolve())

    @property
    def rows(self) -> pandas.DataFrame:
        """The labelled rows with the columns of the run's own, with ``labelled_by`` and ``guessed_by``."""
        return _table(self.labelling.folder / decisions.ROWS)

    @property
    def pairs(self) -> pandas.DataFrame:
        """Pairs for ``task: dpo``, where one answer was preferred to another: ``prompt``, ``chosen``, ``rejected``."""
        return _table(self.labelling.folder / decisions.PAIRS)

    @property
    def decisions(self) -> pandas.DataFrame:
        """Every decision that was made, also those skipped and undone, with who made it and what was guessed."""
        import pandas

        return pandas.DataFrame([vars(one) for one in self.labelling.decisions.all()])

    @property
    def agreement(self) -> pandas.DataFrame:
        """One row for any two people: ``rows`` that both labelled, ``equal``, Cohen's ``kappa``, ``low``, ``high``."""
        import pandas

        columns = ["first", "second", "rows", "equal", "kappa", "low", "high"]
        return pandas.DataFrame([(*two, *found) for *two, found in self.labelling.agreement()], columns=columns)

    def next(self) -> Item | None:
        """The row to be labelled now, with the run's guess; None when all are done."""
        return self.labelling.next()

    def label(self, answer: str | None = None) -> None:
        """Label the row to be labelled now: with a class or an answer, by default with the guess.

        Parameters
        ----------
        answer : str, optional
            The class, or the answer; a class that the run does not know is written ``+NAME``.
        """
        self.labelling.label(answer)

    def skip(self) -> None:
        """Leave the row out that is to be labelled now."""
        self.labelling.skip()

    def undo(self) -> None:
        """Take back the last decision, whose row comes again."""
        self.labelling.undo()

    def curve(self) -> Curve:
        """Measure the strategy against random choice on the labelled rows, with no second training.

        Returns
        -------
        Curve
            ``.verdict`` says in words whether there is a gain.

        Raises
        ------
        DataError
            If there are fewer than 40 labelled rows, or texts are written.
        """
        return self.labelling.curve()

    def retrain(self, *, background: bool = False, **fields: Any) -> Run:
        """Train a new run from this run's adapter on its training rows and the labelled ones, and show it.

        Parameters
        ----------
        background : bool
            Return at once.
        **fields
            Fields of :class:`peft_nb.RunSpec` that are to be otherwise.

        Returns
        -------
        Run
            The next version of the same name, on the same evaluation set.
        """
        work = self.labelling
        return watch(lambda listeners: work.retrain(listeners=listeners, **fields), background=background)

    def __repr__(self) -> str:
        work = self.labelling
        lines = [headline(work), *(f"note: {one}" for one in work.notes)]
        lines += [f"  {first} and {second}: {found}" for first, second, found in work.agreement()]
        if work.curve_found:
            lines.append(f"  {work.curve_found.verdict}")
        return clean("\n".join([*lines, f"next: {after(work)}"]))

    def _repr_html_(self) -> str:
        return page(self.labelling)


def _table(file: Path) -> pandas.DataFrame:
    import pandas

    if not file.exists() or not file.stat().st_size:
        return pandas.DataFrame()
    return pandas.DataFrame([*map(json.loads, file.read_text(encoding="utf-8").splitlines())])


def headline(work: Labelling) -> str:
    """Say in a line how far the labelling is."""
    told = work.counts()
    said = f"{work.version}: {told['labelled']:,} of {wording.count(told['rows'], 'row')} labelled by {work.by}"
    said += f", {told['kept']:,} as guessed"
    return said + f", {told['skipped']:,} skipped, {told['left']:,} left"


def after(work: Labelling) -> str:
    """Say what comes next."""
    told, name = work.counts(), work.run.spec.name or work.run.id
    if told["left"]:
        return f"label {wording.count(told['left'], 'more row')}, or stop here: all is kept in {work.folder}"
    if not told["labelled"]:
        return f"nothing was labelled; raise --budget above {told['rows']:,} for other rows"
    return f"retrain {name} with these rows, or learn from them alone: {again(work.run, work.folder)}"


def page(work: Labelling) -> str:
    """Draw what is labelled so far: counts, classes, the last decisions, agreement, the curve and the next step."""
    rows, disputed = work.decisions.agreed()
    parts = [f"<div><b>{escape(headline(work))}</b></div>"]
    parts += [f'<div style="{MUTED}">{escape(one)}</div>' for one in work.notes]
    if rows and work.classes:
        given = [one.answer for one, _ in rows]
        counts = sorted({*given}, key=lambda name: (-given.count(name), name))
        parts.append(listing.rows(("class", "rows"), [(name, f"{given.count(name):,}") for name in counts]))
    if last := list(work.decisions.current().values())[-LAST:]:
        told = [(short(text_of(one.prompt)), short(one.answer) or one.did, short(one.guess), one.by) for one in last]
        parts.append("<div>Last decisions</div>" + listing.rows(("row", "label", "guess", "by"), told[::-1]))
    if pairs := sum(len(one.rejected) for one, _ in rows):
        parts.append(
            f"<div>{escape(wording.count(pairs, 'pair'))} for DPO: {escape(f'{work.folder}')}/pairs.jsonl</div>"
        )
    parts += [f"<div>{escape(f'{one} and {other}: {found}')}</div>" for one, other, found in work.agreement()]
    if disputed:
        said = f"{wording.count(len(disputed), 'row')} with as many votes for one class as for another: left out"
        parts.append(f"<div>{escape(said)}</div>")
    if work.curve_found:
        parts.append(curve(work.curve_found))
    parts.append(f"<div><b>Next:</b> {escape(after(work))}</div>")
    return clean(f'<div style="{BOX}">{"".join(parts)}</div>')


def curve(found: Curve) -> str:
    """Draw what a strategy gains over random choice."""
    columns = zip(found.counts, found.chosen, found.random, strict=True)
    told = [(f"{count:,}", wording.share(ours), wording.share(theirs)) for count, ours, theirs in columns]
    note = "Cross-validated on your labels: logistic regression on embeddings stands in for the model."
    table = listing.rows(("labels", f"accuracy, {found.strategy}", "random"), told)
    return f'<div>{table}<div>{escape(found.verdict)}</div><div style="{MUTED}">{note}</div></div>'


def card(item: Item | None, work: Labelling) -> str:
    """Draw the row that is to be labelled, with what can be pressed for it; all of it is escaped.

    Parameters
    ----------
    item : Item or None
        The row; None when all are done.
    work : Labelling
        Whose row it is.

    Returns
    -------
    str
        HTML whose buttons tell in ``data-key`` which key they stand for.
    """
    if item is None:
        return f'<div tabindex="0" role="group" aria-label="all rows are done"><p>{escape(after(work))}</p></div>'
    place = len(work.queue) - len(work.left) + 1
    why = escape(f"{item.why}: {STRATEGIES[item.why]}")
    head = f'<div style="{MUTED}">row {place:,} of {len(work.queue):,} ({why})</div>'
    if item.probabilities:
        sure = f"{escape(item.guess)} ({item.confidence:.0%})"
        choices = "".join(
            _choice(KEYS[number : number + 1], name, f"{share:.0%}", name == item.guess)
            for number, (name, share) in enumerate(item.probabilities.items())
        )
        said = f'<div>guess: <strong dir="auto">{sure}</strong></div><div class="peft-nb-choices">{choices}</div>'
    else:
        sure = f"{item.confidence:.0%} per token"
        shown = (
            _choice(KEYS[number], text, sure * (not number), not number) for number, text in enumerate(item.answers)
        )
        said = f'<div class="peft-nb-answers">{"".join(shown)}</div>'
    near = [(short(one.prompt), short(one.answer), f"{one.similarity:.2f}") for one in item.similar]
    alike = listing.rows(("similar row", "label" if work.classes else "answer", "similarity"), near)
    text = f'<div style="{FOREIGN}" class="peft-nb-shown" dir="auto">{escape(_shown(item.prompt))}</div>'
    inside = f"{head}{text}{said}<details><summary>Similar rows</summary>{alike}</details>"
    return clean(
        f'<div tabindex="0" role="group" data-row="{item.key}" aria-label="row {place} to label">{inside}</div>'
    )


def _choice(key: str, name: str, told: str, guess: bool) -> str:
    kind, shown = " class='peft-nb-guess'" * guess, f"<kbd>{key}</kbd> " * bool(key)
    share = f' <span style="{MUTED};{NUMBERS}">{told}</span>' * bool(told)
    pressed = f' data-key="{key}"' if key else f' data-name="{escape(name)}"'
    return f'<button type="button"{kind}{pressed}>{shown}<span dir="auto">{escape(name)}</span>{share}</button>'


def _shown(prompt: Prompt) -> str:
    """A prompt as text, with who says what in a conversation."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{one['role']}: {one.get('content') or ''}" for one in prompt)
