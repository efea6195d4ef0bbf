"""A bar while something takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from peft_nb.events import Progress
from peft_nb.system import frontend


@contextmanager
def progress_bar(delay: float = 2) -> Iterator[Progress | None]:
    """Show a bar while something takes longer than `delay` seconds, where a person looks on."""
    shown_in = frontend.frontend()
    if shown_in == "notebook-headless" or (shown_in == "terminal" and not sys.stderr.isatty()):
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=100, delay=delay, leave=False, bar_format="{desc} {percentage:3.0f}% {bar} {elapsed}") as bar:

        def show(share: float, what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update(round(100 * share) - bar.n)

        yield show
        show(1, "done")  # or a notebook keeps the bar as one that failed


def importing() -> AbstractContextManager[Progress | None]:
    """Show a bar from the third second on, or at once where an import of PEFT is sure to take longer than that."""
    return progress_bar(delay=2 if "peft" in sys.modules else 0)
