"""``%peft data``: look at data before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.magics.line import OUT, Argument, Flag, command
from peft_nb.spec import RunSpec

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

FIX = Flag("fix", "switch", "Fix what can be fixed; redact nothing.")
KINDS = Flag(
    "kinds", "text", "Fix these kinds alone, such as empty,personal; all,personal redacts too.", value="KIND,..."
)
DROP = Flag("drop", "switch", "Drop rows even if they are more than a tenth.")
NUMBER = "the number of a row; write one such as 0"
ROW = Flag("row", "integer", "Show the tokens of this row alone.", wanted=NUMBER)


@command(
    Argument("data", label="NAME"),
    flags=[FIX, KINDS, DROP, ROW, OUT],
    sections=("data", "model"),
    takes="one name",
)
def data(
    shell: InteractiveShell,
    data: str,
    fields: dict[str, Any],
    fix: bool = False,
    kinds: str | None = None,
    drop: bool = False,
    row: int | None = None,
    out: str | None = None,
) -> Any:
    """Check data before training: what is wrong, the fix, the lengths; --fix fixes, --row shows one row's tokens."""
    spec = RunSpec(**fields, data=data)
    from peft_nb.ui import check
    from peft_nb.ui.progress_bar import progress_bar

    if row is not None:
        return check.tokens(spec, row, shell.user_ns)
    report = check.report_on(spec, namespace=shell.user_ns)
    fixed: Any = report
    if fix or kinds or drop:
        with progress_bar() as progress:
            progress(0, "fixing and checking the fixed data")
            fixed = report.fixed(out, listed(kinds) if kinds else None, drop=drop)
            report.current  # noqa: B018
    if out:
        shell.user_ns[out] = fixed
    return report


def listed(text: str) -> list[str]:
    """Take apart what commas separate."""
    return [word.strip() for word in text.split(",") if word.strip()]
