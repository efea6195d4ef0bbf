"""What differs: words of a text that another has not, marked so that it is told without colour; settings of specs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from difflib import SequenceMatcher
from html import escape
from typing import Any

from peft_nb.spec import RunSpec

MARK = "text-decoration:underline 2px;text-underline-offset:3px;background:rgba(230,159,0,.22);color:inherit"
# Words as white space parts them: to cut inside one would tear emoji and joined letters apart. Chinese and Japanese
# put no space between words, so each of their signs counts as one.
WORD = re.compile(r"\s+|[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def marked(text: str, beside: str) -> str:
    """Mark in a text the words that differ from another.

    Parameters
    ----------
    text, beside : str
        What is shown, and what it is compared with (by difflib's longest matching blocks).

    Returns
    -------
    str
        HTML: the escaped text with ``<ins>`` around what is not in the other.
    """
    own, other = WORD.findall(text), WORD.findall(beside)
    parts = []
    for kind, _, _, start, stop in SequenceMatcher(None, other, own, autojunk=False).get_opcodes():
        words = "".join(own[start:stop])
        core = words.strip() if kind in ("insert", "replace") else ""
        before, _, after = words.partition(core) if core else (words, "", "")  # no line under the space around
        parts += [escape(before), f'<ins style="{MARK}">{escape(core)}</ins>' if core else "", escape(after)]
    return "".join(parts)


def settings(specs: Mapping[str, RunSpec]) -> dict[str, dict[str, Any]]:
    """Find the settings in which specs differ.

    Parameters
    ----------
    specs : mapping of str to RunSpec
        By the names of their runs.

    Returns
    -------
    dict of str to dict
        By field, in the order of the fields, the value of each run; without the name, which says nothing else.
    """
    told = {name: spec.to_dict() for name, spec in specs.items()}
    fields = list(dict.fromkeys(field for own in told.values() for field in own if field != "name"))
    found = {field: {name: own.get(field) for name, own in told.items()} for field in fields}
    return {field: own for field, own in found.items() if any(one != next(iter(own.values())) for one in own.values())}


def clean(text: str) -> str:
    """Replace characters that control a terminal or that no file can hold."""
    return "".join("\ufffd" if _controls(sign) else sign for sign in text)


def _controls(sign: str) -> bool:
    return sign not in "\n\t" and unicodedata.category(sign) in ("Cc", "Cs")
