"""``%peft route``: many runs behind one name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.magics.line import OUT, Argument, Flag, command
from peft_nb.magics.runs import find

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

POLICY = Flag("policy", "text", "Function policy(prompt, user) that may name the run to take.", value="VAR")
BLEND = Flag("blend", "integer", "How many runs answer together, weighed by their votes; by default 1.")
ENCODER = Flag("encoder", "text", "Encoder that embeds prompts and rows; by default minilm-l6.")
MEMORY = Flag("max_memory_mb", "number", "Most memory that loaded adapters may take; by default any.", unit="MB")


@command(Argument("run|base", many=True, label="RUN [RUN ...] [base]"), flags=[POLICY, BLEND, ENCODER, MEMORY, OUT])
def route(
    shell: InteractiveShell, runs: list[str], policy: str | None = None, out: str | None = None, **options: Any
) -> Any:
    """Let each prompt be answered by the run that it is for, or with base by the base model; nothing is trained."""
    from peft_nb.errors import CommandError, nearest
    from peft_nb.ui import router

    if policy is not None:
        if not callable(given := shell.user_ns.get(policy)):
            known = [name for name, value in shell.user_ns.items() if callable(value) and not name.startswith("_")]
            raise CommandError(f"--policy {policy}: there is no such function{nearest(policy, known)}")
        options["policy"] = given
    words = [router.BASE if word == router.BASE else find(shell, word)[0] for word in runs]
    found = router.route(*words, name=out or "router", **options)
    if out:
        shell.user_ns[out] = found
    return found
