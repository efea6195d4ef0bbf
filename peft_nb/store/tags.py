"""Tags: words by which a user finds runs again. They are no part of what a run did, and are put on and taken off."""

from __future__ import annotations

from collections.abc import Sequence

from peft_nb.errors import StoreError, nearest
from peft_nb.store import records
from peft_nb.store.connection import NAME, Index
from peft_nb.store.records import Record


def put(index: Index, word: str, tags: Sequence[str]) -> Record:
    """Put tags on a run; those that it has already stay."""
    for tag in tags:
        if not (isinstance(tag, str) and NAME.fullmatch(tag)):
            raise StoreError(f"{tag!r} cannot be a tag; use up to 64 letters, digits, '.', '_' and '-'")
    with index.writing() as db:
        id = records.find(index, word)["id"]
        db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(id, tag) for tag in tags])
        return records.get(index, id)


def take(index: Index, word: str, tags: Sequence[str]) -> Record:
    """Take tags off a run."""
    with index.writing() as db:
        record = records.get(index, word)
        for tag in tags:
            if tag not in record.tags:
                known = f"it has {', '.join(record.tags)}" if record.tags else "it has none"
                raise StoreError(f"run {record.id} has no tag {tag!r}{nearest(str(tag), record.tags) or '; ' + known}")
        db.executemany("DELETE FROM tags WHERE (run, tag) = (?, ?)", [(record.id, tag) for tag in tags])
        return records.get(index, record.id)


def known(index: Index) -> list[str]:
    """List the tags of all runs, each once."""
    return [row["tag"] for row in index.read("SELECT DISTINCT tag FROM tags ORDER BY tag")]
