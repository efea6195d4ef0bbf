"""Run cells in the IPython of the fixture ``shell``."""

from __future__ import annotations

from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import PeftNbError, SpecError


def run(shell: InteractiveShell, source: str) -> Any:
    """Run a cell and give its value; what it raises comes through."""
    result = shell.run_cell(source)
    result.raise_error()
    return result.result


def refused(shell: InteractiveShell, source: str, kind: type[PeftNbError] = PeftNbError) -> str:
    """Run a cell that must fail, and give what it says: one line, or one for each wrong field."""
    error = shell.run_cell(source).error_in_exec
    assert isinstance(error, kind)
    assert isinstance(error, SpecError) or "\n" not in str(error)
    return str(error)
