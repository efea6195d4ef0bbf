"""What a run does with personal data in its rows before it trains on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from peft_nb.data import Rows
from peft_nb.data.layouts import Layout
from peft_nb.data.quality import pii
from peft_nb.data.quality.fixes import Change, Patches, altered, overlaid
from peft_nb.errors import DataError
from peft_nb.events import Progress

NAMED = 5  # rows named in a message


def redact_rows(
    rows: Rows, layout: Layout, personal_data: str, allow: Collection[str] = (), progress: Progress | None = None
) -> tuple[Rows, list[Change]]:
    """Replace personal data in rows, or refuse to train on them.

    Parameters
    ----------
    rows : Rows
        The table.
    layout : Layout
        What its columns mean; only these are looked at.
    personal_data : {"warn", "redact", "refuse"}
        ``warn`` leaves the rows as they are: :func:`peft_nb.data.quality.checks.check` finds what to warn of.
    allow : collection of str, optional
        What is not personal data, as for :func:`.pii.denied`.
    progress : callable, optional
        As for the check.

    Returns
    -------
    tuple of Rows and list of Change
        The rows, and what was replaced in which of them.

    Raises
    ------
    DataError
        When there are personal data and they are refused, or nothing is installed that could find them.
    """
    if personal_data == "warn":
        return rows, []
    if not pii.available():
        fix = "pip install 'peft_nb[privacy]', or set personal_data: warn"
        raise DataError(f"personal_data: {personal_data} needs presidio-analyzer, which is not installed; {fix}")
    found: dict[int, set[str]] = {}
    patches: Patches = {}

    def redacted(text: str) -> str:
        matches = pii.personal(text, allow)
        here.update(match.kind for match in matches)
        return pii.redact(text, matches)

    for number, row in enumerate(rows):
        here: set[str] = set()
        patch = {column: altered(row.get(column), redacted) for column in layout.written.values()}
        if here:
            found[number], patches[number] = here, patch
        if progress and number % 64 == 0:
            progress(number / len(rows), "looking for personal data")
    if found and personal_data == "refuse":
        kinds = Counter(kind for here in found.values() for kind in here)
        named = ", ".join(f"{kind} in {count:,}" for kind, count in sorted(kinds.items()))
        some = ", ".join(map(str, list(found)[:NAMED])) + (", …" if len(found) > NAMED else "")
        what = f"personal data in {len(found):,} of {len(rows):,} rows ({named}; rows {some}, counting from 0)"
        raise DataError(f"{what}; redact them with personal_data: redact, name what is none in allow, or drop the rows")
    changes = [Change(number, f"redacted {kind}") for number, here in found.items() for kind in sorted(here)]
    return (overlaid(rows, patches) if patches else rows), changes
