"""``%peft`` after training: promote a run, take that back, see who did what and where a run came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.errors import RunError
from peft_nb.magics.line import Call, command

if TYPE_CHECKING:
    from peft_nb.store import Store


@command('RUN ALIAS --why "TEXT" [--name NAME] [--force]', 2, 2)
def promote(call: Call) -> None:
    """Let NAME@ALIAS, such as tickets@production, stand for a run; --force if its verdict failed."""
    from peft_nb.ui import lineage

    store, word, variable = _named(call, call.words[0])
    name = call.name or (variable if store.get(word).name is None else None)
    store.promote(word, call.words[1], why=call.why or "", name=name, force=call.force)
    print(lineage.said(store.log()[0]))


@command('ALIAS [--why "TEXT"]', 1, 1)
def rollback(call: Call) -> None:
    """Let an alias, or NAME@ALIAS, stand for what it stood for before its last promotion."""
    from peft_nb.store import Store
    from peft_nb.ui import lineage

    print(lineage.said(Store().rollback(call.words[0], why=call.why or "")))


@command("[RUN]", most=1)
def log(call: Call) -> Any:
    """List who promoted, rolled back or removed what, when and why; of all, of a name or of a run."""
    from peft_nb.store import Store
    from peft_nb.ui import lineage

    if not call.words:
        return lineage.log(Store().log())
    store, word, _ = _named(call, call.words[0])
    return lineage.log(store.log(word))


@command("RUN", 1, 1)
def lineage(call: Call) -> Any:
    """Draw where a run came from and what came of it: base, data, spec, packages, files, parents, versions."""
    from peft_nb.ui.lineage import tree

    store, word, _ = _named(call, call.words[0])
    return tree(store.lineage(word))


@command("[RUN]", most=1)
def verify(call: Call) -> None:
    """Say whether the files of a run, by default of all that finished, are what they were then."""
    from peft_nb.store import Store
    from peft_nb.ui.lineage import whole

    store = Store()
    words = [record.id for record in store.all() if record.status == "finished"]
    if call.words:
        store, *words, _ = _named(call, call.words[0])
    elif not words:
        raise RunError("no run in the store has finished yet; a %%peft cell makes one")
    for word in words:
        print(whole(store.lineage(word)))


@command('RUN [--why "TEXT"]', 1, 1)
def rm(call: Call) -> None:
    """Remove a run and its folder, unless an alias stands for it; the log and its lineage stay."""
    store, word, _ = _named(call, call.words[0])
    print(f"{store.remove(word, why=call.why or '').title} is removed")


def _named(call: Call, word: str) -> tuple[Store, str, str | None]:
    """The store and id of the run that a variable holds, and its name; else the default store and the word."""
    from peft_nb.runs.run import Run
    from peft_nb.store import Store

    value = call.shell.user_ns.get(word)
    return (Store(value.folder.parents[1]), value.id, word) if isinstance(value, Run) else (Store(), word, None)
