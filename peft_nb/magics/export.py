"""``%peft`` with what a run has learned: saved, merged into the base, exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.adapters.exporters import EXPORTERS
from peft_nb.magics.line import Argument, Flag, command
from peft_nb.magics.runs import find
from peft_nb.models.load import DTYPES
from peft_nb.ui.progress_bar import progress_bar

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


@command(Argument("run"), Argument("path"))
def save(shell: InteractiveShell, run: str, path: str) -> None:
    """Write the adapter of a run as a PEFT folder."""
    found, _ = find(shell, run)
    with progress_bar() as progress:
        folder = found.save(path, progress=progress)
    print(f"{found.id} is saved in {folder}")


DTYPE = Flag("dtype", "choice", "dtype of the weights; by default the run's own.", choices=DTYPES)
MAX_KL = Flag("max_kl", "number", "Largest KL divergence from the live model that is let through.", unit="nats")


@command(Argument("run"), Argument("path"), flags=[DTYPE, MAX_KL], takes="a run and a folder")
def merge(shell: InteractiveShell, run: str, path: str, **options: Any) -> Any:
    """Merge a run's adapter into the weights: a plain model, checked to give the same results."""
    found, _ = find(shell, run)
    with progress_bar() as progress:
        return found.merge(path, **options, progress=progress)


def formats() -> list[Flag]:
    """The flags of an export, with the formats that are registered."""
    told = "; ".join(f"{one.name}: {one.help}" for one in EXPORTERS.values())
    return [
        Flag("as", "choice", f"What to write. {told}.", choices=tuple(EXPORTERS), value="|".join(EXPORTERS)),
        Flag("to", "text", "Where to write it; a folder, for yaml a file.", value="PATH", kind="path"),
    ]


@command(Argument("run"), flags=formats, takes="one run")
def export(shell: InteractiveShell, run: str, as_: str = "script", to: str | None = None) -> None:
    """Write a run as a script that needs PEFT alone, with its data; as YAML, as an adapter, or merged into the base."""
    found, _ = find(shell, run)
    usual = (found.spec.name or found.id) + EXPORTERS[as_].suffix
    with progress_bar() as progress:
        path = found.export(to or usual, as_, shell.user_ns, progress=progress)
    print(f"{found.id} is exported to {path}")
