"""``%peft`` before and for training: train what a file describes, estimate it, fill in a form, begin from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import CommandError
from peft_nb.magics import cell
from peft_nb.magics.line import BACKGROUND, OUT, SECTIONS, Argument, command
from peft_nb.spec import RunSpec, notation, recipes
from peft_nb.spec.place import FIELDS, Place

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


@command(Argument("file", required=False), flags=[OUT, BACKGROUND, *FIELDS], sections=SECTIONS)
def train(
    shell: InteractiveShell,
    fields: dict[str, Any],
    file: str | None = None,
    out: str | None = None,
    background: bool = False,
) -> None:
    """Train what a YAML file, flags or both describe; several runs, as a recipe may hold, one after the other."""
    runs = notation.read_runs(file, fields, [*RunSpec.describe(), *FIELDS])
    places = [Place.taken(each) for each in runs]
    if len(runs) > 1 and background:
        raise CommandError(
            f"--background: the file describes {len(runs)} runs, which wait for each other; leave it out"
        )
    for each, place in zip(runs, places, strict=True):
        cell.begin(shell, each, out, background, place)


@command(Argument("data|file", required=False), sections=SECTIONS, takes="one name")
def estimate(shell: InteractiveShell, fields: dict[str, Any], data: str | None = None) -> Any:
    """Estimate memory and time of a run on DATA, or of one that a YAML file describes; trains nothing."""
    if data and Path(data).suffix in (".yaml", ".yml"):
        spec = RunSpec(**notation.read_run(data, fields, RunSpec.describe()))
    else:
        spec = RunSpec(**fields, **({"data": data} if data else {}))
    from peft_nb.ui.forecast import made

    return made(spec, shell.user_ns)


@command(Argument("recipe|file", required=False))
def panel(shell: InteractiveShell, recipe: str | None = None) -> Any:
    """Describe a run in a form: checked and estimated as it is filled in, kept as a cell, started from there."""
    from peft_nb.ui.panels.config import ConfigPanel, named

    return ConfigPanel(named(recipe) if recipe else None, shell.user_ns)


@command(Argument("recipe", required=False))
def template(shell: InteractiveShell, recipe: str | None = None) -> Any:
    """Write the cell of a recipe, ready to run; without a name list the recipes."""
    if recipe:
        shell.set_next_input(recipes.cell(recipe))
        return None
    from peft_nb.ui.listing import Listing

    return Listing(recipes.recipes())
