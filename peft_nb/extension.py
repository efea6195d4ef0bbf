"""What ``%load_ext peft_nb`` puts into a notebook: names that import what they stand for when they are first used."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

ALONE = re.compile(r"%%peft(\s|$)")
MATCHER = "peft_nb"


class Magic:
    """A magic whose help is written when it is asked for."""

    __name__ = "peft"

    def __init__(self, act: Callable[..., Any], usage: Callable[[], str]) -> None:
        self._act, self._usage = act, usage

    def __call__(self, *arguments: str) -> Any:
        """Run the magic; its parameters are those that IPython gives."""
        return self._act(*arguments)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self._usage()


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics and their completion; called by ``%load_ext peft_nb``.

    Parameters
    ----------
    shell : InteractiveShell
        The IPython shell to extend.
    """
    from IPython.core.completer import context_matcher

    unload_ipython_extension(shell)

    def train(arguments: str, body: str) -> None:
        from peft_nb.magics import cell

        cell.train(shell, arguments, body)

    def run(arguments: str) -> object:
        from peft_nb.magics import line

        return line.run(shell, arguments)

    def cell_usage() -> str:
        from peft_nb.magics import cell

        return cell.usage()

    def line_usage() -> str:
        from peft_nb.magics import line

        return line.usage()

    @context_matcher(identifier=MATCHER, priority=100)
    def match(context: Any) -> Any:
        from peft_nb.magics import completion

        return completion.match(context, shell.user_ns)

    shell.magics_manager.register_function(Magic(train, cell_usage), "cell", "peft")
    shell.magics_manager.register_function(Magic(run, line_usage), "line", "peft")
    shell.input_transformers_cleanup.append(give_body)
    shell.Completer.custom_matchers.append(match)


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
        if getattr(matcher, "matcher_identifier", None) != MATCHER
    ]


def give_body(lines: list[str]) -> list[str]:
    """Give a ``%%peft`` cell without body an empty one, because IPython runs no cell magic without."""
    return [*lines, "\n"] if len(lines) == 1 and ALONE.match(lines[0]) else lines
