"""What can be wrong with a table: the kinds, how bad each is, what to do, and how findings are collected."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from peft_nb.data.quality import characters, pii, secrets

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = get_args(Level)  # the worst first

ROWS = re.compile(r"\{([a-z-]+ )?rows\}")  # of a title: how many, and of what sort
EXAMPLES = 3
SHOWN = 90  # characters of an example on one line
WHOLE = 4 * SHOWN  # of one where lines are wrapped


@dataclass(frozen=True)
class Kind:
    """One kind of finding: how bad it is, what is said of the rows, what to do, and what `fix` does."""

    level: Level
    title: str
    advice: str
    fix: str = ""


DROP, REDACT = "drops the row", "redacts it"
KINDS = {  # what breaks training comes first
    "task": Kind("error", "rows of another kind than the task learns from", "choose another task or other columns"),
    "media": Kind("error", "columns of images, audio or video, which no task reads", "drop the columns"),
    "template": Kind("error", "{rows} that this model's chat template cannot render", "choose another model"),
    "malformed": Kind("error", "{rows} that cannot be read", "fix or drop them", DROP),
    "empty": Kind("error", "{rows} empty where text is needed", "fill or drop them", DROP),
    "roles": Kind("error", "{rows} with messages in an order that cannot be learned", "fix or drop them", DROP),
    "identical": Kind("error", "{rows} whose chosen and rejected answers are identical", "fix or drop them", DROP),
    "tied": Kind(
        "error", "{rows} whose answers all have the same score (ties)", "give one a higher score, or drop them", DROP
    ),
    "nothing": Kind("error", "{rows} with no trainable tokens", "add the answer, or raise max_length", DROP),
    "evaluation": Kind("error", "{rows} of the evaluation set that cannot be read", "fix or drop them there"),
    "one_label": Kind("error", "a single label: nothing to classify", "add rows with other labels"),
    "unknown_label": Kind(
        "error", "{rows} of the evaluation set with labels that training lacks", "add rows, or correct it"
    ),
    "secret": Kind(
        "warning", "{rows} with secrets (keys or passwords)", "remove them, and revoke what is real", REDACT
    ),
    "unused_column": Kind("warning", "columns with content that are not used", "give them a role, or drop them"),
    "judgement": Kind("warning", "a column of ratings is not used", "keep only the rows to train on"),
    "unused_key": Kind("warning", "{rows} with keys of messages that are not used", "write them as text, or drop them"),
    "printed": Kind(
        "warning",
        "{rows} with a list as numpy prints it, trained as that text",
        "keep the data as JSON lines or parquet",
    ),
    "leak": Kind("warning", "{rows} also in the evaluation set (train/eval leakage)", "keep each on one side", DROP),
    "long_prompt": Kind(
        "warning", "{rows} whose prompt alone fills max_length: dropped in training", "raise max_length", DROP
    ),
    "cut_alike": Kind(
        "warning", "{rows} whose answers differ only after max_length: dropped in training", "raise max_length", DROP
    ),
    "echo": Kind("warning", "{rows} whose chosen answer repeats the prompt", "fix or drop them", DROP),
    "alike": Kind(
        "warning",
        "{rows} whose chosen and rejected answers are near-duplicates",
        "look at what differs: such pairs teach little, and may make both answers less likely",
    ),
    "turns": Kind("warning", "{rows} with two messages of one role in a row", "join them, or add what is missing"),
    "label_spelling": Kind(
        "warning", "{rows} with another spelling of a label", "use one spelling", "uses one spelling"
    ),
    "contradiction": Kind("warning", "{rows} with conflicting answers", "decide for one answer"),
    "duplicate": Kind("warning", "{duplicate rows}", "keep one of each", DROP),
    "near_duplicate": Kind("warning", "{near-duplicate rows}", "keep one of each", DROP),
    "encoding": Kind("warning", "{rows} with broken encoding", "read the source as UTF-8", "repairs it"),
    "replacement": Kind("warning", "{rows} with replacement characters (�)", "decode the source again"),
    "control": Kind("warning", "{rows} with control or invisible characters", "remove them", "removes them"),
    "personal": Kind("warning", "{rows} with personal data (PII)", "redact it, or personal_data: redact", REDACT),
    "near_empty": Kind("warning", "{rows} with next to no text", "fill or drop them", DROP),
    "tiny": Kind("warning", "{rows} with tiny images", "fetch larger ones, or drop them", DROP),
    "mode": Kind(
        "info", "{rows} with images in another mode than RGB or grey, converted", "look at how they look then"
    ),
    "location": Kind(
        "info",
        "{rows} with images whose EXIF says where they were taken (PII); a run keeps their pixels alone",
        "remove it before the files are shared",
    ),
    "silent": Kind("warning", "{rows} with silent clips", "record them again, or drop them", DROP),
    "too_much_text": Kind(
        "warning", "{rows} with far more text than can be said in their clips", "correct the text, or drop them", DROP
    ),
    "over_30_s": Kind(
        "warning", "{rows} with clips longer than the model hears: dropped in training", "cut each into clips", DROP
    ),
    "clipping": Kind("warning", "{rows} with clipping (overdriven recordings)", "record them at a lower level"),
    "little_text": Kind(
        "info", "{rows} with far less text than their clips have room for", "look if words are left out"
    ),
    "languages": Kind("info", "texts in several scripts or languages", "set language, or a column language"),
    "long": Kind("info", "{rows} over max_length", "raise max_length, or too_long: split"),
    "choice_number": Kind(
        "info", "{rows} whose answer is the number of a choice, taken to count from 0", "check that it does"
    ),
    "ties": Kind(
        "info",
        "{rows} with several best or worst answers (ties), of which the first is used",
        "break the ties, or set format: ranked_all to use them all",
    ),
    "length_bias": Kind("info", "how often the longer answer is chosen", "compare with what is wanted"),
    "imbalance": Kind("info", "imbalanced classes", "add rows for the rare ones"),
    "few": Kind("info", "few rows", "add more"),
}
FIXABLE = frozenset(kind for kind, usual in KINDS.items() if usual.fix)
"""The kinds that can be fixed by themselves."""
REDACTED = frozenset(kind for kind, usual in KINDS.items() if usual.fix == REDACT)
"""Those of them that are fixed only where they are named: what looks like a secret may be what is to be learned."""
FIXED_BY_DEFAULT = FIXABLE - REDACTED
WHY = {  # a row is dropped
    "malformed": "cannot be read",
    "empty": "empty",
    "roles": "messages out of order",
    "identical": "chosen and rejected are identical",
    "tied": "all answers have the same score",
    "nothing": "no trainable tokens",
    "near_empty": "next to no text",
    "long_prompt": "prompt over max_length",
    "cut_alike": "answers differ only after max_length",
    "echo": "the chosen answer repeats the prompt",
    "silent": "silent",
    "too_much_text": "too much text for its clip",
    "over_30_s": "longer than the model hears",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    kind : str
        A key of `KINDS`.
    level : {"error", "warning", "info"}
        Error (no training until it is fixed), warning (the result suffers) or info.
    title : str
        What is wrong, with the count.
    count : int
        Number of rows.
    rows : tuple of int
        Their numbers, from 0; of the evaluation rows where the title says so.
    examples : tuple of str
        At most three, shortened, personal data and secrets masked.
    advice : str
        What to do.
    fix : str
        What fixing does to each row by itself; empty where a person has to decide.
    """

    kind: str
    level: Level
    title: str
    count: int
    rows: tuple[int, ...]
    examples: tuple[str, ...]
    advice: str
    fix: str


