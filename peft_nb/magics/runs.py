"""``%peft`` with runs: list, show, stop and resume them, write them, ask them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from peft_nb.adapters import Form
from peft_nb.errors import CommandError, PeftNbError, RunError, nearest
from peft_nb.events import Listener
from peft_nb.magics.line import COMMANDS, Call, command
from peft_nb.models.load import DTYPES
from peft_nb.spec import notation
from peft_nb.spec.fields import FieldInfo

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from peft_nb.runs.run import Run


@command()
def runs(call: Call) -> Any:
    """List the runs in the store, newest first."""
    from peft_nb.ui import runs

    return runs.listed()


@command("[RUN]", most=1)
def show(call: Call) -> None:
    """Show how a run stands or ended; by default the newest."""
    from peft_nb.store import Store
    from peft_nb.ui import live

    words = call.words or [record.id for record in Store().all()[:1]]
    if not words:
        raise RunError("the store holds no run yet; a %%peft cell makes one")
    shown, name = _find(call.shell, words[0])
    live.show(shown, name)


@command("[RUN]", most=1)
def stop(call: Call) -> None:
    """End a run after its current step and keep what it learned; by default the only active one."""
    from peft_nb.runs import run

    active = run.active()
    if call.words:
        found, _ = _find(call.shell, call.words[0], unfinished=True)
        if found not in active:
            raise RunError(f"run {found.id} is {found.status}, and this kernel is not at work on it")
    elif len(active) == 1:
        (found,) = active
    else:
        names = ", ".join(sorted(each.id for each in active))
        raise RunError(f"several runs are active; name one of {names}" if active else "no run is active here")
    found.stop()
    print(f"{found.id} stops after its current step")


@command("RUN [--out NAME] [--background]", 1, 1)
def resume(call: Call) -> None:
    """Go on with a run that was stopped, from its last checkpoint."""
    from peft_nb.ui import live

    found, name = _find(call.shell, call.words[0], unfinished=True)

    def start(listeners: Sequence[Listener]) -> Run:
        begun = found.resume(background=True, listeners=listeners)
        if call.out:
            call.shell.user_ns[call.out] = begun
        return begun

    live.watch(start, background=call.background, view=live.view_of(found), name=call.out or name)


@command("RUN PATH", 2, 2)
def save(call: Call) -> None:
    """Write the adapter of a run as a PEFT folder."""
    found, _ = _find(call.shell, call.words[0])
    print(f"{found.id} is saved in {found.save(call.words[1])}")


MERGING = [
    FieldInfo("dtype", "choice", "Number format of the weights; by default the run's own.", "merge", choices=DTYPES),
    FieldInfo("max_kl", "number", "Largest KL divergence from the live model that is let through.", "merge", "nats"),
]


@command("RUN PATH [--dtype DTYPE] [--max-kl X]", 2, 6, fields=MERGING)
def merge(call: Call) -> Any:
    """Write a plain model with the adapter of a run in its weights, once it is proven to do the same."""
    words, given = notation.parse_flags(call.words, COMMANDS["merge"].flags)
    if len(words) != 2:
        raise CommandError(f"%peft merge takes a run and a folder; write %peft merge {COMMANDS['merge'].usage}")
    if "max_kl" in given:
        try:
            given["max_kl"] = float(given["max_kl"])
        except ValueError:
            raise CommandError(f"--max-kl {given['max_kl']}: not a number; write one such as 0.01") from None
    found, _ = _find(call.shell, words[0])
    return found.merge(words[1], **given)


AS = FieldInfo("as", "choice", "What to write.", "export", default="script", choices=get_args(Form))
TO = FieldInfo("to", "text", "Where to write it; a folder, for yaml a file.", "export")


@command("RUN [--as script|yaml|adapter|merged] [--to PATH]", 1, 1000, fields=[AS, TO])
def export(call: Call) -> None:
    """Write a run as a script that needs PEFT alone, with its data; as YAML, as an adapter, or merged into the base."""
    words, given = notation.parse_flags(call.words, COMMANDS["export"].flags)
    form = given.get("as", "script")
    if len(words) != 1:
        raise CommandError(f"%peft export takes one run; write %peft export {COMMANDS['export'].usage}")
    if form not in AS.choices:
        raise CommandError(f"--as {form}: not one of {', '.join(AS.choices)}{nearest(form, AS.choices)}")
    found, _ = _find(call.shell, words[0])
    usual = (found.spec.name or found.id) + (".yaml" if form == "yaml" else f"-{form}")
    print(f"{found.id} is exported to {found.export(given.get('to', usual), form, call.shell.user_ns)}")


@command("RUN [--out NAME]", 1, 1)
def load(call: Call) -> Any:
    """Take a run out of the store and bind it to a variable."""
    found, _ = _find(call.shell, call.words[0])
    if not call.out:
        return found
    call.shell.user_ns[call.out] = found
    return None


@command("RUN [RUN ...] [base] [--prompts VAR] [--html FILE] [--out VAR]", 1, 1000)
def compare(call: Call) -> Any:
    """Ask runs and their bare base the same, by default held-out rows, and show all side by side; --html keeps it."""
    from peft_nb.runs.compare import BASE
    from peft_nb.ui import compare

    names = call.shell.user_ns
    if call.html is not None:
        compare.refuse_existing(call.html)
    if call.prompts is not None and call.prompts not in names:
        hint = nearest(call.prompts, [name for name in names if not name.startswith("_")])
        raise CommandError(f"--prompts {call.prompts}: there is no such variable{hint}")
    found = {word: None if word == BASE else _find(call.shell, word)[0] for word in call.words}
    shown = compare.compared(found, names[call.prompts] if call.prompts else None)
    if call.html is not None:
        shown.to_html(call.html)
    if call.out:
        names[call.out] = shown
    return shown


@command("RUN [RUN ...] [--out VAR]", 1, 1000)
def chat(call: Call) -> Any:
    """Talk to runs and their bare base side by side; --out keeps the conversation."""
    from peft_nb.ui.chat import Chat

    talk = Chat({word: _find(call.shell, word)[0] for word in call.words})
    if call.out:
        call.shell.user_ns[call.out] = talk
    return talk


def _find(shell: InteractiveShell, word: str, unfinished: bool = False) -> tuple[Run, str | None]:
    """Find a run by the variable that holds it, or as the store does; also tell the variable."""
    from peft_nb.runs import run
    from peft_nb.store import Store

    held = {name: value for name, value in shell.user_ns.items() if isinstance(value, run.Run)}
    if word in held:
        return held[word], word
    try:
        found = run.load(Store().get(word, unfinished=unfinished).id)
    except PeftNbError:
        if word not in shell.user_ns:
            raise
        kind = type(shell.user_ns[word]).__name__
        raise CommandError(f"{word} is a {kind}, not a run; name a run of %peft runs") from None
    named = [name for name, value in held.items() if value.id == found.id and not name.startswith("_")]
    return (held[named[0]], named[0]) if named else (found, None)
