"""``%peft`` after training: promote a run, take that back, see who did what and where a run came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.errors import CommandError, RunError
from peft_nb.magics.line import Argument, Flag, command

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from peft_nb.store import Store

WHY = Flag("why", "text", "The reason, for the log.", value='"TEXT"')
REASON = Flag("why", "text", "The reason, for the log.", value='"TEXT"', required=True)  # which the store asks for
NAME = Flag("name", "text", "Name of a run that has none; by default that of its variable.")
UNUSED = Flag("unused", "switch", "Remove the encoded rows that no run uses, instead of a run.")
YES = Flag("yes", "switch", "Remove it without being asked first.")
SHARE = Flag("share", "text", "Answer only a share of a served alias's requests by it.", value="N%")
AS = Flag("as", "text", "Name of the person who approves.", value="NAME", required=True)
WITHDRAW = Flag("withdraw", "switch", "Take that person's approval back.")
NEEDS = Flag(
    "needs", "text", "What a run needs of verdict, approval (both by default) and probe.", value="verdict,approval"
)
APPROVERS = Flag("approvers", "integer", "How many people have to approve; by default 1.")
PROMOTERS = Flag("promoters", "text", "Accounts that may promote; by default all.", value="ACCOUNT,...")
FRAMEWORK = Flag(
    "for", "text", "Which: eu-ai-act, gdpr, hipaa or nist-ai-rmf.", value="NAME", kind="checklist", required=True
)
TO = Flag("to", "text", "File that it is written to as well: Markdown, or HTML where it ends in .html.", kind="path")
PERSON = Flag("person", "text", "A name, an address or what else rows would hold.", value='"TEXT"', required=True)
REMOVE = Flag("remove", "switch", "Take the policy away.")
FORCE = Flag("force", "switch", "Promote it even if its verdict failed.")


@command(Argument("run"), Argument("alias"), flags=[REASON, NAME, SHARE, FORCE])
def promote(
    shell: InteractiveShell,
    run: str,
    alias: str,
    why: str = "",
    name: str | None = None,
    share: str | None = None,
    force: bool = False,
) -> None:
    """Point NAME@ALIAS, such as tickets@production, at a run; --force if its verdict failed."""
    from peft_nb.ui import lineage

    store, word, variable = _stored(shell, run)
    name = name or (variable if store.get(word).name is None else None)
    store.promote(word, alias, why=why, name=name, force=force, share=None if share is None else _share(share))
    print(lineage.said(store.log()[0]))


@command(Argument("alias"), flags=[WHY])
def rollback(shell: InteractiveShell, alias: str, why: str = "") -> None:
    """End an alias's share, or point it, or NAME@ALIAS, back at the run it had before its last promotion."""
    from peft_nb.store import Store
    from peft_nb.ui import lineage

    print(lineage.said(Store().rollback(alias, why=why)))


@command(Argument("run"), flags=[AS, REASON, WITHDRAW])
def approve(shell: InteractiveShell, run: str, as_: str = "", why: str = "", withdraw: bool = False) -> None:
    """Approve a run, or take that back, as a person with a name and a reason, which the log keeps."""
    from peft_nb.ui import lineage

    store, word, _ = _stored(shell, run)
    act = store.withdraw if withdraw else store.approve
    print(lineage.said(act(word, as_, why=why)))


@command(Argument("alias", required=False), flags=[NEEDS, APPROVERS, PROMOTERS, REMOVE, WHY])
def policy(
    shell: InteractiveShell,
    alias: str | None = None,
    why: str = "",
    needs: str | None = None,
    approvers: int | None = None,
    promoters: str | None = None,
    remove: bool = False,
) -> Any:
    """Show the policies, or say what a run needs before ALIAS stands for it, and who may promote."""
    from peft_nb.magics.data import listed
    from peft_nb.store import Store
    from peft_nb.ui import lineage

    store = Store()
    if not alias:
        return lineage.policies(store.policies())
    if remove:
        print(lineage.said(store.drop_policy(alias, why=why)))
    elif needs is approvers is promoters is None:
        return lineage.policies({name: one for name, one in store.policies().items() if name == alias})
    else:
        asked: dict[str, Any] = {} if needs is None else {"needs": listed(needs)}
        allowed = listed(promoters or "")
        print(lineage.said(store.set_policy(alias, why=why, approvers=approvers, promoters=allowed, **asked)))
    return None


