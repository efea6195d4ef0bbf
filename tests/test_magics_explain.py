from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb import Run
from tests.shell import refused, run


def test_a_line_explains_a_prompt_or_a_variable(shell: InteractiveShell, finished: Run) -> None:
    pytest.importorskip("captum")
    shell.user_ns |= {"tickets": finished, "question": "Where is my parcel?"}
    found = run(shell, '%peft explain tickets "Where is it?" --answer "On its way." --rows 2 --out why')
    assert shell.user_ns["why"] is found
    assert (found.prompt, found.answer, len(found.rows)) == ("Where is it?", "On its way.", 2)
    assert run(shell, "%peft explain tickets question --answer Here").prompt == "Where is my parcel?"
    assert "--by lime: not one of ablation, shapley" in refused(shell, "%peft explain tickets question --by lime")
    assert "takes a run and a prompt in quotes" in refused(shell, "%peft explain tickets Where is it")
