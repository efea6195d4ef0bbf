"""The button with which JupyterLab puts a cell below the active one."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets


class InsertCell(anywidget.AnyWidget):
    """Puts a cell into the notebook when it is pressed; nothing is shown while there is no cell.

    The kernel cannot do that: what ``set_next_input`` asks for goes with the reply to a cell that is run. So the button
    presses a link to the command of JupyterLab and Notebook 7, which ask first in a notebook that is not trusted. Where
    no cell appears, the text is copied and the button says what to do.
    """

    _esm = Path(__file__).with_name("insert_cell.js")
    cell = traitlets.Unicode().tag(sync=True)
