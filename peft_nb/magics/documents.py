"""``%peft index``: documents to retrieve from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.magics.line import OUT, Argument, Flag, command

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

NAME = Flag("name", "text", "Name under which it is kept; by default that of the folder or variable.")
ENCODER = Flag("model", "text", "Encoder that embeds; by default minilm-l6.")
SIZE = Flag("size", "integer", "Characters of a chunk at most; by default 800.", unit="characters")


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
