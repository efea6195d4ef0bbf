"""Recipes: ready specs in ``templates/``, one YAML file each, with a comment that says when to use it, what to change.

A recipe is what ``%peft train`` takes. One that compares lists under ``runs`` what its runs do not share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import CommandError, nearest
from peft_nb.spec import RunSpec, notation

if TYPE_CHECKING:
    import pandas

# A wheel carries the files inside the package; in the repository they lie beside it.
_PLACES = [parent / "templates" for parent in Path(__file__).parents[1:3]]
FOLDER = next(place for place in _PLACES if place.is_dir())


def names() -> list[str]:
    """Name the recipes, in alphabetical order."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def text(name: str) -> str:
    """Read a recipe's file, its comment included.

    Raises
    ------
    CommandError
        If there is no recipe of that name.
    """
    if name not in names():
        raise CommandError(f"no recipe is called {name!r}{nearest(name, names()) or '; %peft template lists them'}")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def purpose(name: str) -> str:
    """Say what a recipe is for: the first line of its comment."""
    return text(name).partition("\n")[0].removeprefix("#").strip()


def runs(name: str) -> list[dict[str, Any]]:
    """Read the fields of each run that a recipe describes; mostly it is one.

    Parameters
    ----------
    name : str
        One of :func:`names`.

    Returns
    -------
    list of dict
        Fields of :class:`peft_nb.RunSpec`, not yet checked.

    Raises
    ------
    CommandError
        If there is no recipe of that name.
    """
    return notation.split_runs(notation.read_yaml(text(name)))


def get(name: str) -> dict[str, Any]:
    """Read the fields of a recipe, of the first run where it has several; see :func:`runs`."""
    return runs(name)[0]


def cell(name: str) -> str:
    """Write the notebook cell of a recipe: ``%%peft`` above its file, or Python for one with several runs."""
    said, fields = text(name), runs(name)
    if len(fields) == 1:
        return f"%%peft --out run\n{said}"
    specs = [{"method": spec.method, **spec.changed()} for spec in (RunSpec(**one) for one in fields)]
    shared = {field: value for field, value in specs[0].items() if all(one.get(field) == value for one in specs)}
    comment = re.match(r"(#.*\n)*", said)
    lines = [f"{comment[0] if comment else ''}import peft_nb\n", f"shared = {_dict(shared)}", "each = ["]
    for one in specs:
        lines.append(f"    {_dict({field: value for field, value in one.items() if field not in shared})},")
    lines += ["]", "runs = [peft_nb.train(**shared, **one) for one in each]", "peft_nb.compare(*runs)"]
    return "\n".join(lines) + "\n"


def _dict(fields: Mapping[str, Any]) -> str:
    quoted = {field: json.dumps(value) if isinstance(value, str) else repr(value) for field, value in fields.items()}
    return f"dict({', '.join(f'{field}={value}' for field, value in quoted.items())})"


def recipes() -> pandas.DataFrame:
    """List the recipes; ``%peft template NAME`` writes one into the notebook.

    Returns
    -------
    pandas.DataFrame
        One row a recipe, by name: what for, method, task, data.
    """
    import pandas

    rows = []
    for name in names():
        each = [RunSpec(**fields) for fields in runs(name)]
        methods = ", ".join(dict.fromkeys(spec.method for spec in each))
        row = {"name": name, "what for": purpose(name), "method": methods, "task": each[0].task, "data": each[0].data}
        rows.append(row)
    return pandas.DataFrame(rows).set_index("name")
