"""``%peft forget``: where a person's data are, and what has to be done."""

from __future__ import annotations

from html import escape

from peft_nb.runs.forget import Forget
from peft_nb.ui.listing import Listing

NOT_DONE = "Nothing was changed. What was learned from a row cannot be taken out of an adapter: it is trained again."


class Page:
    """What was found, as a notebook shows it.

    Parameters
    ----------
    found : Forget
        What is shown.
    """

    def __init__(self, found: Forget) -> None:
        self.found = found
        self.table = Listing(found.table)

    @property
    def notes(self) -> list[str]:
        """What there is to say beside the table."""
        if self.table.empty and not self.found.unlooked:
            return ["Nothing was found in the rows, questions, votes and indexes of the store."]
        told = [NOT_DONE] if len(self.table) else ["Nothing was found in what could be looked through."]
        return told + [f"not looked through: {one}" for one in self.found.unlooked]

    def __repr__(self) -> str:
        return "\n".join([repr(self.table), *self.notes] if len(self.table) else self.notes)

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{escape(one)}</div>" for one in self.notes)
        return (self.table._repr_html_() if len(self.table) else "") + notes
