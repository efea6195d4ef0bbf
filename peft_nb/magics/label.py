"""``%peft label`` and ``%peft feedback``: what people say of rows and answers, as rows to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.evaluation.acquisition import STRATEGIES
from peft_nb.magics.line import OUT, Argument, Flag, command
from peft_nb.magics.runs import find

if TYPE_CHECKING:
    import pandas
    from IPython.core.interactiveshell import InteractiveShell

WHO_GUESSES = Flag("run", "text", "The run that guesses.", value="RUN", kind="run", required=True)
BUDGET = Flag("budget", "integer", "Rows to label in all; by default 50.", wanted="a whole number")
STRATEGY = Flag("strategy", "choice", "Which rows come first; by default both.", choices=tuple(STRATEGIES))
LABELLER = Flag("as", "text", "Name of the person who labels; by default the account's.", value="NAME")
ENCODER = Flag("encoder", "text", "What embeds rows; by default minilm-l6.")
FOR = Flag(
    "for", "choice", "Task that the rows are for; by default all is shown.", choices=("kto", "dpo", "generation")
)


@command(
    Argument("data|file", label="POOL"),
    flags=[WHO_GUESSES, BUDGET, STRATEGY, LABELLER, ENCODER, OUT],
    takes="a pool of rows, and --run RUN",
)
def label(
    shell: InteractiveShell, data: str, run: str = "", out: str | None = None, as_: str | None = None, **options: Any
) -> Any:
    """Label rows of a pool, those first from which a run learns most; --out names their folder and variable."""
    from peft_nb.errors import CommandError
    from peft_nb.ui import label as page

    if not run:
        raise CommandError("--run: name the run that guesses, such as %peft label pool --run topics")
    if "strategy" in options and options["strategy"] not in STRATEGIES:
        raise CommandError(f"--strategy {options['strategy']}: not one of {', '.join(STRATEGIES)}")
    name = out or page.OUT
    made = page.label(shell.user_ns.get(data, data), find(shell, run)[0], out=name, by=as_, **options)
    shell.user_ns[name] = made
    return made


@command(Argument("run", required=False), flags=[FOR, OUT])
def feedback(
    shell: InteractiveShell, run: str | None = None, for_: str | None = None, out: str | None = None
) -> pandas.DataFrame | None:
    """Give thumbs and edits of answers, from the chat and from clients of a server, as rows; of one run or of all."""
    from peft_nb.runs.run import Run
    from peft_nb.ui import feedback as page

    held = shell.user_ns.get(run)
    found = page.feedback(held if isinstance(held, Run) else run, for_=for_)
    if out:
        shell.user_ns[out] = found
    if found.empty:
        what = f" that {for_} learns from" if for_ else ""
        print(f"no feedback{what} yet: press a thumb or edit an answer in %peft chat, or POST /v1/feedback to a server")
    return None if out or found.empty else found
