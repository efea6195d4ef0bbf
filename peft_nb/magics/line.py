"""``%peft COMMAND``: how a line is taken apart, and the register of what may follow ``%peft``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import TYPE_CHECKING, Any

from peft_nb.errors import CommandError, nearest
from peft_nb.magics import cell
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.fields import FieldInfo

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


@dataclass(frozen=True)
class Call:
    """One ``%peft`` line, taken apart."""

    shell: InteractiveShell
    words: list[str]
    out: str | None = None
    background: bool = False
    fix: bool = False
    row: str | None = None
    why: str | None = None
    name: str | None = None
    force: bool = False
    prompts: str | None = None
    html: str | None = None


OWN = re.compile(
    r"--(out|background|fix|row|why|name|force|prompts|html)( \"?[A-Z]+\"?)?(?=[\] ]|$)"
)  # in a usage: flags of no spec


@dataclass(frozen=True)
class Command:
    """One word that may follow ``%peft``: what it takes, how many words of that, and what it does."""

    usage: str
    words: range
    act: Callable[[Call], Any]
    sections: tuple[str, ...] | None = None
    fields: tuple[FieldInfo, ...] = ()

    @property
    def own(self) -> dict[str, bool]:
        """Its own flags by name, and whether each takes a value."""
        return {name: bool(value) for name, value in OWN.findall(self.usage)}

    @property
    def flags(self) -> dict[str, FieldInfo]:
        """All flags it takes: its own, and those of the spec's `sections` where the usage ends with them."""
        spec = notation.flags(RunSpec.describe()).items() if "--FLAG" in self.usage else ()
        chosen = {flag: field for flag, field in spec if self.sections is None or field.section in self.sections}
        own = [FieldInfo(name, "text" if value else "switch", "", "cell") for name, value in self.own.items()]
        return {field.flag: field for field in (*own, *self.fields)} | chosen

    @property
    def help(self) -> str:
        """What the command does, in one line."""
        return getdoc(self.act) or ""


COMMANDS: dict[str, Command] = {}


def command(
    usage: str = "",
    least: int = 0,
    most: int = 0,
    sections: tuple[str, ...] | None = None,
    fields: Sequence[FieldInfo] = (),
) -> Callable[[Callable[[Call], Any]], Any]:
    """Register a function as the command of its name; flags it takes are those that `usage` names.

    Where that names ``--FLAG``, they are also the spec's, of all or some `sections`; and it may have `fields` of its
    own. Flags of these two kinds are left among the words.
    """

    def register(act: Callable[[Call], Any]) -> Callable[[Call], Any]:
        COMMANDS[act.__name__.strip("_")] = Command(usage, range(least, most + 1), act, sections, tuple(fields))
        return act

    return register


def usage() -> str:
    """Write the help of ``%peft``, generated from the registered commands."""
    lines = [f"%peft {name} {command.usage}".rstrip() + f"\n    {command.help}" for name, command in COMMANDS.items()]
    where = "RUN is a variable that holds a run, or in the store an id, a name, NAME@v2 or NAME@ALIAS."
    return "\n".join([*lines, "", f"{where} %%peft? explains the cell."])


def run(shell: InteractiveShell, line: str) -> Any:
    """Run a ``%peft`` line.

    Parameters
    ----------
    shell : InteractiveShell
        The shell whose namespace holds the runs.
    line : str
        What follows ``%peft``; nothing asks for help.

    Returns
    -------
    object
        What the command returns, to be shown as the cell's value; mostly None.

    Raises
    ------
    PeftNbError
        For whatever the user can mend, in one line.
    """
    cell.refuse_unfilled(shell, line)
    name, *tokens = notation.split(line) or ["help"]
    if name not in COMMANDS:
        raise CommandError(f"%peft {name}: no such command{nearest(name, COMMANDS) or '; %peft help lists all'}")
    return COMMANDS[name].act(_parse(shell, name, tokens))


def _parse(shell: InteractiveShell, name: str, tokens: list[str]) -> Call:
    known = COMMANDS[name]
    words: list[str] = []
    given: dict[str, Any] = {}
    queue = iter(tokens)
    for token in queue:
        flag, equals, value = token.partition("=")
        own = flag.removeprefix("--")
        if flag.startswith("--") and own in known.own and (known.own[own] or not equals):
            given[own] = (value if equals else next(queue, "")) if known.own[own] else True
        elif token.startswith("-") and "--FLAG" not in known.usage and not known.fields:
            raise CommandError(f"{token}: %peft {name} has no such flag; write %peft {name} {known.usage}".rstrip())
        else:
            words.append(token)
    if "out" in given:
        notation.check_out(given["out"])
    if len(words) not in known.words:
        extra = words[known.words[-1] :]
        problem = f"{extra[0]}: unexpected" if extra else f"%peft {name}: something is missing"
        raise CommandError(f"{problem}; write %peft {name} {known.usage}".rstrip())
    return Call(shell, words, **given)
