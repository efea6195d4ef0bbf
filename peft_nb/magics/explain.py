"""``%peft explain``: which words of a prompt made an answer, and which training rows did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.magics.line import OUT, Argument, Flag, command

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

ANSWER = Flag("answer", "text", "Explain this answer, or this class, instead of what the run says.", value='"TEXT"')
BY = Flag(
    "by", "choice", "Leave words out one by one (the default), or Shapley values.", choices=("ablation", "shapley")
)
ROWS = Flag("rows", "integer", "Also find so many training rows with the most influence on the answer.")


@command(
    Argument("run"),
    Argument("variable|path", label='"PROMPT"'),
    flags=[ANSWER, BY, ROWS, OUT],
    takes="a run and a prompt in quotes, or the variable or file that holds one",
)
def explain(
    shell: InteractiveShell,
    run: str,
    variable: str,
    answer: str | None = None,
    by: str = "ablation",
    rows: int = 0,
    out: str | None = None,
) -> Any:
    """Say which words of a prompt, or cells of an image, made a run's answer; --rows also which training rows did."""
    from peft_nb.magics.runs import find
    from peft_nb.ui.explain import explain

    how: dict[str, Any] = {"answer": answer, "by": by, "rows": rows}
    found = explain(find(shell, run)[0], shell.user_ns.get(variable, variable), **how)
    if out:
        shell.user_ns[out] = found
    return found
