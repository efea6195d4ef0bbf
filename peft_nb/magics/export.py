"""``%peft`` with what a run has learned: saved, merged into the base, exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.adapters.exporters import EXPORTERS
from peft_nb.magics.line import COMMANDS, Argument, Flag, command
from peft_nb.magics.runs import find
from peft_nb.models.load import DTYPES
from peft_nb.ui.progress_bar import progress_bar

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from peft_nb.adapters.exporters import Exported
    from peft_nb.runs.run import Run


CHECKLIST = Flag(
    "checklist",
    "text",
    "Put a filled checklist into its model card: eu-ai-act, gdpr, hipaa or nist-ai-rmf.",
    value="NAME",
    kind="checklist",
)


@command(Argument("run"), Argument("path"), flags=[CHECKLIST])
def save(shell: InteractiveShell, run: str, path: str, checklist: str | None = None) -> None:
    """Write the adapter of a run as a PEFT folder."""
    found, _ = find(shell, run)
    with progress_bar() as progress:
        folder = found.save(path, checklist=checklist, progress=progress)
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
    """The flags of an export, with the formats that are registered and what these offer."""
    told = "; ".join(f"{one.name}: {one.help}" for one in EXPORTERS.values())
    options: dict[str, Flag] = {}
    for one in EXPORTERS.values():
        for name, help in one.options.items():
            of = ", ".join(other.name for other in EXPORTERS.values() if other.options.get(name) == help)
            options[name] = Flag(name, "switch" if one.is_switch(name) else "text", f"Of {of}: {help}.")
    return [
        Flag("as", "choice", f"What to write. {told}.", choices=tuple(EXPORTERS), value="|".join(EXPORTERS)),
        Flag("to", "text", "Where to write it; a folder, for yaml a file.", value="PATH", kind="path"),
        *options.values(),
    ]


@command(Argument("run"), flags=formats, takes="one run")
def export(shell: InteractiveShell, run: str, as_: str = "script", to: str | None = None, **options: Any) -> Any:
    """Write a run in a form for others: a script with its data, a plain model, GGUF, for Ollama, vLLM or the hub."""
    found, _ = find(shell, run)
    written = exported(found, shell.user_ns, as_, to, **options)
    if not isinstance(written, Path):
        return written
    print(f"{found.id} is exported to {written}")
    return None


def exported(
    run: Run, namespace: dict[str, Any], as_: str = "script", to: str | None = None, **options: Any
) -> Path | Exported:
    """Export a run, by default to its own name, with a bar while that takes long."""
    usual = (run.spec.name or run.id) + EXPORTERS[as_].suffix
    with progress_bar() as progress:
        return run.export(to or usual, as_, namespace, progress=progress, **options)


def from_words(argv: Sequence[str]) -> int:
    """Export as ``python -m peft_nb export`` does.

    Parameters
    ----------
    argv : sequence of str
        The words behind ``export``.
    """
    from peft_nb.runs.run import load

    options = COMMANDS["export"].parse(argv)
    run = load(options.pop("run"))
    written = exported(run, {}, **options)
    print(written if not isinstance(written, Path) else f"{run.id} is exported to {written}")
    return 0
