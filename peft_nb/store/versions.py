"""What becomes of runs after they have ended: promoted, rolled back, removed."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from peft_nb.errors import RunError, StoreError, nearest
from peft_nb.store import audit, contents, lineage
from peft_nb.store.audit import Entry
from peft_nb.store.provenance import Provenance
from peft_nb.store.runs import NUMBER, Record, check_name, held
from peft_nb.system import files

ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class Versions(Provenance):
    """The versions of a store; see :class:`peft_nb.store.Store`."""

    def __init__(self, folder: Path | str | None = None) -> None:
        super().__init__(folder)
        self._settle()

    def promote(self, word: str, alias: str, *, why: str, name: str | None = None, force: bool = False) -> Record:
        """Let an alias stand for a run from now on.

        Parameters
        ----------
        word : str
            The run, as in :meth:`get`.
        alias : str
            What it becomes, such as ``production`` or ``candidate``; every name has aliases of its own.
        why : str
            The reason, for the log.
        name : str, optional
            Of which name it becomes a version, for a run that has none.
        force : bool, default False
            Promote it although its verdict is a failure or its files are not what they were; logged.

        Returns
        -------
        Record
            The run.

        Raises
        ------
        RunError
            If it has no adapter, no name or another one, or must not be promoted unless forced.
        StoreError
            If there is no such run, or a name or the reason will not do.
        """
        if not ALIAS.fullmatch(alias) or NUMBER.fullmatch(alias):
            raise StoreError(f"{alias!r} cannot be an alias; write a small word such as production or candidate")
        if not why.strip():
            raise StoreError('a promotion needs a reason for the log, such as --why "fewer refusals" (why=…)')
        if name is not None:
            check_name(name)
        record = self.get(word)
        written = contents.hashes(record.folder / "adapter")
        against = [f"{path} is {state}" for path, state in self.verify(record.id).items()]
        with self._writing() as db:
            record = self.get(record.id)
            _refuse(record, name, written)
            verdict = " ".join(str(record.metrics.get("verdict") or "").split())
            if verdict.lower().startswith("failed"):
                against.insert(0, f"its verdict is: {verdict}")
            if against and not force:
                mend = "add --force (force=True) to promote it all the same"
                raise RunError(f"run {record.id} was not promoted: {'; '.join(against)}; {mend}")
            if record.version is None:
                lineage.enter(db, record.id, name or str(record.name))
                record = self.get(record.id)
            if not self._files(record.id):  # it is of an older index, or was killed when all but done
                lineage.keep(db, record.id, written)
            stack = self._stack(str(record.name), alias)
            if stack[-1:] == [record.version]:
                raise RunError(f"{record.name}@{alias} is v{record.version} already")
            db.execute(
                "INSERT INTO aliases SELECT :name, :alias, coalesce(max(n), 0) + 1, :version FROM aliases"
                " WHERE name = :name AND alias = :alias",
                {"name": record.name, "alias": alias, "version": record.version},
            )
            told = {"name": record.name, "version": record.version, "alias": alias}
            told |= {"before": stack[-1] if stack else None, "forced": "; ".join(against) or None}
            audit.append(db, "promote", run=record.id, why=why.strip(), **told)
        return self.get(record.id)

    def rollback(self, alias: str, *, why: str = "") -> Entry:
        """Let an alias stand for what it stood for before its last promotion; without any, it is gone.

        Parameters
        ----------
        alias : str
            ``name@alias``, or the alias alone where only one name has it.
        why : str, optional
            The reason, for the log.

        Returns
        -------
        Entry
            The line of the log: ``version`` is what the alias holds now, ``before`` what it held.

        Raises
        ------
        StoreError
            If there is no such alias, or several names have it.
        """
        with self._writing() as db:
            name, alias = self._alias(alias)
            *_, before = stack = self._stack(name, alias)
            # What lay between two promotions of one version may have been removed.
            version = next((one for one in reversed(stack) if one != before), None)
            db.execute(
                "DELETE FROM aliases WHERE name = :name AND alias = :alias AND n > (SELECT coalesce(max(n), 0)"
                " FROM aliases WHERE name = :name AND alias = :alias AND version != :before)",
                {"name": name, "alias": alias, "before": before},
            )
            run = None if version is None else self.get(f"{name}@v{version}").id
            told = {"name": name, "version": version, "alias": alias, "before": before}
            audit.append(db, "rollback", run=run, why=why.strip(), **told)
            return self._log("id = last_insert_rowid()")[0]

    def remove(self, word: str, *, why: str = "") -> Record:
        """Delete a run's folder and curve; what is known of where it came from, and its number, stay.

        Parameters
        ----------
        word : str
            The run, as in :meth:`get`.
        why : str, optional
            The reason, for the log.

        Returns
        -------
        Record
            What it was.

        Raises
        ------
        RunError
            If an alias stands for it, or a process is at work on it.
        StoreError
            If there is no such run, or the disk refuses; then nothing is changed.
        """
        record = self.get(word)
        aside = self._runs / f".{record.id}.removed"
        try:
            with self._writing() as db:
                row = self._row(record.id)
                record = self._record(row)
                if record.aliases:
                    names = ", ".join(f"{record.name}@{alias}" for alias in record.aliases)
                    mend = "promote another version or roll back first"
                    raise RunError(f"run {record.id} is {names} and stays; {mend}")
                if held(row):
                    raise RunError(f"run {record.id} is {record.status}, and a process is at work on it; stop it first")
                # Deleted only once the index says so; a kill before that leaves it to be put back.
                with files.writing(record.folder):
                    if record.folder.exists():
                        record.folder.rename(aside)
                for table in ("events", "history", "files"):
                    db.execute(f"DELETE FROM {table} WHERE run = ?", (record.id,))
                db.execute("DELETE FROM aliases WHERE (name, version) = (?, ?)", (record.name, record.version))
                db.execute("UPDATE runs SET removed = ? WHERE id = ?", (time.time(), record.id))
                named = {"name": record.name, "version": record.version}
                audit.append(db, "remove", run=record.id, why=why.strip(), **named)
        finally:
            self._settle()
        return record

    def aliases(self) -> list[str]:
        """List all aliases that stand for a version, as ``name@alias``."""
        rows = self._read("SELECT name || '@' || alias AS word FROM held ORDER BY word")
        return [row["word"] for row in rows]

    def _alias(self, word: str) -> tuple[str, str]:
        known = self.aliases()
        meant = [one for one in known if word in (one, one.partition("@")[2])]
        if len(meant) > 1:
            raise StoreError(f"several names have the alias {word!r}; write one of {', '.join(meant)}")
        if not meant:
            alone = [] if "@" in word else [one.partition("@")[2] for one in known]
            raise StoreError(f"there is no alias {word!r} in {self.folder}{nearest(word, [*alone, *known])}")
        name, _, alias = meant[0].partition("@")
        return name, alias

    def _stack(self, name: str, alias: str) -> list[int]:
        """The versions that an alias held, the last of which it holds."""
        query = "SELECT version FROM aliases WHERE name = :name AND alias = :alias ORDER BY n"
        return [row["version"] for row in self._read(query, name=name, alias=alias)]

    def _settle(self) -> None:
        """Delete the folders that removals set aside, and put back those of removals that came to nothing."""
        gone = []
        if asides := list(self._runs.glob(".*.removed")):
            with self._writing(), files.writing(self._runs):  # locked: no removal is half done
                for aside in asides:
                    id = aside.name[1:].removesuffix(".removed")
                    if self._read("SELECT id FROM runs WHERE id = :id AND removed IS NOT NULL", id=id):
                        gone.append(aside)
                    elif aside.exists() and not (self._runs / id).exists():
                        aside.rename(self._runs / id)
        for aside in gone:
            shutil.rmtree(aside, ignore_errors=True)


def _refuse(record: Record, name: str | None, written: dict[str, str]) -> None:
    """Refuse to promote what can be no version."""
    run = f"run {record.id}"
    if record.status not in ("finished", "stopped"):
        raise RunError(f"{run} is {record.status}; only a run that has ended well can be promoted")
    if not written:
        raise RunError(f"{run} has no adapter to promote; resume() it first")
    if record.name and name not in (None, record.name):
        raise RunError(f"{run} is named {record.name} and keeps that name; leave out --name (name=…)")
    if not (name or record.name):
        raise RunError(f"{run} has no name to be a version of; give it one with --name NAME (name=…)")
