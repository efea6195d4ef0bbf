"""``%%peft`` and ``%peft``: what ``%load_ext peft_nb`` puts into a notebook. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from peft_nb.magics import cell, completion, line

from peft_nb.magics import train, data, runs, export, versions, help  # noqa: F401  # isort: skip  (the order of %peft help)

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

ALONE = re.compile(r"%%peft(\s|$)")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics and their completion; called by ``%load_ext peft_nb``.

    Parameters
    ----------
    shell : InteractiveShell
        The IPython shell to extend.
    """
    unload_ipython_extension(shell)

    def cell_magic(arguments: str, body: str) -> None:
        cell.train(shell, arguments, body)

    def line_magic(arguments: str) -> object:
        return line.run(shell, arguments)

    cell_magic.__doc__ = cell.usage()
    line_magic.__doc__ = line.usage()
    shell.magics_manager.register_function(cell_magic, "cell", "peft")
    shell.magics_manager.register_function(line_magic, "line", "peft")
    shell.input_transformers_cleanup.append(give_body)
    shell.Completer.custom_matchers.append(completion.matcher(shell))


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take back what :func:`load_ipython_extension` registered.

    Parameters
    ----------
    shell : InteractiveShell
        The IPython shell that was extended.
    """
    for kind in ("cell", "line"):
        shell.magics_manager.magics[kind].pop("peft", None)
    shell.input_transformers_cleanup[:] = [
        transform for transform in shell.input_transformers_cleanup if transform is not give_body
    ]
    shell.Completer.custom_matchers[:] = [
        matcher
        for matcher in shell.Completer.custom_matchers
        if getattr(matcher, "matcher_identifier", None) != completion.IDENTIFIER
    ]


def give_body(lines: list[str]) -> list[str]:
    """Give a ``%%peft`` cell without body an empty one, because IPython runs no cell magic without."""
    return [*lines, "\n"] if len(lines) == 1 and ALONE.match(lines[0]) else lines
