"""One base, many adapters: every answer is that of the adapter alone, and the base stays as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import peft_nb
from peft_nb.errors import MethodError, ModelError, PeftNbError, RunError
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store

pytestmark = pytest.mark.exhaustive

PROMPTS = ["Where is my order?", "Hello", "Cancel it, please.", "I want my money back"]
IDS = torch.tensor([[1, 60, 7, 100, 9, 300, 12, 2]])
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def learn(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: Any) -> Callable[..., Run]:
    store = Store(tmp_path_factory.mktemp("switchboard"))

    def learn(name: str, **fields: Any) -> Run:
        usual = {"max_steps": 4, "name": name, "learning_rate": 3e-2}
        return begin(spec(**{**usual, **fields}), data=rows, store=store).wait()

    return learn


@pytest.fixture(scope="module")
def runs(learn: Callable[..., Run]) -> dict[str, Run]:
    """Four that mix, of which one has a system prompt, and two that do not."""
    every = {
        "plain": {},
        "other": {"seed": 1, "r": 4},
        "legal": {"seed": 2, "system": "You are a lawyer."},
        "root": {"method": "rslora", "seed": 3, "target_modules": ["q_proj"]},
        "dora": {"method": "dora"},
        "soft": {"method": "prompt", "learning_rate": 0.3},
    }
    return {name: learn(name, **fields) for name, fields in every.items()}


@pytest.fixture
def mixed(base: Path, runs: dict[str, Run]) -> peft_nb.Switchboard:
    """A board of those that mix, over a live pair."""
    pair = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    return peft_nb.Switchboard(pair, *(runs[name] for name in ("plain", "other", "legal", "root")))


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in model.state_dict().items()}


def test_switching_gives_each_adapters_own_answers(runs: dict[str, Run]) -> None:
    board = peft_nb.Switchboard(*runs.values())
    before = state(board._base)
    assert board.names == list(runs)
    assert list(board.table["loaded"]) == [False] * len(runs)
    own = {name: run.generate(PROMPTS, **SHORT) for name, run in runs.items()}
    assert len(set(map(tuple, own.values()))) > 3  # they do differ
    for name in [*runs, *reversed(runs)]:
        model = board.switch(name)
        assert board.active == name
        with torch.inference_mode():
            torch.testing.assert_close(
                model(input_ids=IDS).logits, runs[name].model(input_ids=IDS).logits, atol=1e-5, rtol=1e-5
            )
        assert board.generate(PROMPTS, **SHORT) == own[name]
    assert board.table["loaded"].all()
    after = state(board._base)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_one_batch_with_a_different_adapter_for_each_row(
    mixed: peft_nb.Switchboard, runs: dict[str, Run], recwarn: pytest.WarningsRecorder
) -> None:
    wanted = ["legal", "plain", "root", "other"]
    alone = [runs[name].generate(prompt, **SHORT) for prompt, name in zip(PROMPTS, wanted, strict=True)]
    assert mixed.generate(PROMPTS, adapter=wanted, **SHORT) == alone
    assert not [one for one in recwarn if "share a batch" in str(one.message)]
    assert mixed.active is None
    bare = runs["plain"].generate(PROMPTS[1], adapter=False, **SHORT)
    assert mixed.generate(PROMPTS, adapter=[*wanted[:1], None, *wanted[2:]], **SHORT) == [alone[0], bare, *alone[2:]]
    assert mixed.generate(PROMPTS[1], **SHORT) == bare
    assert mixed.generate(PROMPTS[0], adapter="legal", **SHORT) == alone[0]


def test_rows_that_cannot_share_a_batch_are_grouped_and_that_is_said(runs: dict[str, Run]) -> None:
    board = peft_nb.Switchboard(*runs.values())
    wanted = ["dora", "plain", "soft", "other"]
    with pytest.warns(UserWarning, match="dora cannot share a batch; its rows are answered in one of their own"):
        found = board.generate(PROMPTS, adapter=wanted, **SHORT)
    assert found == [runs[name].generate(prompt, **SHORT) for prompt, name in zip(PROMPTS, wanted, strict=True)]
    assert list(board.table["mixes"]) == [True] * 4 + [False] * 2


def test_adapters_make_room_for_each_other(base: Path, runs: dict[str, Run]) -> None:
    sizes = peft_nb.Switchboard(str(base), *(runs[name] for name in ("plain", "other", "legal"))).table["mb"]
    assert sizes["plain"] == pytest.approx(runs["plain"].metrics["adapter_mb"], rel=0.1)
    bound = sizes["plain"] + sizes["other"] + 0.001
    board = peft_nb.Switchboard(str(base), *(runs[name] for name in ("plain", "other", "legal")), max_memory_mb=bound)
    held = []
    for name in ("plain", "other", "plain", "legal", "other"):
        board.switch(name)
        held.append(set(board.table.index[board.table["loaded"]]))
    assert held == [{"plain"}, {"plain", "other"}, {"plain", "other"}, {"legal"}, {"legal", "other"}]
    assert not [name for name, _ in board._cache.shared.named_parameters() if ".a0." in name]  # plain has gone
    wanted = ["legal", "plain", "legal", "other"]
    alone = [runs[name].generate(prompt, **SHORT) for prompt, name in zip(PROMPTS, wanted, strict=True)]
    assert board.generate(PROMPTS, adapter=wanted, **SHORT) == alone
    assert board.table.loc[board.table["loaded"], "mb"].sum() <= bound
    small = peft_nb.Switchboard(str(base), runs["plain"], max_memory_mb=0.01)
    with pytest.raises(RunError, match=r"plain takes 0\.\d MB, more than max_memory_mb, 0.01; raise it"):
        small.switch("plain")


def test_runs_are_found_by_name_and_folders_by_path(
    base: Path, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFT_NB_STORE", str(runs["plain"].store.folder))
    saved = runs["legal"].save(tmp_path / "law")
    board = peft_nb.Switchboard(str(base), "plain", runs["other"].id, saved)
    assert board.names == ["plain", "other", "law"]
    assert board.generate(PROMPTS[0], adapter="law", **SHORT) == runs["legal"].generate(PROMPTS[0], **SHORT)


def test_an_interrupted_batch_leaves_nothing_behind(mixed: peft_nb.Switchboard, runs: dict[str, Run]) -> None:
    wanted = ["legal", "plain", "root", "other"]
    mixed.switch("plain")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    mixed._cache.shared.get_base_model().lm_head.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        mixed.generate(PROMPTS, adapter=wanted, **SHORT)
    assert mixed.active == "plain"
    alone = [runs[name].generate(prompt, **SHORT) for prompt, name in zip(PROMPTS, wanted, strict=True)]
    assert mixed.generate(PROMPTS, adapter=wanted, **SHORT) == alone


@pytest.mark.exhaustive
def test_a_quantized_run_gives_its_base(learn: Callable[..., Run]) -> None:
    first, second = learn("four", method="qlora"), learn("bits", method="qlora", seed=5)
    board = peft_nb.Switchboard(first, second)
    found = board.generate(PROMPTS[:2], adapter=["bits", "four"], **SHORT)
    assert found == [second.generate(PROMPTS[0], **SHORT), first.generate(PROMPTS[1], **SHORT)]


def test_mistakes_are_one_line(
    mixed: peft_nb.Switchboard, runs: dict[str, Run], base: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    from peft_nb.models.plain import bare

    biased = get_peft_model(bare(runs["plain"].model), LoraConfig(target_modules=["q_proj"]))
    biased.save_pretrained(tmp_path / "whole", save_embedding_layers=True)
    file = tmp_path / "whole" / "adapter_model.safetensors"
    save_file({name: weight + 1 for name, weight in load_file(file).items()}, file, {"format": "pt"})
    shutil.copytree(base, tmp_path / "base")
    elsewhere = learn("elsewhere", model=str(tmp_path / "base"))
    cases: list[tuple[type[PeftNbError], Callable[[], Any], str]] = [
        (RunError, lambda: mixed.switch("plane"), "no adapter is called 'plane'; did you mean 'plain'?"),
        (RunError, lambda: mixed.generate(PROMPTS, adapter=["plain"]), "4 prompts and 1 adapters; give one for each"),
        (RunError, lambda: mixed.add(runs["plain"]), "two adapters are called 'plain'"),
        (RunError, lambda: mixed.add(elsewhere), "elsewhere stands on"),
        (ModelError, lambda: mixed.add(base), "holds no adapter that can be read"),
        (MethodError, lambda: mixed.add(tmp_path / "whole"), "a weight of the base itself, which all adapters share"),
    ]
    for kind, act, said in cases:
        with pytest.raises(kind) as refused:
            act()
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    assert mixed.names == ["plain", "other", "legal", "root"]


def test_prompts_are_routed_by_the_rows_of_runs_or_by_given_ones(
    base: Path, runs: dict[str, Run], kinds: dict[str, Run], encoder: Path, tmp_path: Path
) -> None:
    board = peft_nb.Switchboard(str(base), *kinds.values(), encoder=str(encoder), with_base=False)
    assert [one.name for one in board.route(["plum fig plum apple", "nail saw nail drill"])] == ["fruit", "tool"]
    before = sorted((kinds["fruit"].store.folder / "routing").iterdir())
    assert before
    folder = kinds["tool"].save(tmp_path / "birds")
    board.add(folder)
    with pytest.raises(RunError, match=r"birds cannot be routed to: .* not in the store; name prompts"):
        board.route("crow")
    board = peft_nb.Switchboard(str(base), *kinds.values(), encoder=str(encoder), with_base=False)
    board.add(folder, rows=["crow wren", "owl crow owl", "wren wren owl crow"])
    assert board.route("owl crow wren").name == "birds"
    assert board.generate("owl crow wren", "route", **SHORT) == kinds["tool"].generate("owl crow wren", **SHORT)
    with pytest.raises(RunError, match="an adapter cannot be called 'base'"):
        board.add(kinds["tool"].save(tmp_path / "base"))


def test_a_bank_of_adapters_is_held_under_a_bound(kinds: dict[str, Run], encoder: Path, tmp_path: Path) -> None:
    mb = peft_nb.Switchboard(*kinds.values()).table["mb"].max()
    bank = peft_nb.Switchboard(*kinds.values(), encoder=str(encoder), max_memory_mb=4.5 * mb, with_base=False)
    for number in range(18):
        shutil.copytree(kinds["tool"].adapter_dir, tmp_path / f"number{number}")
        bank.add(tmp_path / f"number{number}", rows=[f"crow number{number}", f"owl number{number}"])
    for name in [*bank.names, *bank.names[::-3]]:
        bank.switch(name)
        table = bank.table
        assert table.loc[name, "loaded"]
        assert table.loc[table["loaded"], "mb"].sum() <= 4.5 * mb
    assert bank.table["loaded"].sum() == 4
    found = bank.route(["plum fig plum apple", "nail saw nail drill"])
    assert [one.name for one in found] == ["fruit", "tool"]
