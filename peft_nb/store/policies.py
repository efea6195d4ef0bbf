"""Who may promote to what: a policy for an alias, kept in the store, and what it still lacks of a run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peft_nb.errors import RunError, StoreError, nearest
from peft_nb.spec import notation
from peft_nb.store import audit, lineage, records
from peft_nb.store.audit import Entry
from peft_nb.store.connection import Index
from peft_nb.store.records import Record

NEEDS = ("verdict", "approval")  # where nobody says
KNOWN = (*NEEDS, "probe")
HIGH = "high"  # of the risks that a spec can declare the one that demands a person's approval


@dataclass(frozen=True)
class Policy:
    """What a run needs before an alias stands for it; it cannot be forced, only changed, which the log tells.

    Attributes
    ----------
    needs : tuple of str
        ``verdict``: its criteria are met. ``approval``: people have approved it. ``probe``: it was probed as
        its files are now.
    approvers : int
        How many of them, each of another name.
    promoters : tuple of str
        Accounts that may promote; empty where all may.
    """

    needs: tuple[str, ...] = NEEDS
    approvers: int = 1
    promoters: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """Read one as the store and the log keep it."""
        told = json.loads(text)
        return cls(tuple(told["needs"]), told["approvers"], tuple(told["promoters"]))

    def __str__(self) -> str:
        approvals = f"{self.approvers} approvals" if self.approvers > 1 else "an approval"
        needs = [
            {"verdict": "a verdict that passed", "approval": approvals, "probe": "a probe"}[one] for one in self.needs
        ]
        who = f"{' or '.join(self.promoters) or 'anybody'} may promote"
        return f"needs {', '.join(needs)}; {who}" if needs else who


def checked(needs: Sequence[str], approvers: int | None, promoters: Sequence[str]) -> Policy:
    """Make a policy of what somebody wrote.

    Raises
    ------
    StoreError
        If it needs what there is not, or counts approvals that it does not need.
    """
    for one in needs:
        if one not in KNOWN:
            known = nearest(one, KNOWN) or f"; it can need {', '.join(KNOWN)}"
            raise StoreError(f"a policy cannot need {one!r}{known}")
    if approvers is not None and approvers < 1:
        raise StoreError(f"approvers: {approvers}; write 1 or more, or leave approval out of what it needs")
    if approvers and "approval" not in needs:
        raise StoreError("approvers are counted, but no approval is needed; add approval to needs")
    if not needs and not promoters:
        raise StoreError("the policy demands nothing; name what it needs or who may promote, or remove it")
    return Policy(tuple(dict.fromkeys(needs)), approvers or 1, tuple(dict.fromkeys(promoters)))


def keep(index: Index, alias: str, policy: Policy | None, why: str) -> Entry:
    """Set the policy of an alias, or take it away."""
    if not why.strip():
        raise StoreError('a policy needs a reason for the log, such as --why "two of us look at it" (why=…)')
    rule = None if policy is None else json.dumps(asdict(policy))
    with index.writing() as db:
        gone = db.execute("DELETE FROM policies WHERE alias = ?", (alias,)).rowcount
        if rule is None and not gone:
            raise StoreError(f"{alias} has no policy{nearest(alias, read(index))}")
        if rule is not None:
            db.execute("INSERT INTO policies VALUES (?, ?)", (alias, rule))
        return audit.append(db, "policy", alias=alias, rule=rule, why=why.strip())


def read(index: Index) -> dict[str, Policy]:
    """The policies by alias."""
    rows = index.read("SELECT alias, rule FROM policies ORDER BY alias")
    return {row["alias"]: Policy.from_json(row["rule"]) for row in rows}


def approve(index: Index, word: str, named: str, why: str) -> Entry:
    """Write down that a person approves a run as its files are now."""
    named, why = " ".join(named.split()), why.strip()
    if not named:
        raise StoreError("an approval needs the name of the person, such as --as Anna (name=…)")
    if not why:
        raise StoreError('an approval needs a reason for the log, such as --why "read 40 answers" (why=…)')
    record = records.get(index, word)
    if record.status not in ("finished", "stopped"):
        raise RunError(f"run {record.id} is {record.status}; only a run that has ended well can be approved")
    if damage := lineage.damage(index, record):
        lost = ", ".join(f"{path} is {state}" for path, state in damage.items())
        raise RunError(f"run {record.id} was not approved: {lost}")
    with index.writing() as db:
        if _folded(named) in map(_folded, approvals(index, record)):
            raise RunError(f"{named} has approved {record.title} already")
        return _tell(db, "approve", record, named, why)


def withdraw(index: Index, word: str, named: str, why: str) -> Entry:
    """Take a person's approval back."""
    record = records.get(index, word)
    with index.writing() as db:
        known = approvals(index, record)
        if _folded(named) not in map(_folded, known):
            raise RunError(f"{named} has not approved {record.title}{nearest(named, known)}")
        return _tell(db, "withdraw", record, " ".join(named.split()), why.strip())


