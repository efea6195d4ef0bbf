"""``%peft`` for what there is to choose from: models, methods, advice, and the help of everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.errors import CommandError, nearest
from peft_nb.magics.line import COMMANDS, Argument, Command, command, usage
from peft_nb.planning.rules import Situation
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.field_info import FieldInfo
from peft_nb.spec.fields import info
from peft_nb.spec.sweep import SweepSpec

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


@command()
def start(shell: InteractiveShell) -> Any:
    """Show the first four steps as ready cells with the notebook's own data, and the commands by group."""
    from peft_nb.magics.start import Start

    return Start.of(shell.user_ns)


@command()
def models(shell: InteractiveShell) -> Any:
    """List the base models that have a short name."""
    from peft_nb.models import models

    return models()


@command(Argument("model", required=False))
def methods(shell: InteractiveShell, model: str | None = None) -> Any:
    """List the methods; with a model, also the trainable parameters of each, exactly, and the adapter's size."""
    from peft_nb.ui.methods import listed

    return listed(model, shell.user_ns)


def questions() -> list[FieldInfo]:
    """What can be told about a job beside its data."""
    return [info(name, field) for name, field in Situation.model_fields.items() if name != "data"]


@command(Argument("data", required=False), flags=questions)
def advise(shell: InteractiveShell, fields: dict[str, Any], data: str | None = None) -> Any:
    """Recommend three methods for a task, with a ready cell for each, and say when not to fine-tune at all."""
    from peft_nb.planning.advise import advise

    return advise(data, namespace=shell.user_ns, **fields)


@command(Argument("topic", required=False))
def help(shell: InteractiveShell, topic: str = "") -> None:
    """Explain a command, a method, a field or a section of fields; by default list the commands."""
    from peft_nb.methods import REGISTRY
    from peft_nb.spec import METHODS

    if not topic:
        print(usage())
    elif topic in COMMANDS:
        print(_explained(COMMANDS[topic]))
    elif topic in REGISTRY:
        from peft_nb.ui.methods import explained

        print(explained(REGISTRY[topic]))
    else:
        try:
            print(
                notation.help_text(
                    [*RunSpec.describe(), *SweepSpec.describe(), *notation.CELL], topic.replace("-", "_")
                )
            )
        except CommandError as unknown:
            hint = nearest(topic, [*COMMANDS, *METHODS])
            raise CommandError(f"{topic}: no such topic{hint}") if hint else unknown from None


def _explained(command: Command) -> str:
    lines = [f"%peft {command.name} {command.usage}".rstrip(), command.help, *map(_line, command.options)]
    if command.sections:
        lines.append(f"  --FLAG: a field of a spec; %peft help SECTION lists those of {', '.join(command.sections)}")
    return "\n".join(lines)


def _line(flag: FieldInfo) -> str:
    facts = "; ".join(filter(None, ["|".join(flag.choices), flag.unit, flag.bounds]))
    return f"  {flag.flag}{f' ({facts})' if facts else ''}: {flag.help}"
