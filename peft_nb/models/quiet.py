"""Work without the bars, log lines and warnings of the libraries underneath; the run tells what matters itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers, huggingface_hub, peft and bitsandbytes for a while.

    Their settings are put back afterwards. They hold for the whole process, so only one thread may be inside.
    """
    from transformers.utils import logging as transformers

    verbosity, bars = transformers.get_verbosity(), transformers.is_progress_bar_enabled()
    bitsandbytes = logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    transformers.set_verbosity_error()
    transformers.disable_progress_bar()
    bitsandbytes.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        bitsandbytes.setLevel(level)
        transformers.set_verbosity(verbosity)
        if bars:
            transformers.enable_progress_bar()


def first_line(error: Exception) -> str:
    """Cut a library's error down to the one line that a message has room for.

    Parameters
    ----------
    error : Exception
        Any error.

    Returns
    -------
    str
        Its first line, or the name of its class when it says nothing.
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
