"""What the code leans on of ipykernel's private API, as read in this version; a test fails when any of it moves."""

from __future__ import annotations

from typing import Any

READ_IN = "7.4.0"

# Each with the names of its parameters; None for what is not called.
API: dict[str, str | None] = {
    "ipykernel.comm.comm.BaseComm._reply_subshell_for": "self, data, default",
}


def answer_where_sent(comm: Any) -> None:
    """Let messages of a widget reach the subshell that the front end sent them to, also while a cell is running.

    ipykernel 7.4 hands them to the loop that wrote to the widget last, which is the cell's; earlier ones do not ask.
    """
    comm._reply_subshell_for = lambda data, subshell: subshell
