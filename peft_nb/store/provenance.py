"""What is known of a run years later: what it came from, what was measured, who did what, and whether it is whole."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from peft_nb.store import audit, contents, lineage
from peft_nb.store.audit import Entry
from peft_nb.store.facts import plain
from peft_nb.store.lineage import Evaluation, Lineage
from peft_nb.store.runs import RECORD, Runs


class Provenance(Runs):
    """The memory of a store; see :class:`peft_nb.store.Store`."""

    def verify(self, word: str) -> dict[str, str]:
        """Compare the files of a run's adapter with what they held when it ended.

        Parameters
        ----------
        word : str
            The run, as in :meth:`get`.

        Returns
        -------
        dict of str to str
            ``changed``, ``missing`` or ``unreadable`` by path, for each file that is not what it was.
        """
        record = self.get(word)
        return contents.damage(record.folder / "adapter", self._files(record.id))

    def seal(self, id: str, *, why: str) -> None:
        """Take the adapter's files as they are now for what they should be; for whoever writes one anew.

        Parameters
        ----------
        id : str
            The run.
        why : str
            The reason; logged if anything is different.
        """
        written = contents.hashes(self.folder_of(id) / "adapter")
        with self._writing() as db:
            row = self._row(id)
            if written != self._files(id):
                lineage.seal(db, id, written)
                audit.append(db, "seal", run=id, name=row["name"], version=row["version"], why=why)

    def evaluate(self, id: str, evaluations: Sequence[Evaluation]) -> None:
        """Keep what was measured of a run; a measure of a suite that is known already is replaced.

        Values may be scalars of numpy or torch; NaN and infinity become None, which says that they are unknown.
        """
        with self._writing() as db:
            self._row(id)
            for one in evaluations:
                values = (*plain([one.value, one.low, one.high]), json.dumps(plain(one.detail)), time.time())
                db.execute(
                    "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (id, one.suite, one.measure, *values),
                )

    def evaluations(self, id: str) -> list[Evaluation]:
        """Read what was measured of a run, by suite and measure."""
        query = "SELECT suite, measure, value, low, high, detail FROM evaluations WHERE run = :id"
        rows = self._read(f"{query} ORDER BY suite, measure", id=id)
        return [Evaluation(**{**dict(row), "detail": json.loads(row["detail"])}) for row in rows]

    def log(self, word: str | None = None) -> list[Entry]:
        """Read the audit log, newest first.

        Parameters
        ----------
        word : str, optional
            A name, or a run as in :meth:`get`; by default everything.

        Returns
        -------
        list of Entry
            Also of runs that are removed.
        """
        if word is None:
            return self._log("TRUE")
        return self._log("name = :word", word=word) or self._log("run = :id", id=self._meant(word, gone=True)["id"])

    def lineage(self, word: str) -> Lineage:
        """Tell where a run came from and what came of it.

        Parameters
        ----------
        word : str
            The run, as in :meth:`get`; also one that is removed.

        Returns
        -------
        Lineage
            With the parents' own.
        """
        row = self._meant(word, gone=True)
        record, id = self._record(row), row["id"]
        known = self._read("SELECT * FROM lineage WHERE run = :id", id=id) or self._read(lineage.ORIGIN, id=id)
        origin = {name: known[0][name] for name in known[0].keys() if name != "run"}  # noqa: SIM118
        parents = self._read("SELECT parent FROM parents WHERE run = :id ORDER BY parent", id=id)
        children = f"{RECORD} WHERE runs.id IN (SELECT run FROM parents WHERE parent = :id) ORDER BY runs.rowid"
        versions = f"{RECORD} WHERE versions.name = :name ORDER BY number"
        hashes = self._files(id)
        return Lineage(
            record,
            **{**origin, "package_versions": json.loads(origin["package_versions"])},
            files=hashes,
            damage=contents.damage(record.folder / "adapter", hashes),
            evaluations=self.evaluations(id),
            parents=[self.lineage(row["parent"]) for row in parents],
            children=[self._record(row) for row in self._read(children, id=id)],
            versions=[self._record(row) for row in self._read(versions, name=record.name)],
        )

    def _files(self, id: str) -> dict[str, str]:
        return {row["path"]: row["sha256"] for row in self._read("SELECT * FROM files WHERE run = :id", id=id)}

    def _log(self, where: str, **values: Any) -> list[Entry]:
        return [audit.entry(row) for row in self._read(f"SELECT * FROM audit WHERE {where} ORDER BY id DESC", **values)]
