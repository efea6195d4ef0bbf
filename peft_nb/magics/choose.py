"""``%peft`` for what there is to choose from: models, methods, advice, and the help of everything."""

from __future__ import annotations

from typing import Any

from peft_nb.errors import CommandError, nearest
from peft_nb.magics.line import COMMANDS, Call, command, usage
from peft_nb.planning.rules import Situation
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.fields import info


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
    from peft_nb.planning.advise import advise

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
            print(notation.help_text([*RunSpec.describe(), *notation.CELL], topic.replace("-", "_")))
        except CommandError as unknown:
            hint = nearest(topic, [*COMMANDS, *METHODS])
            raise CommandError(f"{topic}: no such topic{hint}") if hint else unknown from None
