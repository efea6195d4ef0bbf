"""``%peft probe``: bias, leaks of training rows, refusals and obedience, as changes from base to adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.magics.line import OUT, Argument, Flag, command

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

PAIRS = Flag("pairs", "text", "Pairs of your own: columns first, second, axis, stereotype.", value="DATA", kind="data")
ONLY = Flag("only", "text", "Some of bias, sentiment, leaks, refusals, toxicity, injections.", value="bias,leaks")


@command(Argument("run"), flags=[PAIRS, ONLY, OUT])
def probe(shell: InteractiveShell, run: str, pairs: str | None = None, only: str = "", out: str | None = None) -> Any:
    """Probe a run for what it changed beside its task: bias, leaked training rows, refusals, obedience to texts."""
    from peft_nb.magics.data import listed
    from peft_nb.magics.runs import find
    from peft_nb.ui.probe import probe

    found = probe(find(shell, run)[0], pairs=pairs, only=listed(only))
    if out:
        shell.user_ns[out] = found
    return found
