"""``%peft COMMAND``: what is done with runs besides describing one in a cell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import getdoc
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from peft_nb import notation
from peft_nb.adapters import Form
from peft_nb.errors import CommandError, PeftNbError, RunError, nearest
from peft_nb.events import Listener
from peft_nb.fields import FieldInfo, info
from peft_nb.magics import cell
from peft_nb.methods.rules import Situation
from peft_nb.models.load import DTYPES
from peft_nb.spec import RunSpec

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from peft_nb.run import Run


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
        spec = notation.flags().items() if "--FLAG" in self.usage else ()
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
    name, *tokens = _tokens(line) or ["help"]
    if name not in COMMANDS:
        raise CommandError(f"%peft {name}: no such command{nearest(name, COMMANDS) or '; %peft help lists all'}")
    return COMMANDS[name].act(_parse(shell, name, tokens))


def _tokens(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError:
        raise CommandError(f"a quotation mark is not closed in: {line.strip()}") from None


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
    out = given.get("out")
    if out is not None and (not out.isidentifier() or iskeyword(out)):
        raise CommandError(f"--out {out}: not a name for a variable; write one such as run")
    if len(words) not in known.words:
        extra = words[known.words[-1] :]
        problem = f"{extra[0]}: unexpected" if extra else f"%peft {name}: something is missing"
        raise CommandError(f"{problem}; write %peft {name} {known.usage}".rstrip())
    return Call(shell, words, **given)


@command("[FILE] [--FLAG VALUE ...] [--out NAME] [--background]", most=1000)
def train(call: Call) -> None:
    """Train what a YAML file, flags or both describe; several runs, as a recipe may hold, one after the other."""
    runs = notation.parse_runs(call.words)
    if len(runs) > 1 and call.background:
        raise CommandError(
            f"--background: the file describes {len(runs)} runs, which wait for each other; leave it out"
        )
    for fields in runs:
        cell.begin(call.shell, fields, call.out, call.background)


@command("NAME [--fix] [--row N] [--out VAR] [--FLAG VALUE ...]", 1, 1000, ("data", "model"))
def data(call: Call) -> Any:
    """Check data before training: what is wrong, the mend, the lengths; --fix mends, --row shows one row's tokens."""
    words, fields = notation.parse_flags(call.words, COMMANDS["data"].flags)
    if len(words) != 1 or "data" in fields:
        raise CommandError(f"%peft data takes one name; write %peft data {COMMANDS['data'].usage}")
    if call.row is not None and not call.row.isdecimal():
        raise CommandError(f"--row {call.row}: not the number of a row; write one such as 0")
    spec = RunSpec(**{**fields, "data": words[0]})
    from peft_nb.ui import check

    if call.row is not None:
        return check.tokens(spec, int(call.row), call.shell.user_ns)
    report = check.look(spec, namespace=call.shell.user_ns)
    fixed = report.fixed(call.out) if call.fix else report
    if call.out:
        call.shell.user_ns[call.out] = fixed
    return report


@command("[DATA|FILE] [--FLAG VALUE ...]", most=1000)
def estimate(call: Call) -> Any:
    """Forecast memory and time of a run on DATA, or of one that a YAML file describes; trains nothing."""
    words, fields = notation.parse_flags(call.words, COMMANDS["estimate"].flags)
    if len(words) > 1 or (words and "data" in fields):
        raise CommandError(f"%peft estimate takes one name; write %peft estimate {COMMANDS['estimate'].usage}")
    if words and Path(words[0]).suffix in (".yaml", ".yml"):
        spec = RunSpec(**notation.parse_train(call.words))
    else:
        spec = RunSpec(**fields, **({"data": words[0]} if words else {}))
    from peft_nb.ui.forecast import made

    return made(spec, call.shell.user_ns)


@command("[RECIPE|FILE]", most=1)
def panel(call: Call) -> Any:
    """Describe a run in a form: checked and forecast as it is filled in, kept as a cell, started from there."""
    from peft_nb.ui.panels.config import ConfigPanel, named

    return ConfigPanel(named(call.words[0]) if call.words else None, call.shell.user_ns)


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
    from peft_nb import run

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

    live.watch(start, background=call.background, view=live.look(found), name=call.out or name)


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
    from peft_nb.comparison import BASE
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


@command()
def models(call: Call) -> Any:
    """List the base models that have a short name."""
    from peft_nb.models import models

    return models()


@command("[MODEL]", most=1)
def methods(call: Call) -> Any:
    """List the methods; with a model, also what each would train on it, counted exactly, and how large it is."""
    from peft_nb.ui.methods import listed

    return listed(call.words[0] if call.words else None, call.shell.user_ns)


ADVICE = [info(name, field) for name, field in Situation.model_fields.items() if name != "data"]


@command(
    "[DATA] [--task TASK] [--goal GOAL] [--rows N] [--classes N] [--tokens N] [--model MODEL] [--parameters N] "
    "[--memory-gb X] [--minutes X] [--must-merge] [--many-adapters]",
    most=1000,
    fields=ADVICE,
)
def advise(call: Call) -> Any:
    """Say which three methods fit a job best, with a ready cell for each, and when not to fine-tune at all."""
    from peft_nb.methods.advise import advise

    words, known = notation.parse_flags(call.words, COMMANDS["advise"].flags)
    if len(words) > 1:
        raise CommandError(f"{words[1]}: unexpected; write %peft advise {COMMANDS['advise'].usage}")
    return advise(words[0] if words else None, namespace=call.shell.user_ns, **known)


@command("[TOPIC]", most=1)
def help(call: Call) -> None:
    """Explain a command, a method, a field or a section of fields; by default list the commands."""
    from peft_nb.methods import REGISTRY
    from peft_nb.spec import METHODS

    topic = call.words[0] if call.words else ""
    if not topic:
        print(usage())
    elif topic in COMMANDS:
        print(f"%peft {topic} {COMMANDS[topic].usage}".rstrip(), COMMANDS[topic].help, sep="\n")
        for one in COMMANDS[topic].fields:
            facts = "; ".join(filter(None, ["|".join(one.choices), one.unit, one.bounds]))
            print(f"  {one.flag}{f' ({facts})' if facts else ''}: {one.help}")
    elif topic in REGISTRY:
        from peft_nb.ui.methods import explained

        print(explained(REGISTRY[topic]))
    else:
        try:
            print(notation.help_text(topic.replace("-", "_")))
        except CommandError as unknown:
            hint = nearest(topic, [*COMMANDS, *METHODS])
            raise CommandError(f"{topic}: no such topic{hint}") if hint else unknown from None


def _find(shell: InteractiveShell, word: str, unfinished: bool = False) -> tuple[Run, str | None]:
    """Find a run by the variable that holds it, or as the store does; also tell the variable."""
    from peft_nb import run
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
