from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell

from peft_nb import Run
from tests.shell import refused, run


def test_a_line_probes_a_run(shell: InteractiveShell, finished: Run) -> None:
    mine = [{"first": "Our oak is tall.", "second": "Our elm is tall."}]
    shell.user_ns |= {"tickets": finished, "mine": mine}
    found = run(shell, "%peft probe tickets --only bias --pairs mine --out probed")
    assert shell.user_ns["probed"] is found
    assert found["bias_shift"].rows == 1
    assert "there is no probe 'leak'; did you mean 'leaks'" in refused(shell, "%peft probe tickets --only leak")
