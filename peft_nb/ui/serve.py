"""A server as a result: its state, what it has answered, and how to ask it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from peft_nb.system.display import Displayed
from peft_nb.ui import wording
from peft_nb.ui.style import BOX, MUTED, NUMBERS

if TYPE_CHECKING:
    from peft_nb.serving.server import Server

COLUMNS = ("model", "requests", "failed", "requests/s", "p50", "p95", "tokens/s", "answered by")
OVER = ("ended", "stopped")


class Serving(Displayed):
    """A server that was started or found.

    Parameters
    ----------
    server : Server
        Which.
    detached : bool
        Whether it goes on without this kernel, as far as that is known.
    """

    def __init__(self, server: Server, detached: bool = False) -> None:
        self.server, self.detached = server, detached
        self.status: dict[str, Any] = {}
        self.look()

    def look(self) -> dict[str, Any]:
        """Ask how it stands; what it had answered stays known when it is over."""
        self.status = self.status | {"why": ""} | self.server.status()
        return self.status

    def __repr__(self) -> str:
        return text(self.server.address, self.look())

    def _repr_html_(self) -> str:
        return page(self.server, self.look())

    def snippets(self) -> dict[str, str]:
        """Write ready code that asks for the first of its names."""
        return _snippets(self.server, self.status)


def _snippets(server: Server, status: Mapping[str, Any]) -> dict[str, str]:
    first = server.names[0]
    chat = status.get("models", {}).get(first, {}).get("chat", True)
    return snippets(server.address, first, server.key_from, chat)


def page(server: Server, status: Mapping[str, Any]) -> str:
    """Draw all of it, as it stays in a saved notebook."""
    parts = [html(server.address, status)]
    if status["state"] not in OVER:
        told = _snippets(server, status).items()
        parts += [f"<details><summary>{name}</summary><pre>{escape(code)}</pre></details>" for name, code in told]
    return f'<div style="{BOX}">{"".join(parts)}</div>'


def headline(address: str, status: Mapping[str, Any]) -> str:
    """Say in a line where it is and how it stands."""
    why = f": {status['why']}" if status.get("why") and status["state"] != "stopped" else ""
    return f"{address}: {status['state']}{why}"


def html(address: str, status: Mapping[str, Any]) -> str:
    """Draw its state and a table with a row a model; numbers are of the last minute but for requests and failed."""
    over = status["state"] in OVER
    role = "alert" if status["state"] == "ended" else "status"
    lines = [f'<div role="{role}"><b>{escape(headline(address, status))}</b></div>']
    lines += [f'<div role="alert">warning: {escape(trouble)}</div>' for trouble in status.get("troubles", ())]
    models = status.get("models", {})
    if not models:
        return "".join(lines)
    alone = "" if over else f"{status['inside']} being answered or waiting; rates and latencies are of the last minute"
    rows = [_row(name, told) for name, told in models.items()]
    if len(models) > 1:
        rows.append(_row("all", status["all"]))
    head = "".join(f'<th scope="col" style="{_style(name)}">{name}</th>' for name in COLUMNS)
    lines.append(
        f'<div tabindex="0" role="region" aria-label="models" style="overflow-x:auto">'
        f'<table style="border-collapse:collapse;{NUMBERS}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<div style="{MUTED}">{escape(alone)}</div>'
    )
    lines += [f'<div style="{MUTED}">{escape(note)}</div>' for note in status.get("notes", ())]
    return "".join(lines)


def _row(name: str, told: Mapping[str, Any]) -> str:
    cells = (
        str(told["answered"]),
        str(told["failed"]),
        f"{told['per_second']:.3g}",
        latency(told["p50_s"]),
        latency(told["p95_s"]),
        f"{told['tokens_per_second']:.3g}",
        _answering(told.get("versions", ())),
    )
    found = zip(COLUMNS[1:], cells, strict=True)
    written = "".join(f'<td style="{_style(column)}">{escape(cell)}</td>' for column, cell in found)
    return f'<tr><th scope="row" style="{_style(COLUMNS[0])}">{escape(name)}</th>{written}</tr>'


def _style(column: str) -> str:
    side = "left" if column in ("model", "answered by") else "right"
    return f"text-align:{side};white-space:nowrap;padding:2px 16px 2px 0"


def _answering(versions: Any) -> str:
    if len(versions) < 2:
        return "".join(one["version"] for one in versions)
    return ", ".join(f"{one['version']} {wording.share(one['share'])}" for one in versions)


def latency(seconds: float | None) -> str:
    """Say how long an answer took, in ms below a second."""
    if seconds is None:
        return "–"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def text(address: str, status: Mapping[str, Any]) -> str:
    """Say all of it in plain text."""
    lines = [f"server at {headline(address, status)}"]
    lines += [f"warning: {trouble}" for trouble in status.get("troubles", ())]
    lines += [f"note: {note}" for note in status.get("notes", ())]
    for name, told in status.get("models", {}).items():
        by = _answering(told["versions"])
        took = f", p95 {latency(told['p95_s'])}" if told["p95_s"] is not None else ""
        answered = wording.count(told["answered"], "request")
        lines.append(f"  {name}{f' ({by})' if by and by != name else ''}: {answered}{took}")
    return "\n".join(lines)


def snippets(address: str, model: str, key_from: str | None, chat: bool = True) -> dict[str, str]:
    """Write ready code that asks the server.

    Parameters
    ----------
    address, model : str
        Of the server.
    key_from : str or None
        Environment variable of its key, which is not written.
    chat : bool, default True
        Whether the model answers in conversations, rather than going on with texts.

    Returns
    -------
    dict of str to str
        For ``curl`` and for the ``openai`` package.
    """
    key = f'  -H "Authorization: Bearer ${key_from}" \\\n' if key_from else ""
    shell = model.replace("'", "'\\''")
    given = f"os.environ[{key_from!r}]" if key_from else "'none'"
    path = "chat/completions" if chat else "completions"
    call = f"{path.replace('/', '.')}.create"
    asked = '"messages": [{"role": "user", "content": "Hello"}]' if chat else '"prompt": "Hello"'
    field = "messages=[{'role': 'user', 'content': 'Hello'}]" if chat else "prompt='Hello'"
    found = "message.content" if chat else "text"
    return {
        "curl": (
            f"curl {address}/v1/{path} \\\n{key}  -H 'Content-Type: application/json' \\\n"
            f'  -d \'{{"model": "{shell}", {asked}}}\''
        ),
        "openai": (
            ("import os\n\n" if key_from else "")
            + f"from openai import OpenAI\n\nclient = OpenAI(base_url='{address}/v1', api_key={given})\n"
            f"answer = client.{call}(\n    model={model!r},\n    {field},\n)\nprint(answer.choices[0].{found})"
        ),
    }
