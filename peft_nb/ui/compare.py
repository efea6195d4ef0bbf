"""``peft_nb.compare`` and ``%peft compare``: runs and their base side by side, as a table, curves and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data.prompts import Prompt
from peft_nb.errors import DataError, RunError, StoreError, nearest
from peft_nb.metrics import comparable
from peft_nb.runs.compare import BASE, Compared, gather, named
from peft_nb.runs.run import Run, load
from peft_nb.store import Store
from peft_nb.system.display import Displayed, panel_of
from peft_nb.system.files import atomic_text
from peft_nb.ui import side_by_side, votes
from peft_nb.ui.progress_bar import progress_bar

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

OPTIONS: dict[str, Any] = {"max_new_tokens": 128, "temperature": 0.0, "seed": 0, "documents": None}


def compare(
    *runs: Run | str,
    prompts: str | Iterable[Prompt] | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    documents: Any = None,
    store: Store | None = None,
) -> Comparison:
    """Compare runs with each other and with their base model.

    All are asked the same prompts, on one base in memory and one after the other; what is not in memory before is
    loaded from disk and released again.

    Parameters
    ----------
    *runs : Run or str
        Runs, their ids or names in the store, and ``"base"`` for the base model. One run alone is compared with its
        base.
    prompts : str or iterable, optional
        What to ask: texts, or conversations as lists of messages. By default rows of the
        evaluation set of the first run;
        ``[]`` asks nothing and compares the metrics alone, also of runs on different bases.
    max_new_tokens : int
        Most tokens of an answer; default 128.
    temperature : float
        0 is greedy decoding; above, tokens are sampled with this temperature.
    seed : int
        Fixes the draw, alike for all.
    documents : bool or Index, optional
        An index whose chunks on each prompt are put before it for all of them; by default each run is asked as it
        learned, with its documents or without, and the base as the first run; False asks all without.
    store : Store, optional
        Where ids and names are looked up; default ``peft_runs`` in the working folder.

    Returns
    -------
    Comparison
        Shown by a notebook; ``.table``, ``.answers``, ``.plot()``, ``.best(by=…)``, ``.to_html(path)``.

    Raises
    ------
    RunError
        If there is no run, the runs are on different bases, or one has no adapter to ask.
    DataError
        If a prompt is neither a text nor a conversation.
    StoreError
        If there is no such run.
    """
    found: dict[Path | None, Run | None] = {}
    for one in runs:
        run = None if one == BASE else one if isinstance(one, Run) else load(one, store=store)
        found.setdefault(run.folder if run else None, run)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "documents": documents}
    return compared(named(list(found.values())), prompts, **options)


def compared(runs: Mapping[str, Run | None], prompts: str | Iterable[Prompt] | None, **options: Any) -> Comparison:
    """Compare what names stand for; None is the base model, and other parameters are as for :func:`compare`."""
    asked = None if prompts is None else _prompts(prompts)
    chosen = dict(runs) if len(runs) > 1 or None in runs.values() else {**runs, BASE: None}
    with progress_bar() as progress:
        return Comparison(gather(chosen, asked, progress, **{**OPTIONS, **options}))


class Comparison(Displayed):
    """Runs side by side; a notebook shows it as a page, a terminal as text.

    Attributes
    ----------
    names : list of str
        What the runs and the base are called here.
    notes : list of str
        What a reader has to know, such as where the prompts are from and what does not compare.
    """

    panel = cached_property(panel_of)  # always the same one, which knows what was voted on in it

    def __init__(self, found: Compared) -> None:
        self._found = found
        self._votes: dict[int, str | None] = {}
        self.names = list(found.runs)
        self.notes = list(found.notes)

    @cached_property
    def table(self) -> pandas.DataFrame:
        """One row a run, the base among them where it was measured; a column for all that any of them has."""
        import pandas

        facts, index = self._found.facts, pandas.Index(self.names, name="run")
        return pandas.DataFrame([facts[name] for name in self.names], index=index, columns=side_by_side.keys(facts))

    @cached_property
    def answers(self) -> pandas.DataFrame:
        """One row a prompt: its reference answer where any is known, and the answer of each run and of the base."""
        import pandas

        asked = self._found.asked if self._found.answers else []
        index = pandas.Index([side_by_side.said(one.prompt) for one in asked], name="prompt")
        known = {"reference": [one.reference for one in asked]} if any(one.reference for one in asked) else {}
        return pandas.DataFrame({**known, **self._found.answers}, index=index)

    def vote(self, prompt: int, best: str | None) -> None:
        """Keep which answer to a prompt is the best, in the store too: :func:`peft_nb.votes` gives pairs to learn from.

        The votes in this comparison also become an evaluation of each run.

        Parameters
        ----------
        prompt : int
            The place of the prompt in :attr:`answers`, from 0.
        best : str or None
            The name of the run or of the base; None where none is better. A later vote replaces it.

        Raises
        ------
        RunError
            If there is no such prompt or no such answer.
        StoreError
            If the store refuses; the vote then counts in this object alone.
        """
        answers = self._found.answers
        if not answers:
            raise RunError("nothing was asked here, so there is nothing to vote on; compare with prompts=[…]")
        if not 0 <= prompt < len(self._found.asked):
            raise RunError(f"there is no prompt {prompt}; the last one is {len(self._found.asked) - 1}")
        if best is not None and best not in answers:
            raise RunError(f"{best} gave no answer{nearest(best, answers) or '; choose ' + ', '.join(answers)}")
        self._votes[prompt] = best
        ids = {name: self._found.ids[name] for name in answers}
        given = {ids[name]: texts[prompt] for name, texts in answers.items()}
        for store in self._found.stores:
            vote = store.vote(self._found.asked[prompt].prompt, given, ids[best] if best else None)
            self._found.votes = [*(one for one in self._found.votes if one.key != vote.key), vote]
        told = votes.evaluations(self._votes, ids)
        for name in answers:
            if run := self._found.runs[name]:
                Store(run.folder.parents[1]).evaluate(run.id, [told[name]])

    @property
    def votes(self) -> pandas.DataFrame:
        """One row a prompt that was voted on: its place, and the name of the best answer, None where none is."""
        import pandas

        places = sorted(self._votes)
        index = pandas.Index([side_by_side.said(self._found.asked[place].prompt) for place in places], name="prompt")
        given = {"place": places, "best": [self._votes[place] for place in places]}
        return pandas.DataFrame(given, index=index, dtype=object)

    @property
    def tally(self) -> pandas.DataFrame:
        """One row a run, the one with most votes first: ``won`` of how many, the share and its 95 % interval."""
        return votes.tally(self._votes, list(self._found.answers))

    @property
    def win_rates(self) -> pandas.DataFrame:
        """One row for two that were voted on, here or earlier: see the columns of :class:`.votes.WinRate`."""
        import pandas

        rates = votes.win_rates(self._found.votes, self._found.ids)
        return pandas.DataFrame(rates, columns=list(votes.WinRate._fields)).set_index(["run", "over"])

    def plot(self) -> Figure:
        """Draw the losses of the runs over each other.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook as it is.
        """
        from peft_nb.plots import loss_curves

        return loss_curves(self._found.curves, unit=self._found.loss_unit)

    def best(self, by: str = "eval_loss") -> Run:
        """Choose the run that is best by a metric.

        Parameters
        ----------
        by : str
            A column of numbers of :attr:`table`; whether a high or a low one is better is known.

        Returns
        -------
        Run
            Never the base; of equal ones the first.

        Raises
        ------
        RunError
            If nothing of that name was measured, or the runs were not measured alike.
        """
        facts, runs = self._found.facts, {name: run for name, run in self._found.runs.items() if run}
        ranked = comparable()
        known = [key for key in ranked if any(key in facts[name] for name in runs)]
        if by not in known:
            hint = nearest(by, known) if by not in ranked else ""
            was = "was not measured" if by in ranked else "is no measure"
            raise RunError(f"{by} {was}{hint or '; choose ' + ', '.join(known)}")
        if why := self._found.unranked.get(by):
            raise RunError(f"{by} does not tell which run is better: {why}")
        measured = [name for name in runs if by in facts[name]]
        return runs[ranked[by].best(measured, key=lambda name: facts[name][by])]

    def to_html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a page of its own that needs no other file and no script.

        Parameters
        ----------
        path : str or Path
            The file; it appears whole or not at all.
        overwrite : bool, default False
            Whether a file that is there may be replaced.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        StoreError
            If there is a file already, or the disk refuses.
        """
        path = Path(path).expanduser()
        if not overwrite:
            refuse_existing(path)
        atomic_text(path, side_by_side.page(self._found))
        return path

    def _files(self) -> dict[str, str]:
        """What can be downloaded, by the names of the files."""
        written = {"metrics.csv": self.table.to_csv()} if self._found.facts else {}
        written |= {"answers.csv": self.answers.to_csv()} if self._found.answers else {}
        return written | {"comparison.html": side_by_side.page(self._found)}

    def __repr__(self) -> str:
        return side_by_side.text(self._found)

    def _repr_html_(self) -> str:
        return side_by_side.html(self._found)


def refuse_existing(path: str | Path) -> None:
    """Refuse a file that is there already, before the work whose result would be lost; StoreError if it is."""
    if Path(path).expanduser().exists():
        raise StoreError(f"{path} is there already; choose another name, or call to_html(path, overwrite=True)")


def _prompts(given: str | Iterable[Prompt]) -> list[Prompt]:
    """Check prompts before anything is loaded to answer them."""
    if isinstance(given, Mapping) or hasattr(given, "columns") or not isinstance(given, Iterable):
        fix = 'give a list of texts, such as ["…"] or list(table["question"])'
        raise DataError(f"prompts: a {type(given).__name__} is no list of texts; {fix}")
    found: list[Prompt] = [given] if isinstance(given, str) else list(given)
    for place, one in enumerate(found):
        turns = one if isinstance(one, list) else []
        spoken = [turn for turn in turns if isinstance(turn, Mapping) and {"role", "content"} <= set(turn)]
        if not (one.strip() if isinstance(one, str) else turns and len(spoken) == len(turns)):
            wrong = "empty" if isinstance(one, str) or one == [] else f"a {type(one).__name__}"
            raise DataError(f"prompts: number {place} is {wrong}; give a text, or a list of messages")
    return found
