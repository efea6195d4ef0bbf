"""``%peft`` with runs: list, show, stop and resume them, load, compare and ask them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft_nb.errors import CommandError, PeftNbError, RunError, nearest
from peft_nb.events import Listener
from peft_nb.magics.line import BACKGROUND, OUT, Argument, Flag, command
from peft_nb.spec.place import FIELDS, Place

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from peft_nb.runs.run import Run


NOW = Flag("now", "switch", "Give up the current step as well, and a run whose cluster cannot be reached.")


@command()
def runs(shell: InteractiveShell) -> Any:
    """List the runs in the store, newest first."""
    from peft_nb.store import Store
    from peft_nb.ui import runs

    return runs.listed(Store())


@command(Argument("run", required=False))
def show(shell: InteractiveShell, run: str | None = None) -> None:
    """Show the state or result of a run; by default the newest."""
    from peft_nb.store import Store
    from peft_nb.ui import live

    words = [run] if run else [record.id for record in Store().all()[:1]]
    if not words:
        raise RunError("the store holds no run yet; a %%peft cell makes one")
    shown, name = find(shell, words[0])
    if shown.away:  # the process that began it has ended, and the cluster goes on
        shown.attach()
    live.show(shown, name)


@command(Argument("run", required=False), flags=[NOW])
def stop(shell: InteractiveShell, run: str | None = None, now: bool = False) -> None:
    """End a run after its current step and keep what it learned, or a sweep; by default the only active one."""
    from peft_nb.runs.run import active
    from peft_nb.runs.sweeps import search

    if searching := [one for one in search.active() if run in (None, one.id, one.record.name)]:
        for one in searching:
            one.stop(now=now)
            print(f"{one.id} stops; its trials at work end {'now' if now else 'after their current step'}")
        return
    running = active()
    if run:
        found, _ = find(shell, run, unfinished=True)
        if found not in running and not found.away:
            raise RunError(f"run {found.id} is {found.status}, and this kernel is not at work on it")
    elif len(running) == 1:
        (found,) = running
    else:
        names = ", ".join(sorted(each.id for each in running))
        raise RunError(f"several runs are active; name one of {names}" if running else "no run is active here")
    found.stop(now=now)
    print(f"{found.id} stops {'now' if now else 'after its current step'}")


@command(Argument("run"), flags=[OUT, BACKGROUND, *FIELDS])
def resume(
    shell: InteractiveShell, fields: dict[str, Any], run: str, out: str | None = None, background: bool = False
) -> None:
    """Resume a run that was stopped, from its last checkpoint, here or elsewhere."""
    from peft_nb.ui import live

    Place.taken(dict(fields))
    found, name = find(shell, run, unfinished=True)

    def start(listeners: Sequence[Listener]) -> Run:
        begun = found.resume(background=True, listeners=listeners, **fields)
        if out:
            shell.user_ns[out] = begun
        return begun

    live.watch(start, background=background, view=live.view_of(found), name=out or name)


@command(Argument("run"), flags=[OUT])
def load(shell: InteractiveShell, run: str, out: str | None = None) -> Any:
    """Load a run from the store and bind it to a variable."""
    found, _ = find(shell, run)
    if not out:
        return found
    shell.user_ns[out] = found
    return None


PROMPTS = Flag("prompts", "text", "Variable that holds a list of texts to ask.", value="VAR", kind="texts")
HTML = Flag("html", "text", "File that keeps the comparison as a page.", value="FILE", kind="file")


@command(Argument("run|base", many=True, label="RUN [RUN ...] [base]"), flags=[PROMPTS, HTML, OUT])
def compare(
    shell: InteractiveShell,
    runs: list[str],
    prompts: str | None = None,
    html: str | None = None,
    out: str | None = None,
) -> Any:
    """Compare metrics and answers of runs and their base model, by default on the evaluation set."""
    from peft_nb.runs.compare import BASE
    from peft_nb.ui import compare

    names = shell.user_ns
    if html is not None:
        compare.refuse_existing(html)
    if prompts is not None and prompts not in names:
        hint = nearest(prompts, [name for name in names if not name.startswith("_")])
        raise CommandError(f"--prompts {prompts}: there is no such variable{hint}")
    found = {word: None if word == BASE else find(shell, word)[0] for word in runs}
    shown = compare.compared(found, names[prompts] if prompts else None)
    if html is not None:
        shown.to_html(html)
    if out:
        names[out] = shown
    return shown


@command(Argument("run|router", many=True), flags=[OUT])
def chat(shell: InteractiveShell, runs: list[str], out: str | None = None) -> Any:
    """Chat with runs or a router and the base model, or try a run on texts or clips; --out saves the conversation."""
    from peft_nb.ui.chat import Chat, conversation
    from peft_nb.ui.router import Router

    if len(runs) == 1 and isinstance(held := shell.user_ns.get(runs[0]), Router):
        talk: Any = Chat(held.runs, held)
    else:
        talk = conversation({word: find(shell, word)[0] for word in runs})
    if out:
        shell.user_ns[out] = talk
    return talk


@command(Argument("run"), Argument("tag", many=True))
def tag(shell: InteractiveShell, run: str, tags: list[str]) -> None:
    """Put tags on a run; %peft runs shows them and finds tag:NAME."""
    found, _ = find(shell, run)
    found.tag(*tags)
    print(f"{found.id} has the tags {', '.join(found.tags)}")


@command(Argument("run"), Argument("tag", many=True))
def untag(shell: InteractiveShell, run: str, tags: list[str]) -> None:
    """Take tags off a run."""
    found, _ = find(shell, run)
    found.untag(*tags)
    print(f"{found.id} has {'the tags ' + ', '.join(found.tags) if found.tags else 'no tags'}")


def find(shell: InteractiveShell, word: str, unfinished: bool = False) -> tuple[Run, str | None]:
    """Find a run by the variable that holds it, or as the store does.

    Parameters
    ----------
    shell : InteractiveShell
        The shell whose namespace holds runs.
    word : str
        A variable, or what the store knows a run by.
    unfinished : bool, default False
        Whether a name means its newest run even if that has not finished.

    Returns
    -------
    tuple of Run and str or None
        The run, and the variable that holds it.

    Raises
    ------
    PeftNbError
        If there is none, or the variable holds something else.
    """
    from peft_nb import store
    from peft_nb.runs.run import Run, load

    held = {name: value for name, value in shell.user_ns.items() if isinstance(value, Run)}
    if word in held:
        return held[word], word
    try:
        where, record = store.find(word, unfinished=unfinished)
        found = load(record.id, store=where)
    except PeftNbError:
        if word not in shell.user_ns:
            raise
        kind = type(shell.user_ns[word]).__name__
        raise CommandError(f"{word} is a {kind}, not a run; name a run of %peft runs") from None
    named = [name for name, value in held.items() if value.id == found.id and not name.startswith("_")]
    return (held[named[0]], named[0]) if named else (found, None)