@command(Argument("run", required=False))
def log(shell: InteractiveShell, run: str | None = None) -> Any:
    """List promotions, rollbacks and removals: who, when and why; of all, of a name or of a run."""
    from peft_nb.store import Store
    from peft_nb.ui import lineage

    if not run:
        return lineage.log(Store().log())
    store, word, _ = _stored(shell, run)
    return lineage.log(store.log(word))


@command(Argument("run"))
def lineage(shell: InteractiveShell, run: str) -> Any:
    """Draw the lineage of a run: base, data, spec, packages, files, parents, versions."""
    from peft_nb.ui.lineage import tree

    store, word, _ = _stored(shell, run)
    return tree(store.lineage(word))


@command(Argument("run", required=False))
def verify(shell: InteractiveShell, run: str | None = None) -> None:
    """Check that the log, and the files of a run, by default of all that finished, are unchanged."""
    from peft_nb.store import Store
    from peft_nb.ui.lineage import chained, whole

    store = Store()
    words = [record.id for record in store.all() if record.status == "finished"]
    if run:
        store, *words, _ = _stored(shell, run)
    elif not words:
        raise RunError("no run in the store has finished yet; a %%peft cell makes one")
    for word in words:
        print(whole(store.lineage(word)))
    print(chained(len(store.log()), store.whole_log()))


@command(Argument("run"), flags=[FRAMEWORK, TO])
def checklist(shell: InteractiveShell, run: str, for_: str = "", to: str | None = None) -> Any:
    """Fill a checklist for a run, such as that of the EU AI Act, from what the store knows; blanks are counted."""
    from pathlib import Path

    from peft_nb.runs.checklist import checklist
    from peft_nb.system.files import atomic_text, writing
    from peft_nb.ui.checklist import Page

    store, word, _ = _stored(shell, run)
    made = Page(checklist(store, word, for_))
    if to is not None:
        file = Path(to).expanduser()
        with writing(file):
            atomic_text(file, made._repr_html_() if file.suffix == ".html" else made.made.to_markdown())
    return made


@command(flags=[PERSON])
def forget(shell: InteractiveShell, person: str = "") -> Any:
    """Find the runs, versions, votes and indexes that hold a person's data, and what has to be trained again."""
    from peft_nb.runs.forget import forget
    from peft_nb.store import Store
    from peft_nb.ui.forget import Page
    from peft_nb.ui.progress_bar import progress_bar

    with progress_bar("looking through the rows of all runs"):
        return Page(forget(Store(), person))


@command(Argument("run", required=False), flags=[WHY, UNUSED, YES])
def rm(shell: InteractiveShell, run: str | None = None, why: str = "", unused: bool = False, yes: bool = False) -> None:
    """Remove a run with its folder, or --unused encoded rows; asks first unless --yes is given."""
    from peft_nb.store import Store
    from peft_nb.ui import wording

    if unused == bool(run):
        raise CommandError("name one run, or write --unused to remove the encoded rows that no run uses")
    if not run:
        store = Store()
        rows = f"{wording.memory(round(store.space().unused / 1e6, 1))} of encoded rows that no run uses"
        if yes or _agreed(rows):
            store.clear()
            print(f"removed {rows}")
        return
    store, word, _ = _stored(shell, run)
    record = store.removable(word)
    what = f"{record.title} ({record.status}) with its folder, adapter and curve, but not its log"
    if yes or _agreed(what):
        print(f"{store.remove(record.id, why=why).title} is removed")


def _share(text: str) -> float:
    """Read a share such as ``10%``."""
    number, percent, rest = text.partition("%")
    try:
        if not percent or rest:
            raise ValueError
        return float(number) / 100
    except ValueError:
        raise CommandError(f"--share {text}: not a share; write a percentage such as 10%") from None


def _agreed(what: str) -> bool:
    """Ask before something is removed."""
    from IPython.core.error import StdinNotImplementedError
    from IPython.utils.io import ask_yes_no

    agreed = False
    try:
        agreed = ask_yes_no(f"Remove {what}? y/[n]", "n", "n")
    except StdinNotImplementedError:  # nobody can be asked, as where nbconvert runs the notebook
        print(f"Remove {what}?")
    if not agreed:
        print("nothing is removed; with --yes it is removed without asking")
    return agreed


def _stored(shell: InteractiveShell, word: str) -> tuple[Store, str, str | None]:
    """The store and id of the run that a variable holds, and its name; else the default store and the word."""
    from peft_nb.runs.run import Run
    from peft_nb.store import Store

    value = shell.user_ns.get(word)
    return (Store(value.folder.parents[1]), value.id, word) if isinstance(value, Run) else (Store(), word, None)
