from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import SpecError
from peft_nb.spec import RunSpec
from peft_nb.system.frontend import variables
from peft_nb.ui.arguments import described


def test_names_go_into_the_spec_and_live_objects_beside_it() -> None:
    rows = [{"prompt": "a", "completion": "b"}]
    spec, live = described(None, {"r": 4}, data=rows, eval_data=None, model="gpt2")
    assert spec == RunSpec(data=IN_MEMORY, model="gpt2", r=4)
    assert live == {"data": rows}


def test_of_several_rewards_those_with_names_keep_them() -> None:
    def brief(completion: str) -> float:
        return -len(completion)

    spec, live = described(None, {"data": "asked", "task": "grpo"}, reward=[brief, "length:12"])
    assert spec.reward == [IN_MEMORY, "length:12"]
    assert live == {"reward": [brief, "length:12"]}
    assert described(None, {"data": "asked"}, reward="brief,json_valid")[0].reward == ["brief", "json_valid"]
    assert described(None, {"data": "asked"}, reward=brief)[0].reward == [IN_MEMORY]


def test_what_is_live_replaces_a_name_in_a_ready_spec() -> None:
    ready = RunSpec(data="tickets", r=4)
    assert described(ready, {}, data=None) == (ready, {})
    assert described(ready, {}, data=[])[0] == RunSpec(data=IN_MEMORY, r=4)
    with pytest.raises(SpecError, match="r: give it in the spec or beside it, not both"):
        described(ready, {"r": 8})


def test_variables_are_those_of_the_notebook(shell: InteractiveShell) -> None:
    shell.user_ns["tickets"] = 1
    assert variables()["tickets"] == 1
