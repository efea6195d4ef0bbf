"""``%peft COMMAND``: the registered commands, and how a line becomes a call of one.

A command is one entry: a function with its arguments and flags. Of that are made the usage line, what the function
gets, completion, ``%peft help`` and the tables of README and REFERENCE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from itertools import pairwise
from keyword import iskeyword
from textwrap import fill
from typing import TYPE_CHECKING, Any

from peft_nb.errors import CommandError, nearest
from peft_nb.magics import cell
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.field_info import FieldInfo

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

SECTIONS = tuple(dict.fromkeys(field.section for field in RunSpec.describe()))


@dataclass(frozen=True)
class Argument:
    """A word of a command, or several.

    Attributes
    ----------
    kind : str
        What it names, which decides what Tab offers: a key of :data:`.completion.OFFERS`, or several, as ``data|file``.
    required : bool, default True
        Whether the command needs it.
    many : bool, default False
        Whether there can be several; only of the last one.
    label : str, optional
        How the usage writes it; by default its kind in capitals.
    """

    kind: str
    required: bool = True
    many: bool = False
    label: str = ""

    @property
    def name(self) -> str:
        """The parameter of the command's function that takes it."""
        return self.kind.partition("|")[0] + ("s" if self.many else "")

    @property
    def usage(self) -> str:
        """How the usage writes it."""
        word = self.kind.upper()
        return self.label or (f"{word} [{word} ...]" if self.many else word if self.required else f"[{word}]")


@dataclass(frozen=True)
class Flag(FieldInfo):
    """A flag that a command gets as a parameter; choices and numbers are checked before.

    Attributes
    ----------
    value : str, optional
        What the usage calls its value; by default N or X where that is a number, else its name in capitals.
    kind : str, optional
        What Tab offers for its value, as of :class:`Argument`; by default its choices.
    wanted : str, optional
        What a number has to be, for the message that refuses another one.
    """

    section: str = "command"
    value: str = ""
    kind: str = ""
    wanted: str = "a number; write one such as 0.01"

    def read(self, text: str) -> Any:
        """Read what was written behind the flag, or raise a CommandError."""
        if self.choices and text not in self.choices:
            hint = nearest(text, self.choices)
            raise CommandError(f"{self.flag} {text}: not one of {', '.join(self.choices)}{hint}")
        if self.kind == "variable":
            notation.check_out(text)
        if self.type == "integer" and not text.isdecimal():
            raise CommandError(f"{self.flag} {text}: not {self.wanted}")
        if self.type == "integer":
            return int(text)
        try:
            return float(text) if self.type == "number" else text
        except ValueError:
            raise CommandError(f"{self.flag} {text}: not {self.wanted}") from None


OUT = Flag("out", "text", "Variable of the notebook that takes the result.", value="VAR", kind="variable")
BACKGROUND = Flag("background", "switch", "Return at once and train while other cells run.")
Flags = Sequence[FieldInfo] | Callable[[], Sequence[FieldInfo]]


