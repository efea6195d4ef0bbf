"""The panel of a data check: findings, a button for each fix, how long rows are, and a row as the model sees it."""

from __future__ import annotations

from functools import partial
from html import escape
from keyword import iskeyword
from typing import Any

import bqplot
import ipywidgets

from peft_nb.errors import DataError, PeftNbError
from peft_nb.plots import BLUE, VERMILION
from peft_nb.system.frontend import variables
from peft_nb.ui import wording
from peft_nb.ui.panels.panel import Panel, Tell, button, row
from peft_nb.ui.report import Report, bins, histogram

BARS = 32
ROW = " --row 0"


class DataPanel(Panel):
    """What :class:`peft_nb.ui.report.Report` says, with buttons.

    Parameters
    ----------
    report : Report
        What was found.
    namespace : dict, optional
        Where the fixed data are bound to a name; by default the notebook's variables.
    """

    def __init__(self, report: Report, namespace: dict[str, Any] | None = None) -> None:
        self._report = report
        self._namespace = variables() if namespace is None else namespace
        self._head, self._table, self._changes, self._tokens = (ipywidgets.HTML() for _ in range(4))
        self._lengths = ipywidgets.VBox()
        self.variable = ipywidgets.Text(value="clean", description="Variable for the fixed data", **WHOLE)
        self.fixes = {
            one.kind: button(f"Fix {one.title}", partial(self._fix, one.kind), help=f"{one.fix}; or {one.mend}")
            for one in report.fixable
        }
        told = "Fix all that needs no decision; redaction has buttons of its own"
        self.every = button("Fix all", self._fix, help=told, primary=True)
        self.confirm = button("Drop them", self._drop, help="Drop these rows, though they are many")
        self._asked: str | None = None  # which kind waits for it
        self._confirmed = ""  # what it was pressed for
        self.confirm.layout.display = "none"
        fixing = [row(self.variable, self.every, self.confirm), row(*self.fixes.values())] if self.fixes else []
        self.row = ipywidgets.BoundedIntText(**WHOLE)
        self.row.add_class("peft-nb-number")
        steps = (step.removesuffix(ROW) for step in report.next_steps if step.endswith(ROW))
        self.command = next(steps, "")  # what brings the panel back
        children = [self._head, self._table, *fixing, self._changes, self._lengths, self.row, self._tokens]
        super().__init__("data", children)
        self.row.observe(lambda _: self._show_tokens(), "value")
        self._show()

    def _show(self) -> None:
        report, last = self._report, max(len(self._report.rows) - 1, 0)
        self._head.value = report.head_html
        self._table.value, self._changes.value = report.findings_html, report.changes_html
        for finding in report.fixable:
            done = "✓ " if finding.kind in report.fixed_kinds else ""  # still there, or the focus would be lost
            self.fixes[finding.kind].description = f"{done}Fix {finding.title}"
        self._lengths.children = _histogram(report)
        self.row.max, self.row.description = last, f"Row, 0 to {last:,}"
        self._show_tokens()

    def _drop(self) -> None:
        self._fix(self._asked, drop=True)

    def _fix(self, kind: str | None = None, *, drop: bool = False) -> None:
        report, name = self._report, self.variable.value.strip()
        kinds = {"all" if kind is None else kind, *report.fixed_kinds}
        asked: list[str] = []

        def work(tell: Tell) -> str:
            if not name.isidentifier() or iskeyword(name):
                raise DataError(f"{name!r} is no name for a variable; write one such as clean")
            if name == report.source.name:
                raise DataError(f"{name} holds the original, which stays as it is; choose another name")
            question = report.question(kinds)
            if question not in ("", self._confirmed) and not drop:
                asked.append(question)
                return f"{question}: press “{self.confirm.description}” to do so"
            self._namespace[name] = report.fixed(name, kinds, drop=True)
            self._confirmed = question
            tell("checking the fixed data")
            report.current  # noqa: B018
            return report.changed_said

        def then() -> None:
            self._asked = kind
            self.confirm.layout.display = None if asked else "none"
            self._show()

        self.in_background("fixing", work, then)

    def _show_tokens(self) -> None:
        try:
            self._tokens.value = self._report.tokens(self.row.value)._repr_html_()
        except PeftNbError as error:
            self._tokens.value = f'<div role="status">{escape(str(error))}</div>'
        except Exception as error:
            self.fail(error)


WHOLE: dict[str, Any] = {
    "style": {"description_width": "initial"},
    "layout": {"width": "auto", "max_width": "calc(100% - 4px)"},
}  # labels are not cut off


def _ticks(most: float, count: int) -> dict[str, Any]:
    """Choose round numbers from 0 to the highest."""
    from matplotlib.ticker import MaxNLocator

    values = [value for value in MaxNLocator(nbins=count, integer=True).tick_values(0, most) if 0 <= value <= most]
    return {"tick_values": values, "tick_format": ",.0f", "grid_lines": "none"}


def _histogram(report: Report) -> list[ipywidgets.Widget]:
    """Draw how long rows are, and say it for those who do not see it."""
    if not report.lengths:
        return []
    counted, limit = bins(report.lengths, BARS), report.spec.max_length
    most, longest = max(count for *_, count in counted), counted[-1][1] + 1
    near = longest > limit / 2  # as in the static picture
    across = bqplot.LinearScale(min=0.0, max=float(max(longest, 1.02 * limit if near else 0)))
    scales = {"x": across, "y": bqplot.LinearScale(min=0.0, max=1.05 * most)}
    middles = [(first + last + 1) / 2 for first, last, _ in counted]
    tooltip = bqplot.Tooltip(fields=["x", "y"], labels=["tokens, about", "rows"], formats=[".0f", ".0f"])
    bars = bqplot.Bars(
        x=middles, y=[count for *_, count in counted], scales=scales, colors=[BLUE], padding=0.1, tooltip=tooltip
    )
    line = bqplot.Lines(x=[limit, limit], y=[0, most], scales=scales, colors=[VERMILION], line_style="dashed")
    axes = [
        bqplot.Axis(scale=across, label="tokens per row", **_ticks(across.max, 6)),
        bqplot.Axis(scale=scales["y"], side="left", label="rows", **_ticks(most, 4)),
    ]
    figure = bqplot.Figure(
        marks=[bars, line] if near else [bars],
        axes=axes,
        padding_x=0,
        padding_y=0,
        fig_margin={"top": 8, "bottom": 40, "left": 60, "right": 16},
        background_style={"fill": "transparent"},
        layout={"width": "100%", "max_width": "640px", "height": "200px", "min_width": "0"},
    )
    figure.add_class("peft-nb-chart")
    over = sum(length > limit for length in report.lengths)
    marked = f"; the dashed line is max_length {limit:,}" if near else f"; all far below max_length {limit:,}"
    said = (
        f"{report.lengths_said}{marked}; {wording.count(over, 'row')} over it" if near else report.lengths_said + marked
    )
    numbers = escape("\n".join(histogram(report.lengths)))
    caption = f"<div>{escape(said)}</div><details><summary>as numbers</summary><pre>{numbers}</pre></details>"
    return [figure, ipywidgets.HTML(caption)]
