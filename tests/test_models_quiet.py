"""Libraries are silent while anyone is inside, and speak again when all are out."""

from __future__ import annotations

import logging
import warnings

from transformers.utils import logging as transformers

from peft_nb.models.quiet import quiet


def settings() -> tuple[object, ...]:
    level = logging.getLogger("bitsandbytes").level
    return list(warnings.filters), transformers.get_verbosity(), transformers.is_progress_bar_enabled(), level


def test_two_that_overlap_leave_everything_as_it_was() -> None:
    before = settings()
    first, second = quiet(), quiet()
    first.__enter__()
    silent = settings()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings() == silent != before
    second.__exit__(None, None, None)
    assert settings() == before
