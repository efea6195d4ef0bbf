"""Runs on disk: what was asked, what happened, what came of it, and who uses it where.

One SQLite file (write-ahead log) indexes a folder in which each run has a folder of its own. Every call
commits before it returns, so a killed process loses nothing that it recorded.

    peft_runs/
      index.sqlite
      runs/lora-3f9a2c/

:mod:`.connection` opens the index and :mod:`.schema` says what is in it, :mod:`.runs` keeps runs and their curves,
:mod:`.versions` what becomes of them afterwards.
"""

from __future__ import annotations

from peft_nb.store.audit import Entry
from peft_nb.store.facts import Facts
from peft_nb.store.lineage import Evaluation, Lineage
from peft_nb.store.runs import HISTORY, Record
from peft_nb.store.versions import Versions

__all__ = ["HISTORY", "Entry", "Evaluation", "Facts", "Lineage", "Record", "Store"]


class Store(Versions):
    """All runs of one folder; safe to use from several threads and several processes at once.

    A run is known by its ``id``, and where a word of the user's is taken also by ``name@v2``, ``name@alias`` or a name
    alone. Every method raises ``StoreError`` if there is none or if the disk refuses.

    Parameters
    ----------
    folder : Path or str, optional
        Default ``$PEFT_NB_STORE``, else ``peft_runs`` in the working directory. Created if missing.

    Raises
    ------
    StoreError
        The folder cannot be written, or its index is damaged or was made by a newer peft_nb.
    """
