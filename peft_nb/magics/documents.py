"""``%peft index`` and ``%peft synthesize``: documents to retrieve from, and rows made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.magics.line import OUT, Argument, Flag, command

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

NAME = Flag("name", "text", "Name under which it is kept; by default that of the folder or variable.")
ENCODER = Flag("model", "text", "Encoder that embeds; by default minilm-l6.")
SIZE = Flag("size", "integer", "Characters of a chunk at most; by default 800.", unit="characters")
ROWS = Flag("rows", "integer", "How many rows are wanted; by default 200.", wanted="a whole number")
WRITER = Flag("model", "text", "What writes; by default templates. With an address its name there.", kind="model")
ADDRESS = Flag("address", "text", "Of an OpenAI-compatible server that writes, such as https://api.example.org/v1.")
HELD = Flag("eval_data", "text", "Rows that are evaluated on, which none may repeat.", kind="data")
ALLOW = Flag("allow_pii", "switch", "Send chunks with personal data or secrets to the address too.")


@command(Argument("data|file", label="DOCUMENTS"), flags=[NAME, ENCODER, SIZE, OUT], takes="documents or an index")
def index(shell: InteractiveShell, data: str, out: str | None = None, **options: Any) -> Any:
    """Read documents into an index that is searched by words and meaning; a name alone opens the index of that name."""
    from pathlib import Path

    from peft_nb.ui import index as page

    held = shell.user_ns.get(data, data)
    if isinstance(held, page.Index):
        found = held
    elif isinstance(held, str) and not Path(held).exists() and page.kept(held):
        found = page.index(name=held)
    else:
        found = page.index(held, **({} if held is data else {"name": data}) | options)
    if out:
        shell.user_ns[out] = found
    return found


@command(
    Argument("index", label="INDEX"), flags=[ROWS, WRITER, ADDRESS, HELD, ALLOW, OUT], takes="the name of one index"
)
def synthesize(
    shell: InteractiveShell,
    index: str,
    model: str | None = None,
    eval_data: str | None = None,
    out: str | None = None,
    **options: Any,
) -> Any:
    """Write question and answer rows from documents; those that the documents do not bear out are dropped."""
    from peft_nb.ui import index as page
    from peft_nb.ui.synthesize import synthesize

    held = shell.user_ns.get(index)
    documents = held if isinstance(held, page.Index) else page.index(name=index)
    if model is not None:
        options["model"] = model if "address" in options else shell.user_ns.get(model, model)
    if eval_data is not None:
        options["eval_data"] = shell.user_ns.get(eval_data, eval_data)
    made = synthesize(documents, **options)
    if out:
        shell.user_ns[out] = made.rows
    return made
