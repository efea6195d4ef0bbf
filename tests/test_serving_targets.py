"""Who answers to a name."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from peft_nb.errors import MethodError, RunError
from peft_nb.serving import targets
from peft_nb.serving.targets import Target, Version
from peft_nb.spec import RunSpec
from peft_nb.store import Facts, Store
from tests.stores import finish

ONE = Version("lora-1", "tickets@v1", Path("a"), "tiny", "tiny (folder)", None, True)
TWO = replace(ONE, run="lora-2", label="tickets@v2")


def served(store: Store, name: str, **fields: object) -> str:
    """A finished run with an adapter, as a server sees it."""
    id = finish(store, name, RunSpec(data="a.csv", **fields).to_yaml(), Facts(base="tiny"))  # type: ignore[arg-type]
    (store.folder_of(id) / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    return id


def test_a_share_is_that_of_the_users_and_each_keeps_the_answerer() -> None:
    target = Target("tickets@production", ONE, TWO, 0.1)
    users = [f"user {n}" for n in range(4000)]
    chosen = {user: target.choose(user) for user in users}
    assert 340 < Counter(chosen.values())[TWO] < 460  # 400 expected, 19 the deviation
    assert {user: target.choose(user) for user in users} == chosen
    wider = replace(target, share=0.3)
    assert all(wider.choose(user) is TWO for user, version in chosen.items() if version is TWO)
    third = replace(target, other=replace(TWO, label="tickets@v3"))
    assert {u for u in users if third.choose(u) is not ONE} != {u for u in users if chosen[u] is TWO}
    assert {Target("tickets@v1", ONE).choose(user) for user in users} == {ONE}
    assert (target.choose("user 0").label, target.choose("user 15").label) == (
        chosen["user 0"].label,
        chosen["user 15"].label,
    )


def test_a_target_follows_its_alias_and_a_name_alone_is_pinned(store: Store) -> None:
    first, second = (served(store, "tickets", system=system) for system in ("Be kind.", None))
    store.promote(first, "production", why="passed")
    store.promote(second, "production", why="try", share=0.25)
    words = targets.pinned(store, ["tickets@production", "tickets", "tickets@v1", first])
    assert words == {"tickets@production": "tickets@production", "tickets": second, "tickets@v1": first, first: first}
    target = targets.read(store, "tickets@production", "tickets@production")
    assert (target.main.run, target.main.label, target.main.system) == (first, "tickets@v1", "Be kind.")
    assert target.other
    assert (target.other.run, target.other.system, target.share) == (second, None, 0.25)
    store.rollback("production")
    assert targets.read(store, "p", "tickets@production").versions == (target.main,)


def test_what_is_no_lora_for_llama_cpp_is_merged(store: Store) -> None:
    dora, held = served(store, "dora", method="dora"), served(store, "held", method="qlora")
    (store.folder_of(dora) / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')
    assert targets.read(store, "a", dora).main.merged == "llama.cpp loads no DoRA"
    assert targets.read(store, "b", held).main.merged == "it was trained on the base in 4bit"
    assert targets.read(store, "c", served(store, "plain")).main.merged == ""


def test_what_cannot_be_served_is_refused(store: Store) -> None:
    labels = finish(store, "kinds", RunSpec(data="a.csv", task="classification").to_yaml())
    with pytest.raises(MethodError, match="kinds@v1 gives texts labels.*a server answers with texts"):
        targets.read(store, "kinds", labels)
    bare = finish(store, "bare", RunSpec(data="a.csv").to_yaml())
    with pytest.raises(RunError, match="bare@v1 has no adapter to serve"):
        targets.read(store, "bare", bare)
    prompt = served(store, "prompt", method="prompt")
    (store.folder_of(prompt) / "adapter" / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    why = "prompt@v1: llama.cpp loads no adapter of PEFT's type PROMPT_TUNING, and prompt cannot be merged; generate()"
    with pytest.raises(MethodError, match=f"^{re.escape(why)}"):
        targets.read(store, "prompt", prompt)
    with pytest.raises(RunError, match="name at least one run to serve"):
        targets.check([])
    with pytest.raises(RunError, match="base is the base model's own name"):
        targets.check([Target("base", ONE)])
    with pytest.raises(RunError, match=r"tickets@v2 stands on other, and tickets@v1 on tiny \(folder\)"):
        targets.check([Target("a", ONE, replace(TWO, identity="other"), 0.1)])
