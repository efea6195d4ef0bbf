"""``peft_nb.probe`` and ``%peft probe``: what an adapter has changed that its metrics do not show."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from peft_nb.data.prompts import short
from peft_nb.evaluation.probes import Finding
from peft_nb.runs.probe import Probe
from peft_nb.runs.probe import probe as probed
from peft_nb.runs.run import Run, load
from peft_nb.system.frontend import variables
from peft_nb.ui import listing
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.style import BOX, MUTED

SHOWN = 8  # parts that changed

if TYPE_CHECKING:
    from peft_nb.store import Store


def probe(run: Run | str, *, pairs: Any = None, only: Sequence[str] = (), store: Store | None = None) -> Probe:
    """Probe a run for bias, leaks of training rows, refusals, toxic words and obedience to orders in texts.

    Parameters
    ----------
    run : Run or str
        The run, or its id or name in the store.
    pairs : object, optional
        Pairs of your own: whatever a run takes as data, with columns ``first``, ``second``, ``axis``, ``stereotype``.
    only : sequence of str
        Some of ``bias``, ``sentiment``, ``leaks``, ``refusals``, ``toxicity``, ``injections``; by default all.
    store : Store, optional
        Where ids and names are looked up; default ``peft_runs`` in the working folder.

    Returns
    -------
    Probe
        ``.table``, and each finding by its name, such as ``found["bias_shift"]``; shown by a notebook.

    Raises
    ------
    DataError
        If there is no such probe, or the pairs cannot be read.
    RunError
        If the run reads no texts.
    """
    found = run if isinstance(run, Run) else load(run, store=store)
    with progress_bar() as progress:
        return probed(found, pairs=pairs, only=only, namespace=variables(), progress=progress)


def page(found: Probe) -> str:
    """Draw a table of the findings, then of each what was measured, what changed, and examples."""
    head = ("probe", "value", "95 % interval", "base", "measured", "")
    rows = [
        (
            *(one.name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}"),
            *("" if one.base is None else f"{one.base:.3f}", f"{one.rows:,}", "changed" if one.clear else ""),
        )
        for one in found.findings
    ]
    parts = [f"<div><b>{escape(found.run)}</b> was probed</div>", listing.rows(head, rows)]
    parts += map(_told, found.findings)
    parts += [f'<div style="{MUTED}">{escape(name)}: not probed, {escape(why)}</div>' for name, why in found.skipped]
    note = "Small sets of sentences, and rules on words: what they do not find may be there all the same."
    parts.append(f'<div style="{MUTED}">{note}</div>')
    return f'<div style="{BOX}">{"".join(parts)}</div>'


def _told(one: Finding) -> str:
    """What was measured, the parts that changed, and examples."""
    most = sorted(one.clear, key=lambda part: -abs(part[1]))
    changed = [(name, f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}") for name, mean, low, high in most[:SHOWN]]
    table = listing.rows(("changed", "by", "95 % interval"), changed) if changed else ""
    if len(most) > SHOWN:
        chance = f"about {len(one.detail) / 20:.0f} of {len(one.detail):,} would by chance"
        table += f'<div style="{MUTED}">{len(most):,} changed, the largest first; {chance}</div>'
    shown = "".join(f"<li>{escape(short(text))}</li>" for text in one.examples)
    examples = f'<ul style="margin:2px 0 4px">{shown}</ul>' if shown else ""
    summary = f"<summary><b>{escape(one.name)}</b>: {escape(one.what)}</summary>"
    return f"<details open>{summary}{table}{examples}</details>"
