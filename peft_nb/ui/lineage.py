"""Where a run came from, as a tree; and who did what to it, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape

from peft_nb.metrics import METRICS, Metric
from peft_nb.store import Entry, Evaluation, Lineage, Policy, Record
from peft_nb.ui import wording
from peft_nb.ui.listing import Listing
from peft_nb.ui.style import BOX

DIGITS = 12  # of a hash, enough to compare by eye
SUITES = {"held-out": "evaluation set", "regression": "general text", "cost": "resources"}  # as they are kept
COLUMNS = ("when", "who", "action", "what", "why", "forced")


@dataclass(frozen=True)
class Tree:
    """A text and what hangs below it; a notebook shows a list in lists, a terminal draws branches."""

    text: str
    below: tuple[Tree, ...] = ()
    title: str = ""  # what the text holds the beginning of

    def __repr__(self) -> str:
        return "\n".join([self.text, *self._branches()])

    def _branches(self) -> list[str]:
        lines = []
        for tree in self.below:
            last = tree is self.below[-1]
            first, *others = repr(tree).splitlines()
            lines += [("└─ " if last else "├─ ") + first, *(("   " if last else "│  ") + line for line in others)]
        return lines

    def _repr_html_(self) -> str:
        return f'<div style="{BOX};overflow-wrap:anywhere">{self._items()}</div>'

    def _items(self) -> str:
        below = "".join(f"<li>{tree._items()}</li>" for tree in self.below)
        text = f'<span title="{escape(self.title)}">{escape(self.text)}</span>' if self.title else escape(self.text)
        return text + (f'<ul style="margin:0;padding-left:1.5em">{below}</ul>' if below else "")


def tree(lineage: Lineage) -> Tree:
    """Draw where a run came from and what came of it.

    Parameters
    ----------
    lineage : Lineage
        What the store knows; its words may come from anywhere and are escaped.

    Returns
    -------
    Tree
        The run, its base, data, spec, packages, files and how it was evaluated; below these its parents with theirs,
        its children, and the versions of its name.
    """
    record = lineage.record
    versions = [_named(one) for one in lineage.versions]
    return Tree(
        _named(record).text,
        (
            *_origin(lineage),
            *_branch("came of it", [_named(child) for child in lineage.children]),
            *_branch(f"versions of {record.name}", versions),
        ),
    )


def _origin(lineage: Lineage) -> tuple[Tree, ...]:
    record = lineage.record
    reason = f": {record.reason}" if record.reason else ""
    packages = ", ".join(f"{name} {version}" for name, version in lineage.package_versions.items())
    told = {
        "created": f"{_local(record.created):%Y-%m-%d %H:%M} by {record.method}, {record.status}{reason}",
        "tags": ", ".join(record.tags),
        "trial of": lineage.sweep or "",
        "verdict": str(record.metrics.get("verdict") or ""),
        "base": _hashed(lineage.base or record.model, "weights", lineage.base_hash),
        "init adapter": record.facts.init_adapter or "",
        "data": _hashed(lineage.data, "content", lineage.data_fingerprint),
        "spec": _hashed("", "", lineage.spec_hash),
        "packages": packages,
        "files": _files(lineage),
    }
    hashes = {"base": lineage.base_hash, "data": lineage.data_fingerprint, "spec": lineage.spec_hash}
    return (
        *(Tree(f"{label}: {text}", title=hashes.get(label) or "") for label, text in told.items() if text),
        *_branch("evaluated", [Tree(_measured(one)) for one in lineage.evaluations]),
        *_branch("created from", [Tree(_named(parent.record).text, _origin(parent)) for parent in lineage.parents]),
    )


def _branch(text: str, below: list[Tree]) -> list[Tree]:
    return [Tree(text, tuple(below))] if below else []


def _named(record: Record) -> Tree:
    parts = [record.title, record.id if record.version else record.name, ", ".join(record.labels)]
    parts += [f"removed {record.removed:%Y-%m-%d}" if record.removed else ""]
    return Tree(" · ".join(filter(None, parts)))


def _hashed(text: str | None, what: str, digest: str | None) -> str:
    return "; ".join(filter(None, [text, f"{what} {digest[:DIGITS]}".strip() if digest else ""]))


def _files(lineage: Lineage) -> str:
    if lineage.damage:
        return ", ".join(f"{path} is {state}" for path, state in lineage.damage.items())
    return f"{wording.count(len(lineage.files), 'file')}, unchanged" if lineage.files else ""


def _measured(one: Evaluation) -> str:
    metric = METRICS.get(one.measure) or Metric(one.measure, one.measure.replace("_", " "))
    value, low, high = (
        "unknown" if each is None else wording.measured(each, metric.unit) for each in (one.value, one.low, one.high)
    )
    within = "" if one.low is None or one.high is None else f" ({low} to {high})"
    return f"{SUITES.get(one.suite, one.suite)}: {metric.title} {value}{within}"


def log(entries: Iterable[Entry]) -> Listing:
    """Make a table of the audit log.

    Parameters
    ----------
    entries : iterable of Entry
        As the store gives them.

    Returns
    -------
    Listing
        One row an entry: when (local time), who, the action, what it did, why, and what it overruled.
    """
    rows = [
        (_local(one.at).replace(tzinfo=None), one.who, one.action, said(one), one.why, one.forced or "")
        for one in entries
    ]
    return Listing(rows, columns=COLUMNS)


def _local(at: datetime) -> datetime:
    return at.astimezone().replace(microsecond=0)


def said(entry: Entry) -> str:
    """Say what was done, such as ``tickets@production: v1 → v2``."""
    version = f"{entry.name} v{entry.version}" if entry.version else ""
    if entry.action == "policy":
        return f"{entry.alias}: {Policy.from_json(entry.rule) if entry.rule else 'no policy any more'}"
    if entry.action == "watch":
        return f"{version or entry.run} was compared with new rows"
    if entry.action == "probe":
        return f"{version or entry.run} was probed"
    if entry.action in ("approve", "withdraw"):
        said = "approved by" if entry.action == "approve" else "no longer approved by"
        return f"{version or entry.run} is {said} {entry.named}"
    if entry.alias and entry.share:
        alias, share = f"{entry.name}@{entry.alias}", wording.share(entry.share)
        if entry.action == "rollback":
            return f"{alias}: v{entry.version} for all requests; v{entry.before} had {share}"
        return f"{alias}: v{entry.version} for {share} of requests, v{entry.before} for the others"
    if entry.alias:
        before, after = (f"v{number}" if number else "(none)" for number in (entry.before, entry.version))
        return f"{entry.name}@{entry.alias}: {before} → {after}"
    return f"{entry.run} is {version}" if version else str(entry.run)


def policies(known: Mapping[str, Policy]) -> Listing:
    """Make a table of policies by alias."""
    return Listing([(alias, str(policy)) for alias, policy in known.items()], columns=("alias", "policy"))


def chained(lines: int, broken: Entry | None) -> str:
    """Say in a line whether the log is what was written."""
    if broken:
        when = f"{_local(broken.at):%Y-%m-%d %H:%M:%S}"
        return f"log: not what was written, from the line of {when} on ({broken.action} by {broken.who})"
    return f"log: {wording.count(lines, 'line')}, unchanged"


def whole(lineage: Lineage) -> str:
    """Say in a line whether the files of a run are what they were."""
    return f"{lineage.record.title}: {_files(lineage) or 'no hashes of its files are known'}"
