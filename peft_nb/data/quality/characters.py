r"""What is wrong with the letters of a text: nothing there, broken encoding, control and invisible characters.

- ``empty``: no text, or nothing but white space and invisible characters.
- ``near_empty``: only punctuation, or a word that stands for a missing value ("n/a", "nan", "TODO"). Short texts are
  not, for "No", "7" and "B" are answers; but the answer "None" looks like a missing one.
- ``mojibake``: UTF-8 once read as Windows-1252 or Latin-1, such as "Ã©" for "é" and "â€™" for "’".
- ``replacement``: U+FFFD, which stands for letters lost when the text was decoded, and halves of surrogate pairs;
  nothing brings these letters back.
- ``control``: control characters other than line feed, carriage return and tab, and terminal colours.
- ``invisible``: zero-width characters, soft hyphens, bidi overrides and tags. Joiners stay where scripts and emoji need
  them.

What tells mojibake from text is a short form of what ftfy does (R. Speer, "ftfy: fixes text for you", 2019).
"""

from __future__ import annotations

import re

_NOTHING = {"n/a", "na", "nan", "nil", "none", "null", "tbd", "todo", "undefined", "x", "xx", "xxx"}

# The characters that the bytes 0x80 to 0xBF become: Latin-1 for all, Windows-1252 for those it defines.
_BYTES = {chr(byte): byte for byte in range(0x80, 0x100)}
_BYTES |= {bytes([byte]).decode("cp1252", "ignore") or chr(byte): byte for byte in range(0x80, 0xA0)}
_TAIL = "[" + "".join(re.escape(char) for char, byte in _BYTES.items() if byte < 0xC0) + "]"
# The first bytes of Latin, Greek and Cyrillic letters; of Hebrew and Arabic ones, which need company (× is a sign);
# of three-byte characters (dashes, quotes, Chinese, Japanese, Korean); of emoji.
_MOJIBAKE = re.compile(f"(?:[ÂÃÄÅÎÏÐÑÒÓ]{_TAIL})+|(?:[×ØÙÚÛ]{_TAIL}){{2,}}|(?:[à-ï]{_TAIL}{{2}})+|(?:ð{_TAIL}{{3}})+")
# "AMANHÃ…", "«Ä»", "un café…”": letters and punctuation as they should be, if no letter follows.
_ENDS_A_WORD = re.compile("[ÃÄÅÎÏÐÑÒÓà-ï][–—…“”‘’«»‹›™°ºª·]+")

_LOST = re.compile("[\ufffd\ud800-\udfff]")
_CONTROL = re.compile("\x1b\\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_JOINERS = (
    "\u200c\u200d\u200e\u200f"  # between joined letters, in emoji and beside right-to-left text they mean something
)
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u115f\u180e\u200b\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    f"|(?:^|(?<=[\x00-\u024f]))[{_JOINERS}]+"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0001-\U000e007f]+"  # behind a black flag they name a region
)


def flaws(text: str) -> tuple[str, ...]:
    """Name what is wrong with a text.

    Parameters
    ----------
    text : str
        One text, such as a message or a cell.

    Returns
    -------
    tuple of str
        Some of ``near_empty, mojibake, replacement, control, invisible``, in this order; ``empty`` comes alone.
    """
    words = repair(text).strip()
    if not words:
        return ("empty",)
    undone = _undone(text)  # of mojibake, control characters and soft hyphens are a part
    found = {
        "near_empty": (_is_punctuation(words) or words.casefold().strip("<>[](){}.-#") in _NOTHING),
        "mojibake": undone != text,
        "replacement": _LOST.search(text),
        "control": _CONTROL.search(undone),
        "invisible": _INVISIBLE.search(undone),
    }
    return tuple(name for name, here in found.items() if here)


def repair(text: str) -> str:
    """Undo mojibake and take out control and invisible characters; what cannot be repaired stays.

    Parameters
    ----------
    text : str
        One text.

    Returns
    -------
    str
        The repaired text; the same text where nothing was wrong.
    """
    while (fixed := _INVISIBLE.sub("", _CONTROL.sub("", _undone(text)))) != text:
        text = fixed  # what stood apart may be mojibake now
    return text


def _is_punctuation(words: str) -> bool:
    """Tell "***" from words, but also from signs with a meaning, such as "👍"."""
    return not any(char.isalnum() or ("\u2100" < char != "\ufffd") for char in words)


def _undone(text: str) -> str:
    if text.isascii():
        return text
    for _ in range(3):  # texts are known to go wrong twice, seldom more often
        before, text = text, _MOJIBAKE.sub(_decoded, text)
        if text == before:
            break
    return text


def _decoded(match: re.Match[str]) -> str:
    broken, (begin, end) = match.group(), match.span()
    before, after = match.string[begin - 1 : begin], match.string[end : end + 1]
    split_word = (after.isalpha() and not before.isupper()) or (broken[0].isupper() and before.islower())
    if _ENDS_A_WORD.fullmatch(broken) and not split_word:
        return broken
    try:
        return bytes(_BYTES[char] for char in broken).decode("utf-8")
    except UnicodeDecodeError:
        return broken