@dataclass(frozen=True)
class Command:
    """One word that may follow ``%peft``; see :func:`command`."""

    name: str
    act: Callable[..., Any]
    arguments: tuple[Argument, ...]
    given: Flags
    sections: tuple[str, ...]
    takes: str

    @property
    def help(self) -> str:
        """What the command does, in one line."""
        return getdoc(self.act) or ""

    @property
    def options(self) -> tuple[FieldInfo, ...]:
        """The flags of its entry."""
        return tuple(self.given() if callable(self.given) else self.given)

    @property
    def usage(self) -> str:
        """What may follow the command, in one line."""
        words = [argument.usage for argument in self.arguments]
        return " ".join([*words, *map(_usage, self.options), *(["[--FLAG VALUE ...]"] if self.sections else [])])

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """Those of its flags that are fields of a spec, or of another model, which checks them itself."""
        own = {option.flag: option for option in self.options if not isinstance(option, Flag)}
        return own | {
            flag: field for flag, field in notation.flags(RunSpec.describe()).items() if field.section in self.sections
        }

    @property
    def flags(self) -> dict[str, FieldInfo]:
        """All its flags."""
        return {option.flag: option for option in self.options} | self.fields

    def kinds(self, place: int) -> list[str]:
        """What can be named by the word at a place, counted from 0."""
        if self.arguments and self.arguments[-1].many:
            place = min(place, len(self.arguments) - 1)
        return self.arguments[place].kind.split("|") if place < len(self.arguments) else []

    def parse(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Make the parameters of the function of what follows the command.

        Fields are given together, unread, as the parameter ``fields``; what was not written is left to the function.

        Raises
        ------
        CommandError
            In one line that says how it is to be written.
        """
        self._refuse_unknown(tokens)
        if tokens[-1:] == ["--out"]:
            notation.check_out("")
        words, given = notation.parse_flags(tokens, self.flags)
        own = {option.name: option for option in self.options if isinstance(option, Flag)}
        fields = {name: value for name, value in given.items() if name not in own}
        values = self._named(words, fields)
        for name, flag in own.items():
            if given.get(name) is not None:
                value = given[name] if flag.type == "switch" else flag.read(given[name])
                values[f"{name}_" if iskeyword(name) else name] = value
        return values | ({"fields": fields} if self.fields else {})

    def _named(self, words: list[str], fields: Mapping[str, Any]) -> dict[str, Any]:
        """Give each word to its argument."""
        values: dict[str, Any] = {argument.name: word for argument, word in zip(self.arguments, words, strict=False)}
        extra = words[len(self.arguments) :]
        if words and self.arguments and self.arguments[-1].many:
            values[self.arguments[-1].name], extra = words[len(self.arguments) - 1 :], []
        missing = len(words) < sum(argument.required for argument in self.arguments)
        if not (extra or missing or values.keys() & fields.keys()):
            return values
        if self.takes and words:
            problem = f"%peft {self.name} takes {self.takes}"
        else:
            problem = f"{extra[0]}: unexpected" if extra else f"%peft {self.name}: something is missing"
        raise CommandError(f"{problem}; write %peft {self.name} {self.usage}".rstrip())

    def _refuse_unknown(self, tokens: Sequence[str]) -> None:
        """Say the usage for a flag that there is not, unless there is more to choose from than the usage says."""
        known = self.flags
        if self.fields or any(flag.choices for flag in known.values()):
            return
        for before, token in pairwise(["", *tokens]):
            flag = token.partition("=")[0].replace("_", "-")
            if token.startswith("-") and flag not in known and not takes_value(known, before):
                raise CommandError(
                    f"{token}: %peft {self.name} has no such flag; write %peft {self.name} {self.usage}".rstrip()
                )


COMMANDS: dict[str, Command] = {}
GROUPS = {  # by the module that holds the commands
    "train": "Train",
    "sweep": "Search for settings",
    "data": "Check data",
    "documents": "Retrieve from documents",
    "runs": "Watch, load and compare runs",
    "route": "Route prompts to runs",
    "export": "Save and export",
    "serve": "Serve",
    "versions": "Versions and history",
    "watch": "After the launch",
    "label": "After the launch",
    "explain": "After the launch",
    "probe": "After the launch",
    "help": "Choose a method, get help",
}
NOTE = """%peft help COMMAND explains a command and its flags, %%peft? the cell.
RUN is a variable that holds a run, or in the store an id, a name, NAME@v2
or NAME@ALIAS."""
WIDE = 79  # letters of a terminal's line


def command(
    *arguments: Argument, flags: Flags = (), sections: Sequence[str] = (), takes: str = ""
) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as the command of its name.

    The function takes the shell, and by name each argument and :class:`Flag` that was written.

    Parameters
    ----------
    *arguments : Argument
        The words that it takes, in their order.
    flags : sequence of FieldInfo or callable
        Its flags; those that are no :class:`Flag` are fields of some model, which the function gets as ``fields``. A
        callable gives them where they follow from what is registered, perhaps by another package later on.
    sections : sequence of str
        Sections of the spec whose fields are flags of it too, and come with these ``fields``.
    takes : str, optional
        What it takes, where too few or too many words shall be refused with that.
    """

    def register(act: Callable[..., Any]) -> Callable[..., Any]:
        name = act.__name__.strip("_")
        COMMANDS[name] = Command(name, act, arguments, flags, tuple(sections), takes)
        return act

    return register


def takes_value(known: Mapping[str, FieldInfo], word: str) -> bool:
    """Whether a word is a flag whose value is to follow."""
    return word in known and known[word].type != "switch"


def positional(known: Mapping[str, FieldInfo], words: Sequence[str]) -> Iterator[str]:
    """Those words that are neither flags nor their values."""
    for before, word in pairwise(["", *words]):
        if not word.startswith("-") and not takes_value(known, before):
            yield word


def _usage(flag: FieldInfo) -> str:
    value = flag.value if isinstance(flag, Flag) else ""
    value = value or {"switch": "", "integer": "N", "number": "X"}.get(flag.type, flag.name.upper())
    text = f"{flag.flag} {value}".rstrip()
    return text if flag.required else f"[{text}]"


def groups() -> list[tuple[str, list[Command]]]:
    """List the commands by group; those of another package come last."""
    found: dict[str, list[Command]] = {title: [] for title in GROUPS.values()}
    for command in COMMANDS.values():
        found.setdefault(GROUPS.get(command.act.__module__.rpartition(".")[2], "Others"), []).append(command)
    return [(title, some) for title, some in found.items() if some]


def usage() -> str:
    """Write the help of ``%peft``: the registered commands by group."""
    width = max(map(len, COMMANDS))
    blocks = ["\n".join([title, *(_summary(one, width) for one in some)]) for title, some in groups()]
    return "\n\n".join([*blocks, NOTE])


def _summary(command: Command, width: int) -> str:
    name = f"  {command.name:<{width}}  "
    return fill(command.help, WIDE, initial_indent=name, subsequent_indent=" " * len(name))


def run(shell: InteractiveShell, line: str) -> Any:
    """Run a ``%peft`` line.

    Parameters
    ----------
    shell : InteractiveShell
        The shell whose namespace holds the runs.
    line : str
        What follows ``%peft``; nothing asks for the start page.

    Returns
    -------
    object
        What the command returns, to be shown as the cell's value; mostly None.

    Raises
    ------
    PeftNbError
        For whatever the user can fix, in one line.
    """
    cell.refuse_unfilled(shell, line)
    name, *tokens = notation.split(line) or ["start"]
    if name not in COMMANDS:
        raise CommandError(f"%peft {name}: no such command{nearest(name, COMMANDS) or '; %peft help lists all'}")
    return COMMANDS[name].act(shell, **COMMANDS[name].parse(tokens))
