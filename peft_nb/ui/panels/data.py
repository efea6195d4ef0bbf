"""The panel of a data check: findings, a button for each fix, how long rows are, and a row as the model sees it."""

from __future__ import annotations

from functools import partial
from html import escape
from keyword import iskeyword
from typing import Any

import ipywidgets

from peft_nb.errors import DataError, PeftNbError
from peft_nb.system.frontend import variables
from peft_nb.ui import wording
from peft_nb.ui.panels.panel import Panel, Tell, button, row
from peft_nb.ui.report import Report, histogram

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
        self._head, self._table, self._changes, self._lengths, self._seen = (ipywidgets.HTML() for _ in range(5))
        self.variable = ipywidgets.Text(value="clean", description="Variable for the fixed data", **WHOLE)
        self.fixes = {
            one.kind: button(f"Fix {one.title}", partial(self._fix, one.kind), help=f"{one.fix}; or {one.advice}")
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
        children = [self._head, self._table, *fixing, self._changes, self._lengths, self.row, self._seen]
        super().__init__("data", children)
        self.row.observe(lambda _: self._show_row(), "value")
        self._show()

    def _show(self) -> None:
        report, last = self._report, max(len(self._report.rows) - 1, 0)
        self._head.value = report.head_html
        self._table.value, self._changes.value = report.findings_html, report.changes_html
        for finding in report.fixable:
            done = "✓ " if finding.kind in report.fixed_kinds else ""  # still there, or the focus would be lost
            self.fixes[finding.kind].description = f"{done}Fix {finding.title}"
        self._lengths.value = _histogram(report)
        self.row.max, self.row.description = last, f"Row, 0 to {last:,}"
        self._show_row()

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

    def _show_row(self) -> None:
        try:
            self._seen.value = self._report.row_html(self.row.value)
        except PeftNbError as error:
            self._seen.value = f'<div role="status">{escape(str(error))}</div>'
        except Exception as error:
            self.fail(error)


WHOLE: dict[str, Any] = {
    "style": {"description_width": "initial"},
    "layout": {"width": "auto", "max_width": "calc(100% - 4px)"},
}  # labels are not cut off


def _histogram(report: Report) -> str:
    """Draw how long rows are, and say it for those who do not see it."""
    if not report.lengths:
        return ""
    if not report.limited:
        return f"{report.picture_html}<div>{escape(report.lengths_said)}</div>"
    limit = report.spec.max_length
    near = max(report.lengths) > limit / 2  # as in the picture
    over = wording.count(sum(length > limit for length in report.lengths), "row")
    marked = (
        f"the dashed line is max_length {limit:,}; {over} over it" if near else f"all far below max_length {limit:,}"
    )
    numbers = escape("\n".join(histogram(report.lengths)))
    return (
        f"{report.picture_html}<div>{escape(f'{report.lengths_said}; {marked}')}</div>"
        f"<details><summary>as numbers</summary><pre>{numbers}</pre></details>"
    )
