"""``%peft watch`` and ``python -m peft_nb watch``: whether what a run is asked is still what it learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.magics.line import OUT, Argument, Flag, command

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

ENCODER = Flag("encoder", "text", "What embeds prompts; by default minilm-l6.")
FAIL = Flag("fail_on", "choice", "End with an error if anything has changed.", choices=("drift",))


@command(Argument("run"), Argument("data|file", label="ROWS"), flags=[ENCODER, FAIL, OUT], takes="a run and new rows")
def watch(
    shell: InteractiveShell,
    run: str,
    data: str,
    encoder: str | None = None,
    fail_on: str | None = None,
    out: str | None = None,
) -> Any:
    """Compare new rows, or a server's log, with those that a run learned from: what changed, and the next step."""
    from peft_nb.errors import RunError
    from peft_nb.magics.runs import find
    from peft_nb.ui.watch import headline, watch

    options: dict[str, Any] = {"encoder": encoder} if encoder else {}
    found = watch(find(shell, run)[0], shell.user_ns.get(data, data), **options)
    if out:
        shell.user_ns[out] = found
    if fail_on and found.drifted:
        raise RunError(f"{headline(found.found)}; {found.why}")
    return found


def from_words(words: list[str]) -> int:
    """Run ``python -m peft_nb watch RUN ROWS``.

    Parameters
    ----------
    words : list of str
        What follows.

    Returns
    -------
    int
        1 where something has changed and ``--fail-on drift`` was written, else 0.

    Raises
    ------
    PeftNbError
        For whatever the user can fix, in one line.
    """
    from peft_nb.magics.line import COMMANDS
    from peft_nb.ui import watch as page

    given = COMMANDS["watch"].parse(words)
    options: dict[str, Any] = {"encoder": given["encoder"]} if "encoder" in given else {}
    found = page.watch(given["run"], given["data"], **options)
    print(found)
    return int(bool(given.get("fail_on")) and found.drifted)
