"""``peft_nb.route`` and ``%peft route``: many runs behind one name, of which the right one answers each prompt."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from peft_nb.data.prompts import Prompt, short
from peft_nb.errors import RunError
from peft_nb.events import Progress
from peft_nb.runs.run import Run, load
from peft_nb.store import Store
from peft_nb.system.display import Displayed, panel_of
from peft_nb.ui import wording
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.style import BOX, MUTED, NUMBERS

if TYPE_CHECKING:
    import pandas

    from peft_nb.serving.route import Policy, Route

BASE, ENCODER = "base", "minilm-l6"
REMEMBERED, SHOWN, VOTERS = 200, 8, 3  # prompts in memory, prompts on the page, rows of each there
CELL = 'style="text-align:right;padding:2px 0 2px 16px"'
HEAD = 'scope="row" style="text-align:left;font-weight:normal;overflow-wrap:anywhere"'


def route(
    *runs: Run | str,
    policy: Policy | None = None,
    blend: int = 1,
    encoder: str = ENCODER,
    max_memory_mb: float | None = None,
    name: str = "router",
    store: Store | None = None,
) -> Router:
    """Put runs on one base behind a router, which finds the one that each prompt is for.

    Nothing is trained: the runs' own training rows that are nearest to a prompt vote.

    Parameters
    ----------
    *runs : Run or str
        Runs, their ids or names in the store, and ``"base"`` for the base model, which then answers what is for none of
        them; without it one of them always answers.
    policy : callable, optional
        ``policy(prompt, user)`` gives the name of the run to take, ``"base"``, or None where the rows decide.
    blend : int, default 1
        2 lets the two runs with most votes answer together, combined by their shares; see :class:`peft_nb.Switchboard`.
    encoder : str, default "minilm-l6"
        What embeds prompts and rows.
    max_memory_mb : float, optional
        Most memory that loaded adapters may take, in MB.
    name : str, default "router"
        What it is called in a chat.
    store : Store, optional
        Where ids and names are looked up; default ``peft_runs`` in the working folder.

    Returns
    -------
    Router
        Shown by a notebook; ``.route(prompt)``, ``.generate(prompts)``, ``.confusion()``, ``.evaluate()``, ``.table``.

    Raises
    ------
    PeftNbError
        As of :class:`peft_nb.Switchboard`, and if there is no run.
    """
    found = {
        run.folder: run
        for one in runs
        if one != BASE
        for run in [one if isinstance(one, Run) else load(one, store=store)]
    }

    options = {"policy": policy, "blend": blend, "encoder": encoder, "max_memory_mb": max_memory_mb}
    return Router(list(found.values()), with_base=BASE in runs, name=name, **options)


class Router(Displayed):
    """Runs on one base, of which the right one answers each prompt.

    Parameters
    ----------
    runs : sequence of Run
        Who can answer.
    with_base : bool
        Whether the base model can.
    name : str
        What it is called in a chat.
    **options
        Of :class:`peft_nb.Switchboard`.

    Attributes
    ----------
    runs : dict of str to Run
        By the names that prompts are routed to.
    board : Switchboard
        What routes and answers.
    asked : deque of Route
        The last 200 prompts, the newest at the end.
    """

    panel = cached_property(panel_of)

    def __init__(self, runs: Sequence[Run], *, with_base: bool = True, name: str = "router", **options: Any) -> None:
        from peft_nb.serving.switchboard import Switchboard

        if not runs:
            raise RunError(
                "there is nothing to route to; name runs on one base, such as %peft route tickets legal base"
            )
        self.name, self.with_base = name, with_base
        self.board = Switchboard(*runs, with_base=with_base, **options)
        self.runs = dict(zip(self.board.names, runs, strict=True))
        self.asked: deque[Route] = deque(maxlen=REMEMBERED)
        self._counts: Counter[str] = Counter()
        self._matrix: pandas.DataFrame | None = None
        self._table: pandas.DataFrame | None = None

    @property
    def names(self) -> list[str]:
        """Whom prompts can be routed to."""
        return [*self.runs, *([BASE] if self.with_base else [])]

    @property
    def table(self) -> pandas.DataFrame:
        """Where prompts went: one row a name, with ``prompts`` and their ``share``."""
        import pandas

        total = sum(self._counts.values())
        names = list(dict.fromkeys([*self.names, *self._counts]))
        rows = [(self._counts[name], self._counts[name] / total if total else 0.0) for name in names]
        return pandas.DataFrame(rows, columns=["prompts", "share"], index=pandas.Index(names, name="routed to"))

    @overload
    def route(self, prompts: str, *, user: str | None = None) -> Route: ...  # type: ignore[overload-overlap]
    @overload
    def route(self, prompts: Sequence[Prompt], *, user: str | None = None) -> list[Route]: ...
    def route(self, prompts: str | Sequence[Prompt], *, user: str | None = None) -> Route | list[Route]:
        """Find out whom prompts are for, and remember it; see :meth:`peft_nb.Switchboard.route`."""
        found = self.board.route([prompts] if isinstance(prompts, str) else prompts, user=user)
        self.asked.extend(found)
        self._counts.update(one.name for one in found)
        return found[0] if isinstance(prompts, str) else found

    @overload
    def generate(self, prompts: str, *, user: str | None = None, **options: Any) -> str: ...
    @overload
    def generate(self, prompts: Sequence[str], *, user: str | None = None, **options: Any) -> list[str]: ...
    def generate(self, prompts: str | Sequence[str], *, user: str | None = None, **options: Any) -> str | list[str]:
        """Answer prompts, each by whom it is for.

        Parameters
        ----------
        prompts : str or sequence of str
            What to answer.
        user : str, optional
            Who asks, for the policy.
        **options
            As of ``Run.generate``: ``max_new_tokens``, ``temperature``, ``seed``.

        Returns
        -------
        str or list of str
            One answer a prompt.
        """
        answers = self.board.routed(
            self.route([prompts] if isinstance(prompts, str) else prompts, user=user), **options
        )
        return answers[0] if isinstance(prompts, str) else answers

    def confusion(self, rows: int = 60, *, progress: Progress | None = None) -> pandas.DataFrame:
        """Route the evaluation rows of all runs and count where they went.

        Parameters
        ----------
        rows : int, default 60
            Of each run at most.
        progress : callable, optional
            Told how far it is; by default a bar shows it.

        Returns
        -------
        pandas.DataFrame
            One row a run, one column for each that prompts can be routed to; right are those on the diagonal.

        Raises
        ------
        RunError
            If no run has an evaluation set.
        """
        from peft_nb.runs import interference

        with nullcontext(progress) if progress else progress_bar() as tell:
            found = interference.routed(self.board, self.runs, rows, tell)
        self._matrix = interference.confusion(found, list(dict.fromkeys([*self.names, *found["routed"]])))
        return self._matrix

    def evaluate(self, rows: int = 20, *, progress: Progress | None = None) -> pandas.DataFrame:
        """Measure what routing costs: the eval loss of each run alone, routed, and by an oracle.

        Parameters
        ----------
        rows : int, default 20
            Evaluation rows of each run at most; each is measured with every adapter and the base.
        progress : callable, optional
            Told how far it is; by default a bar shows it.

        Returns
        -------
        pandas.DataFrame
            One row a run, in nats per token: ``base``, ``alone``, ``routed``, ``oracle``; ``rows`` and ``right``, the
            share of rows that went to it. Of blended adapters the one with most votes counts.

        Raises
        ------
        RunError
            If no run has an evaluation set.
        """
        from peft_nb.runs import interference

        with nullcontext(progress) if progress else progress_bar() as tell:
            found = interference.routed(self.board, self.runs, rows, tell)
            self._table = interference.measure(self.board, self.runs, found, tell)
        return self._table

    def __repr__(self) -> str:
        lines = [headline(self)]
        lines += [f"  {route.name} {route.confidence:.0%}: {short(route.prompt)}" for route in newest(self)]
        name = self.name if self.name.isidentifier() else "router"
        return "\n".join([*lines, f'next: {name}.route("…"), {name}.generate("…"), {name}.confusion()'])

    def _repr_html_(self) -> str:
        return page(self)


def headline(router: Router) -> str:
    """Say in a line what a router routes to, and how much it has routed."""
    return f"{router.name} to {', '.join(router.names)}: {wording.count(sum(router._counts.values()), 'prompt')} routed"


def newest(router: Router) -> list[Route]:
    """The prompts that are shown, the newest first."""
    return list(router.asked)[: -SHOWN - 1 : -1]


def page(router: Router) -> str:
    """Draw where prompts went, and what was measured, as it stays in a saved notebook."""
    parts = [f"<div><b>{escape(headline(router))}</b></div>"]
    if router.asked:
        cells = {name: [f"{count:,.0f}", wording.share(share)] for name, count, share in router.table.itertuples()}
        parts += [_table("routed to", ["prompts", "share"], cells), *map(_prompt, newest(router))]
    if router._matrix is not None:
        told = {
            str(name): [f"{one:,}" for one in row]
            for name, row in zip(router._matrix.index, router._matrix.to_numpy(), strict=True)
        }
        right = sum(int(router._matrix.loc[name, name]) for name in router._matrix.index)
        total = int(router._matrix.to_numpy().sum())
        parts.append(f"<div>Confusion matrix: {right:,} of {total:,} evaluation rows went to the run they are of</div>")
        parts.append(_table("rows of", list(map(str, router._matrix.columns)), told))
    if router._table is not None:
        names = ["base", "alone", "routed", "oracle"]
        told = {
            str(name): [*(wording.loss(row[one]) for one in names), f"{row['rows']:.0f}", wording.share(row["right"])]
            for name, row in router._table.iterrows()
        }
        parts += ["<div>Eval loss in nats per token</div>", _table("run", [*names, "rows", "right"], told)]
    return f'<div style="{BOX}">{"".join(parts)}</div>'


def _table(first: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    head = "".join(f'<th scope="col" {CELL}>{escape(name)}</th>' for name in columns)
    body = "".join(
        f"<tr><th {HEAD}>{escape(name)}</th>{''.join(f'<td {CELL}>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return (
        f'<div tabindex="0" role="region" aria-label="{escape(first)}" style="overflow-x:auto;margin:8px 0">'
        f'<table style="border-collapse:collapse;{NUMBERS}"><thead><tr><th scope="col" style="text-align:left">'
        f"{escape(first)}</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _prompt(route: Route) -> str:
    """Draw a prompt, whom it went to, and the rows that voted."""
    mixed = ", ".join(f"{name} {weight:.1f}" for name, weight in route.weights.items())
    said = f"{route.name}, {route.confidence:.0%}, {route.why}" + (f", blended: {mixed}" if mixed else "")
    rows = "".join(
        f"<li>{one.similarity:.2f} <bdi>{escape(one.adapter)}</bdi>: {escape(short(one.prompt))}</li>"
        for one in route.neighbours[:VOTERS]
    )
    asked = f'<summary dir="auto" style="overflow-wrap:anywhere">{escape(short(route.prompt))}'
    told = f'<span style="{MUTED}">→ {escape(said)}</span></summary>'
    return f'<details style="margin:4px 0">{asked} {told}<ul style="margin:0">{rows}</ul></details>'


def saved(router: Router, name: str) -> Path:
    """Write what a server needs to route under a name, and give its folder.

    Raises
    ------
    RunError
        If its policy is a function of the notebook, which a server cannot import.
    """
    from peft_nb.serving.route import written

    options = {"policy": written(router.board.policy), "blend": router.board.blend}
    folder = next(iter(router.runs.values())).folder.parents[1] / "routers" / name
    with progress_bar() as progress:
        router.board.nearest(progress).save(folder, **options)
    return folder