class Findings:
    """Collects rows by kind."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = defaultdict(list)
        self.examples: dict[str, list[str]] = defaultdict(list)
        self.why: dict[tuple[str, int], str] = {}
        self.changed: dict[str, dict[str, Any]] = defaultdict(dict)

    def add(self, kind: str, row: int, example: str, why: str = "", **said: Any) -> None:
        """Note a row, once a kind; `why` is for the list of changes, `said` overrides what `KINDS` says."""
        if (kind, row) not in self.why:
            self.rows[kind].append(row)
            self.why[kind, row] = why or WHY.get(kind, "")
            if len(self.examples[kind]) < EXAMPLES:
                self.examples[kind].append(f"row {row}: {shown(example, WHOLE)}")
        self.changed[kind] |= said

    def say(self, kind: str, **said: Any) -> None:
        """Note something about the whole table."""
        self.rows[kind] = []
        self.changed[kind] |= said

    def fix(self, kind: str) -> str:
        """What fixing does to each row of a kind; empty where a person has to decide."""
        return str(self.changed.get(kind, {}).get("fix", KINDS[kind].fix))

    def all(self) -> list[Finding]:
        """List them, worst first."""
        found = []
        for kind, usual in KINDS.items():
            if kind in self.rows and (self.rows[kind] or kind in self.changed):
                said = replace(usual, **self.changed[kind])
                rows = sorted(self.rows[kind])
                title = _counted(said.title, len(rows))
                examples = tuple(self.examples[kind])
                found += [Finding(kind, said.level, title, len(rows), tuple(rows), examples, said.advice, said.fix)]
        return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _counted(title: str, rows: int) -> str:
    return ROWS.sub(lambda wanted: f"{rows:,} {wanted[1] or ''}row{'s' * (rows != 1)}", title)


def shown(text: str, most: int = SHOWN) -> str:
    """Shorten a text to one line and mask the personal data and secrets in it."""
    return one_line(veiled(text, 8 * SHOWN), most)


def one_line(text: str, most: int = SHOWN) -> str:
    """Shorten a text to one line without signs that cannot be seen."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def veiled(text: str, most: int | None = None) -> str:
    """Mask the secrets in a text, and the personal data in its first `most` characters, which are given.

    Where there are more in the repaired text, that is masked: a letter that cannot be seen would hide them.
    """
    (masked, found), repaired = _masked(text, most), characters.repair(text)
    more, hidden = _masked(repaired, most) if repaired != text else (masked, found)
    return more if hidden > found else masked


def _masked(text: str, most: int | None) -> tuple[str, int]:
    """Mask a text; gives also how much was masked."""
    matches = secrets.secrets(text)
    begin = _veiled(text, matches)[:most]
    people = pii.personal(begin) if pii.available() else []
    return _veiled(begin, people), len(matches) + len(people)


def _veiled(text: str, matches: Sequence[pii.Match]) -> str:
    for match in sorted(matches, key=lambda match: match.start, reverse=True):
        text = text[: match.start] + pii.masked(text, match) + text[match.stop :]
    return text
