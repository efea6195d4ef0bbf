"""Lists and dicts in text: as JSON, or as Python and numpy print them, which csv files hold of a column of lists.

numpy writes no commas between elements, and Python joins strings that stand side by side: evaluated as it is,
``['yes' 'no']`` would be ``["yesno"]``.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from contextlib import suppress
from typing import Any

_BEGINS = re.compile(r"\s*(?:(?:array\()?\[\s*(?:[-\d'\"\[{(\]]|None|True|False|array\()|\{\s*['\"])")
_CUT = re.compile(r"\[.*[\s'\"\]]\.\.\.[\s,'\"\[].*\]", re.DOTALL)
_IGNORED = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_VALUES = (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)


def read(text: str, otherwise: Any) -> Any:
    """Read a list or dict that stands in text.

    Parameters
    ----------
    text : str
        Such as ``['yes', 'no']``, ``['yes' 'no']`` or ``array(['yes'], dtype=object)``.
    otherwise : object
        What to give where it is neither.

    Returns
    -------
    object
        The list or the dict.
    """
    text = text.strip()
    if text.startswith(("[", "{")):
        with suppress(ValueError, RecursionError):
            return json.loads(text)
    if not _BEGINS.match(text):
        return otherwise
    try:
        held = ast.literal_eval(_with_commas(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return otherwise
    return held if isinstance(held, list | dict) else otherwise


def is_cut(text: str) -> bool:
    """Tell whether text is what numpy prints of a long array, of which the middle is not there."""
    return bool(_CUT.fullmatch(text.strip()))


def by_numpy(text: str) -> bool:
    """Tell whether text is what numpy prints of an array of texts: words in quotes without commas, or ``array(…)``."""
    text = text.strip()
    if not text.startswith(("array(", "['", '["')):
        return False
    if is_cut(text):
        return True
    found = read(text, None)
    try:
        return found is not None and found != ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return found is not None


def _with_commas(text: str) -> str:
    """Write a comma wherever a value follows another one, and arrays as the lists in them."""
    written: list[str] = []
    ended = False  # whether what was written last ends a value
    tokens = iter([one for one in tokenize.generate_tokens(io.StringIO(text).readline) if one.type not in _IGNORED])
    for token in tokens:
        if token.string == "array":
            continue
        if token.string == "dtype":  # of an array: ", dtype=object)"
            written.pop()
            token = next((one for one in tokens if one.string == ")"), token)
        begins = token.type in _VALUES or token.string in ("[", "{", "(", "-")
        written += [","] if ended and begins else []
        written.append(token.string)
        ended = token.type in _VALUES or token.string in ("]", "}", ")")
    return " ".join(written)
