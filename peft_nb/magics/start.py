"""The page that ``%peft`` alone shows: four steps as ready cells, then the commands by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from textwrap import indent
from typing import Any

from peft_nb.data.sources import BUILTIN, data_variables
from peft_nb.magics.line import Command, groups, usage
from peft_nb.ui.style import BOX


@dataclass(frozen=True, repr=False)
class Start:
    """Where to start; shown by a notebook as a page and by a terminal as text.

    Attributes
    ----------
    data : str
        The rows that the cells name.
    own : bool
        Whether that is a variable of the notebook.
    """

    data: str
    own: bool

    @classmethod
    def of(cls, namespace: Mapping[str, Any]) -> Start:
        """Start with the notebook's own rows, or with a built-in sample where it has none."""
        variables = data_variables(namespace)
        return cls(variables[0], True) if variables else cls(next(iter(BUILTIN)), False)

    @property
    def steps(self) -> dict[str, str]:
        """The cells to run one after the other, by what each does."""
        return {
            "Check data": f"%peft data {self.data}",
            "Train": f"%%peft lora --data {self.data} --out run",
            "Compare with the base model": "%peft compare run base",
            "Save the adapter": "%peft save run my-adapter",
        }

    @property
    def note(self) -> str:
        """What the cells start from, and what else there is."""
        sample = f"{self.data} is a built-in sample; replace it with the name of your DataFrame."
        return f"{'' if self.own else sample + ' '}%peft panel does all of it in a form.".strip()

    def __repr__(self) -> str:
        lines = [
            f"{number}. {title}\n{indent(cell, '   ')}" for number, (title, cell) in enumerate(self.steps.items(), 1)
        ]
        return "\n".join([*lines, "", self.note, "", usage()])

    def _repr_html_(self) -> str:
        steps = "".join(
            f"<li><b>{title}</b><pre style='margin:2px 0 8px'>{escape(cell)}</pre></li>"
            for title, cell in self.steps.items()
        )
        listed = "".join(f"<h4 style='margin:12px 0 2px'>{title}</h4>{_listed(some)}" for title, some in groups())
        page = f"<ol style='margin:0'>{steps}</ol><p>{escape(self.note)}</p>{listed}"
        return f'<div style="{BOX}">{page}<p>%peft help COMMAND explains a command, %%peft? the cell.</p></div>'


def _listed(commands: list[Command]) -> str:
    rows = "".join(
        f"<div><code>%peft {escape(one.name)}</code> {escape(one.help.partition(chr(10))[0])}</div>" for one in commands
    )
    return f"<div>{rows}</div>"