def approvals(index: Index, record: Record) -> list[str]:
    """Who approves a run as its files are now: what was said before they were changed no longer counts."""
    found = dict[str, str]()
    for entry in reversed(audit.read(index, "run = :id", id=record.id)):
        if entry.action == "seal":
            found.clear()
        elif entry.action == "approve" and entry.named:
            found[_folded(entry.named)] = entry.named
        elif entry.action == "withdraw" and entry.named:
            found.pop(_folded(entry.named), None)
    return list(found.values())


def lacking(index: Index, record: Record, alias: str) -> list[str]:
    """What a run lacks to be promoted by this account: by the policy of the alias, and by the risk it declares."""
    policy, lacks = read(index).get(alias), list[str]()
    use = _use(record)
    wanted, whose = (policy.approvers if policy and "approval" in policy.needs else 0), f"the policy of {alias}"
    if use.get("risk") == HIGH:
        if not wanted:
            wanted, whose = 1, "its use, of high risk,"
        if not str(use.get("human_oversight") or "").strip():
            lacks.append(
                "its use, of high risk, says nothing of human_oversight; train it with use: {human_oversight: …}"
            )
    if policy:
        me = audit.who()
        if policy.promoters and me not in policy.promoters:
            lacks.append(
                f"the policy of {alias} lets {' or '.join(policy.promoters)} promote, and this account is {me}"
            )
        verdict = str(record.metrics.get("verdict") or "")
        if "verdict" in policy.needs and not verdict.lower().startswith("passed"):
            lacks.append(f"the policy of {alias} needs a verdict that passed, and it has {verdict or 'none'}")
        if "probe" in policy.needs and not _probed(index, record):
            lacks.append(f"the policy of {alias} needs a probe, and it has none of its files as they are; %peft probe")
    others = [one for one in approvals(index, record) if _folded(one) != _folded(audit.who())]
    if len(others) < wanted:
        count = f"{wanted} approvals" if wanted > 1 else "an approval"
        has = f"has {len(others)} ({', '.join(others)})" if others else "has none"
        lacks.append(f"{whose} needs {count} by others than {audit.who()}, and it {has}; see %peft approve")
    return lacks


def _probed(index: Index, record: Record) -> bool:
    """Whether a run was probed since its files were last changed."""
    told = (entry.action for entry in audit.read(index, "run = :id", id=record.id))
    return next((action for action in told if action in ("probe", "seal")), None) == "probe"


def _use(record: Record) -> dict[str, Any]:
    """What the spec of a run declares about its use."""
    found = notation.read_yaml(record.spec_yaml).get("use")
    return found if isinstance(found, dict) else {}


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _tell(db: sqlite3.Connection, action: str, record: Record, named: str, why: str) -> Entry:
    told = {"run": record.id, "name": record.name, "version": record.version}
    return audit.append(db, action, named=named, why=why, **told)
