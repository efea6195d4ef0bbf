"""Work without the bars, log lines and warnings of the libraries underneath; the run tells what matters itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

_lock = Lock()
_restore = ExitStack()
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers, huggingface_hub, peft, bitsandbytes and lm-evaluation-harness for a while.

    Their settings hold for the whole process: the first thread to enter changes them, the last to leave puts them back.
    """
    global _inside
    with _lock:
        if not _inside:
            _silence(_restore)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _restore.close()


def _silence(restore: ExitStack) -> None:
    from transformers.utils import logging as transformers

    restore.callback(transformers.set_verbosity, transformers.get_verbosity())
    for logger in map(logging.getLogger, ("bitsandbytes", "huggingface_hub", "lm_eval")):
        restore.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
    if transformers.is_progress_bar_enabled():
        restore.callback(transformers.enable_progress_bar)
    restore.enter_context(warnings.catch_warnings())
    transformers.set_verbosity_error()
    transformers.disable_progress_bar()
    warnings.simplefilter("ignore")


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
