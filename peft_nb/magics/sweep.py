"""``%peft`` for searches: show sweeps and go on with them, or have the best adapter for some rows discovered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.errors import RunError
from peft_nb.magics.line import BACKGROUND, OUT, SECTIONS, Argument, Flag, command
from peft_nb.spec.place import FIELDS, Place

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

NUMBER = "a number above 0; write one such as 20"
TRIALS = Flag("trials", "integer", "Trials there are to be in all, when a sweep is resumed.", wanted="a whole number")
MORE = Flag("minutes", "number", "Minutes more that there are, when a sweep is resumed.", value="N", wanted=NUMBER)
MINUTES = Flag("minutes", "number", "Minutes that the search may take; by default 30.", value="N", wanted=NUMBER)
RESUME = Flag("resume", "switch", "Go on where the sweep was; trials that were at work go on from their checkpoints.")


@command(Argument("sweep", required=False), flags=[RESUME, TRIALS, MORE, OUT, BACKGROUND, *FIELDS])
def sweep(
    shell: InteractiveShell,
    fields: dict[str, Any],
    sweep: str | None = None,
    resume: bool = False,
    trials: int | None = None,
    minutes: float | None = None,
    out: str | None = None,
    background: bool = False,
) -> Any:
    """Show a sweep, by default the newest, or go on with it; a %%peft cell with sweep: {FIELD: [VALUES]} makes one."""
    from peft_nb.runs.context import Inputs
    from peft_nb.store import Store
    from peft_nb.ui.sweep import Sweep, follow

    store = Store()
    word = sweep or next((one.id for one in store.sweeps.all()), None)
    if word is None:
        raise RunError(
            "the store holds no sweep yet; a %%peft cell with sweep: {learning_rate: [1e-4, 3e-4]} makes one"
        )
    found = Sweep(word, store)
    if out:
        shell.user_ns[out] = found
    if resume:
        found.go_on(Inputs(namespace=shell.user_ns), trials, minutes, Place.taken(fields))
    if resume or found.at_work:
        follow(found, background=background or not resume)
        return None
    return found


@command(Argument("data"), flags=[MINUTES, OUT, BACKGROUND], sections=SECTIONS)
def discover(
    shell: InteractiveShell,
    fields: dict[str, Any],
    data: str,
    minutes: float = 30.0,
    out: str | None = None,
    background: bool = False,
) -> Any:
    """Search methods, ranks, layers and learning rates for the best adapter for DATA, and recommend one."""
    from peft_nb.ui.discover import Discovery, discovered

    def bind(found: Discovery) -> None:
        if out:
            shell.user_ns[out] = found

    found = discovered({"data": data, **fields}, {}, minutes, shell.user_ns, background=background, bind=bind)
    return None if background else found
