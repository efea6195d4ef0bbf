from __future__ import annotations

import time
from collections.abc import Callable

from peft_nb.ui.panels.debounce import Debouncer, RaiseIfSuperseded


def test_the_newest_request_breaks_off_the_one_before_it() -> None:
    latest, done = Debouncer(), list[str]()

    def work(name: str, rounds: int) -> Callable[[RaiseIfSuperseded], None]:
        def job(superseded: RaiseIfSuperseded) -> None:
            done.append(f"{name} begun")
            for _ in range(rounds):
                time.sleep(0.02)
                superseded()
            done.append(name)

        return job

    latest.submit(work("skipped", 1), 0.2)
    latest.submit(work("first", 500), 0.0)
    while "first begun" not in done:
        time.sleep(0.01)
    latest.submit(work("second", 1), 0.0)
    latest.wait()
    assert done == ["first begun", "second begun", "second"]
    latest.submit(work("forgotten", 1), 5.0)
    latest.cancel()
    latest.wait()
    assert len(done) == 3
