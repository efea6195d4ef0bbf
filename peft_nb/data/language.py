"""In which language a text is written, or where nothing tells languages apart in which script."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

SURE = 0.5  # of a language, at least
UNKNOWN = "unknown"
MISSING = "languages were not told apart, only scripts; pip install 'peft_nb[languages]' adds them"


def known() -> bool:
    """Whether languages can be told apart: by py3langid, an optional package."""
    return _identifier() is not None


def language(text: str) -> str:
    """Tell the language of a text.

    Parameters
    ----------
    text : str
        A sentence or more; a few words are often too little.

    Returns
    -------
    str
        Its ISO 639 code, such as ``en``; ``unknown`` where none is more probable than one half. By py3langid (Lui and
        Baldwin, 2012).
    """
    (found, probability), *_ = _identifier().rank(text)
    return str(found) if probability >= SURE and found not in ("und", "zxx") else UNKNOWN


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def script(text: str) -> str:
    """The script in which most letters of a text are written, such as ``LATIN``; ``none`` where it has no letters."""
    names = [unicodedata.name(letter, "?").partition(" ")[0] for letter in text if letter.isalpha()]
    return max(sorted({*names}), key=names.count) if names else "none"
