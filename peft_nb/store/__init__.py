"""Runs on disk: what was asked, what happened, what came of it, and who uses it where.

One SQLite file (write-ahead log) indexes a folder in which each run has a folder of its own. Every call
commits before it returns, so a killed process loses nothing that it recorded.

    peft_runs/
      index.sqlite
      runs/lora-3f9a2c/

:class:`Store` is the whole of it: :mod:`.runs` records runs at work, :mod:`.evaluations` and :mod:`.lineage` keep what
was measured and where they came from, :mod:`.tags` what they are found by, :mod:`.versions` what becomes of them,
:mod:`.policies` what they need for it, :mod:`.audit` who did it, :mod:`.votes` what people said of their answers,
:mod:`.sweeps` which runs are trials of one search, :mod:`.space` what they take on disk. All stand on
:mod:`.connection`, which opens the index that :mod:`.schema` describes, and :mod:`.records`, which finds a run in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from peft_nb.errors import StoreError
from peft_nb.events import Event
from peft_nb.store import audit, evaluations, lineage, policies, records, runs, space, tags, versions, votes
from peft_nb.store.audit import Entry
from peft_nb.store.connection import Index
from peft_nb.store.evaluations import Evaluation
from peft_nb.store.facts import Facts
from peft_nb.store.lineage import Lineage
from peft_nb.store.policies import Policy
from peft_nb.store.records import Record
from peft_nb.store.runs import HISTORY
from peft_nb.store.space import Space
from peft_nb.store.sweeps import SweepRecord, Sweeps, Trial
from peft_nb.store.votes import Prompt, Vote

__all__ = [
    "HISTORY",
    "Entry",
    "Evaluation",
    "Facts",
    "Lineage",
    "Policy",
    "Record",
    "Space",
    "Store",
    "SweepRecord",
    "Trial",
    "Vote",
    "find",
]

_made_in: dict[Path, None] = {}  # folders of the stores in which this process made runs


class Store:
    """All runs of one folder; safe to use from several threads and several processes at once.

    A run is known by its ``id``, and where a word of the user's is taken also by ``name@v2``, ``name@alias`` or a name
    alone. Every method raises ``StoreError`` if there is none or if the disk refuses.

    Parameters
    ----------
    folder : Path or str, optional
        Default ``$PEFT_NB_STORE``, else ``peft_runs`` in the working directory. Created if missing.

    Attributes
    ----------
    folder : Path
        Where it is.
    sweeps : Sweeps
        Its sweeps, whose trials are runs.

    Raises
    ------
    StoreError
        The folder cannot be written, or its index is damaged or was made by a newer peft_nb.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self._index = Index(folder)
        self.folder = self._index.folder
        versions.settle(self._index)
        self.sweeps = Sweeps(self._index)

    def create(
        self, spec_yaml: str, *, method: str, model: str, name: str | None = None, parents: Sequence[str] = ()
    ) -> str:
        """Enter a new run, owned by this process, and make its folder.

        Parameters
        ----------
        spec_yaml : str
            The spec, as YAML.
        method, model : str
            What the spec says, for listings; the method begins the id.
        name : str, optional
            The user's name for it (letters, digits, ``. _ -``, at most 64); later runs may take the same.
        parents : sequence of str
            Ids of the runs that it is made from, if any.

        Returns
        -------
        str
            The id, such as ``lora-3f9a2c``.
        """
        _made_in[self.folder] = None
        return runs.create(self._index, spec_yaml, method, model, name, parents)

    def folder_of(self, id: str) -> Path:
        """Give the folder of a run: ``runs/<id>``, always inside the store."""
        return self._index.folder_of(id)

    def record(self, id: str, event: Event) -> None:
        """Append an event as it happens, and keep the run's status and history up to date with it.

        An active status makes this process the owner, a final one leaves the run without. ``Resumed`` drops
        the rows of the history after its step. The final status also writes down where the run came from and
        what the files of its adapter hold, and makes a run that finished under a name the next version of it.
        """
        runs.record(self._index, id, event)

    def set_metrics(self, id: str, metrics: dict[str, Any]) -> None:
        """Set some of a run's metrics and keep the others.

        Values may be nested and may be scalars or arrays of numpy or torch; NaN and infinity become None.

        Raises
        ------
        RunError
            If JSON cannot hold some of them; the others are kept.
        """
        runs.set_metrics(self._index, id, metrics)

    def set_facts(self, id: str, facts: Facts) -> None:
        """Keep what a run needs to be opened again, in place of what was known before."""
        runs.set_facts(self._index, id, facts)

    def claim(self, id: str) -> None:
        """Make this process the owner of a run, to resume it; what a killed owner left half-written goes.

        Raises
        ------
        StoreError
            Another living process is at work on it, or it was promoted as it is.
        """
        runs.claim(self._index, id)

    def held(self, id: str) -> bool:
        """Whether a living process is at work on a run, or follows it at work on a cluster."""
        return records.held(records.row_of(self._index, id))

    def get(self, word: str, *, unfinished: bool = False) -> Record:
        """Look up one run.

        Parameters
        ----------
        word : str
            An id; ``name@v2``; ``name@alias``, whose main version is meant where it shares requests; or a name alone:
            then its newest version, or where it has none its newest run.
        unfinished : bool, default False
            Whether a name alone means its newest run that is no version yet, if there is any.

        Returns
        -------
        Record
            An active run whose process has died reads as stopped.
        """
        return records.get(self._index, word, unfinished=unfinished)

    def all(self) -> list[Record]:
        """List every run, newest first."""
        return records.read(self._index, "removed IS NULL ORDER BY runs.rowid DESC")

    def events(self, id: str) -> list[Event]:
        """Read back all that was recorded of a run, in the order in which it happened."""
        return runs.events(self._index, id)

    def history(self, id: str) -> list[dict[str, Any]]:
        """Read the curve of a run.

        Returns
        -------
        list of dict
            One row a logged step, in order, with the keys of ``HISTORY``. ``eval_loss`` stands in the row of
            its step, or in one of its own where that step was not logged. What is unknown or NaN is None.
        """
        return runs.history(self._index, id)

    def curve(self, id: str, most: int = 120) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """Read the losses of a run to draw them small: the mean of each of some equal stretches.

        Parameters
        ----------
        id : str
            The run.
        most : int, default 120
            Stretches at most.

        Returns
        -------
        tuple of two lists of (step, loss)
            Train and eval losses.
        """
        return runs.curve(self._index, id, most)

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
        return lineage.damage(self._index, self.get(word))

    def seal(self, id: str, *, why: str) -> None:
        """Take the adapter's files as they are now for what they should be; for whoever writes one anew.

        Parameters
        ----------
        id : str
            The run.
        why : str
            The reason; logged if anything is different.
        """
        lineage.seal(self._index, id, why)

    def evaluate(self, id: str, measured: Sequence[Evaluation], *, anew: str | None = None) -> None:
        """Keep what was measured of a run; a measure of a suite that is known already is replaced.

        All that is known of the suite `anew`, if one is named, is dropped first.

        Values may be scalars of numpy or torch; NaN and infinity become None, which says that they are unknown.
        """
        evaluations.keep(self._index, id, measured, anew)

    def evaluations(self, id: str) -> list[Evaluation]:
        """Read what was measured of a run, by suite and measure."""
        return evaluations.read(self._index, id)

    def vote(self, prompt: Prompt, answers: Mapping[str, str], best: str | None) -> Vote:
        """Keep what a person said of answers; a vote on the same answers to the same prompt is replaced.

        Parameters
        ----------
        prompt : str or list of dict
            What was asked: a text, or the messages of a conversation.
        answers : mapping of str to str
            What each said, by the id of the run, ``base`` for the base model.
        best : str or None
            Whose answer is the best, None where none is better; of one answer its own id if it is good, None if bad.

        Returns
        -------
        Vote
            As it is kept.
        """
        return votes.keep(self._index, prompt, answers, best)

    def votes(self) -> list[Vote]:
        """Read all votes, the oldest first; also those on answers of runs that are removed."""
        return votes.read(self._index)

    def tag(self, word: str, *names: str) -> Record:
        """Put tags on a run, found as in :meth:`get`; a tag is up to 64 letters, digits, ``.``, ``_`` and ``-``."""
        return tags.put(self._index, word, names)

    def untag(self, word: str, *names: str) -> Record:
        """Take tags off a run, found as in :meth:`get`; it must have them all."""
        return tags.take(self._index, word, names)

    def tags(self) -> list[str]:
        """List the tags of all runs, each once."""
        return tags.known(self._index)

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
            return audit.read(self._index, "TRUE")
        named = audit.read(self._index, "name = :word", word=word)
        return named or audit.read(self._index, "run = :id", id=records.find(self._index, word, gone=True)["id"])

    def whole_log(self) -> Entry | None:
        """Find the first line of the audit log that is not what was written; None where all are."""
        return audit.broken(self._index)

    def watched(self, id: str, why: str) -> Entry:
        """Write into the log what watching a run has found."""
        return audit.examined(self._index, id, "watch", why)

    def probed(self, id: str, why: str) -> Entry:
        """Write into the log what probing a run has found; a policy may need that."""
        return audit.examined(self._index, id, "probe", why)

    def set_policy(
        self,
        alias: str,
        *,
        why: str,
        needs: Sequence[str] = policies.NEEDS,
        approvers: int | None = None,
        promoters: Sequence[str] = (),
    ) -> Entry:
        """Say what a run needs before an alias, such as production, stands for it, and who may let it.

        Parameters
        ----------
        alias : str
            Of every name.
        why : str
            The reason, for the log.
        needs : sequence of str
            ``verdict``, a verdict that passed, ``approval``, by default both; and ``probe``, that it was probed.
        approvers : int, optional
            How many people of different names have to approve, none of them the account that promotes; default 1.
        promoters : sequence of str
            Accounts that may promote; by default all.

        Returns
        -------
        Entry
            The line of the log.

        Raises
        ------
        StoreError
            If it demands nothing or what there is not, or the reason is missing.
        """
        return policies.keep(self._index, alias, policies.checked(needs, approvers, promoters), why)

    def drop_policy(self, alias: str, *, why: str) -> Entry:
        """Take the policy of an alias away; the log keeps the reason."""
        return policies.keep(self._index, alias, None, why)

    def policies(self) -> dict[str, Policy]:
        """The policies by alias."""
        return policies.read(self._index)

    def approve(self, word: str, name: str, *, why: str) -> Entry:
        """Write down that a person approves a run as its files are now; changed, they have to be approved again.

        Parameters
        ----------
        word : str
            The run, as in :meth:`get`.
        name : str
            Of the person. Nobody checks it: the log keeps it beside the account.
        why : str
            The reason, for the log.

        Returns
        -------
        Entry
            The line of the log.

        Raises
        ------
        RunError
            If it has not ended well, its files are not what they were, or that person has approved it already.
        StoreError
            If there is no such run, or the name or the reason is missing.
        """
        return policies.approve(self._index, word, name, why)

    def withdraw(self, word: str, name: str, *, why: str = "") -> Entry:
        """Take back what :meth:`approve` wrote down; aliases stay where they are, see :meth:`rollback`."""
        return policies.withdraw(self._index, word, name, why)

    def approvals(self, word: str) -> list[str]:
        """Who approves a run as its files are now."""
        return policies.approvals(self._index, self.get(word))

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
        return lineage.trace(self._index, word)

    def promote(
        self,
        word: str,
        alias: str,
        *,
        why: str,
        name: str | None = None,
        force: bool = False,
        share: float | None = None,
    ) -> Record:
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
            Promote it although its verdict is a failure or its files are not what they were; logged. What a policy
            demands, or a use of high risk, cannot be forced.
        share : float, optional
            Above 0 and below 1: let a served alias answer that share of requests by this run, and the others by the
            version that it mainly stands for, which is still what :meth:`get` finds. A later share replaces it.

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
        return versions.promote(self._index, word, alias, why, name, force, share)

    def rollback(self, alias: str, *, why: str = "") -> Entry:
        """Let an alias stand for what it stood for before its last promotion; without any, it is gone.

        Where it shares requests between two versions, that ends instead, and the main version answers all.

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
        return versions.rollback(self._index, alias, why)

    def split(self, word: str) -> list[tuple[Record, float]]:
        """Give the versions that a word stands for, each with its share of the requests.

        Parameters
        ----------
        word : str
            The run, as in :meth:`get`.

        Returns
        -------
        list of (Record, float)
            One, or two where it is an alias that shares requests; the main version first. The shares add up to 1.
        """
        return versions.split(self._index, word)

    def removable(self, word: str) -> Record:
        """Give the run that :meth:`remove` would remove, or raise what it would raise."""
        return versions.removable(self._index, word)

    def remove(self, word: str, *, why: str = "") -> Record:
        """Delete a run's folder, curve and answers, and the encoded rows that no other run uses.

        What is known of where it came from, its number, and people's votes on its answers stay.

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
        return versions.remove(self._index, word, why)

    def clear(self) -> int:
        """Delete the encoded rows that no run uses.

        Returns
        -------
        int
            The bytes that they took.

        Raises
        ------
        RunError
            If a run is being prepared, which may be encoding some.
        """
        return space.clear(self._index)

    def space(self) -> Space:
        """Measure the room that runs and encoded rows take on disk."""
        return space.measure(self._index)

    def aliases(self) -> list[str]:
        """List all aliases that stand for a version, as ``name@alias``."""
        return versions.aliases(self._index)

    def close(self) -> None:
        """Close the index; after this the store cannot be used."""
        self._index.close()


def find(word: str, *, unfinished: bool = False) -> tuple[Store, Record]:
    """Look up a run where the working folder may have changed: in the default store, else where this process made runs.

    Parameters
    ----------
    word : str
        The run, as in :meth:`Store.get`.
    unfinished : bool, default False
        As of :meth:`Store.get`.

    Returns
    -------
    tuple of Store and Record
        Where it is, and the run.

    Raises
    ------
    StoreError
        If there is none.
    """
    store = Store()
    try:
        return store, store.get(word, unfinished=unfinished)
    except StoreError:
        for folder in reversed(_made_in):
            with suppress(StoreError):
                if folder.is_dir() and folder != store.folder:
                    other = Store(folder)
                    return other, other.get(word, unfinished=unfinished)
        raise
