"""Small data sets of the project's own, so that every recipe trains before there is data of one's own.

``order-mails``: mails to a boat shop that does not exist, and the order in each as JSON. ``small-functions``: tasks,
and Python functions whose own examples hold. ``harbour-german`` and ``harbour-spanish``: plain texts in a language.
"""

from __future__ import annotations

import json
from importlib.resources import files

NAMES = ("order-mails", "small-functions", "harbour-german", "harbour-spanish")


def load(name: str) -> dict[str, list[dict[str, str]]]:
    """Read one of the data sets.

    Parameters
    ----------
    name : str
        One of `NAMES`.

    Returns
    -------
    dict of str to list of dict
        ``"train"``: 60 rows.
    """
    text = files(__name__).joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return {"train": [json.loads(line) for line in text.splitlines()]}
