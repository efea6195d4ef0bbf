"""What a run has learned, in memory and on disk: loaded when it is needed, given back, asked and refused."""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb.data.examples import Example
from peft_nb.data.kept import kept
from peft_nb.data.rendering import Renderer
from peft_nb.errors import RunError
from peft_nb.evaluation.generate import ask
from peft_nb.events import silent
from peft_nb.runs import rows as rows_of_runs
from peft_nb.runs.adapter import Adapter
from peft_nb.runs.context import Inputs
from peft_nb.runs.record import RunRecord
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests import stores
from tests.test_runs_interference import loss


@pytest.fixture
def again(finished: Run) -> Adapter:
    """The adapter of the finished run as another process finds it."""
    return Adapter(finished.spec, Inputs(), finished.record, lambda: False)


def test_the_bare_base_is_what_transformers_loads(finished: Run, base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    message = [{"role": "user", "content": "Where is my parcel?"}]
    ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    answer = tokenizer.decode(made, skip_special_tokens=True).strip()
    assert finished.generate("Where is my parcel?", adapter=False, max_new_tokens=12) == answer


def test_it_is_loaded_when_it_is_first_needed_and_says_what_the_run_says(again: Adapter, finished: Run) -> None:
    assert not again.held
    options = {"max_new_tokens": 6}
    assert again.generate(["Hello"], True, **options) == finished.generate(["Hello"], **options)
    assert again.held
    assert again.model is again.model is not finished.model
    assert again.chat is True
    prompts = ["Where is my parcel?", "Why?"]
    assert again.said(prompts, **options) == finished.generate(prompts, **options)


def test_what_is_borrowed_is_given_back_and_what_was_held_is_kept(again: Adapter) -> None:
    with again.borrowed():
        assert again.tokenizer.pad_token == "<|pad|>"
    assert not again.held
    model = again.model
    with again.borrowed():
        pass
    assert again.model is model


def test_opening_it_is_told_and_leaves_the_story_of_the_run_alone(again: Adapter, finished: Run) -> None:
    before, told = finished.store.events(finished.id), list[str]()
    model = again.open(lambda share, what: told.append(what))
    assert told[0] == f"loading {finished.spec.model}"
    assert finished.store.events(finished.id) == before
    told.clear()
    assert again.open(lambda share, what: told.append(what)) is model
    assert told == []


def test_two_who_need_it_at_once_load_it_once(again: Adapter) -> None:
    ready, found = threading.Barrier(2), list[Any]()

    def need() -> None:
        ready.wait(10)
        found.append(again.model)

    both = [threading.Thread(target=need) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert found[0] is found[1]


@pytest.mark.parametrize("use", ["generate", "save", "merge", "borrowed"])
def test_who_uses_the_model_waits_for_who_uses_it(again: Adapter, tmp_path: Path, use: str) -> None:
    def borrow() -> None:
        with again.borrowed():
            pass

    acts: dict[str, Callable[[], Any]] = {
        "generate": lambda: again.generate(["Hello"], True, max_new_tokens=1),
        "save": lambda: again.save(tmp_path / "saved", silent),
        "merge": lambda: again.merge(tmp_path / "merged", None, 0.005, ["Hello"], lambda share, what: None),
        "borrowed": borrow,
    }
    told = list[str]()
    other = threading.Thread(target=lambda: (acts[use](), told.append("done")))
    with again.using:
        assert again.model.training is False
        other.start()
        other.join(0.5)
        told.append("let go")
    other.join(60)
    assert told == ["let go", "done"]


@pytest.mark.parametrize(
    ("status", "advice"), [("created", r"wait\(\) for it"), ("stopped", r"resume\(\) it"), ("failed", r"resume\(\) it")]
)
def test_of_a_run_without_an_adapter_it_is_said_how_to_get_one(
    spec: Callable[..., RunSpec], store: Store, status: Any, advice: str
) -> None:
    record = RunRecord(store.get(stores.new(store)), store)
    if status != "created":
        record.keep(stores.StatusChanged(status))
    adapter = Adapter(spec(), Inputs(), record, lambda: False)
    with pytest.raises(RunError, match=rf"^run \S+ is {status} and has written no adapter yet; {advice} first$"):
        _ = adapter.model
    adapter = Adapter(spec(), Inputs(), record, lambda: True)
    with pytest.raises(RunError, match=rf"^run \S+ is {status}; call wait\(\) or stop\(\) before using its model$"):
        _ = adapter.model
    with pytest.raises(RunError, match=r"call wait\(\) or stop\(\) before exporting it$"):
        adapter.for_script({}, silent)


def test_what_the_task_does_not_do_is_refused_before_anything_is_loaded(again: Adapter, finished: Run) -> None:
    with pytest.raises(RunError, match=r"^run \S+ writes texts and knows no classes; call generate\(\) on it$"):
        again.predict(["Hello"])
    kinds = Adapter(RunSpec(data="x", task="classification"), Inputs(), finished.record, lambda: False)
    with pytest.raises(RunError, match=r"^run \S+ gives texts labels and writes none; call predict\(\) on it$"):
        kinds.generate(["Hello"], True)
    with pytest.raises(RunError, match=r"^predict\(\) takes texts, and found a NoneType among them; turn it into text"):
        kinds.predict(["a", None])  # type: ignore[list-item]
    assert not again.held
    assert not kinds.held


def test_it_is_compared_on_held_out_rows_else_on_prompts(again: Adapter, finished: Run, tmp_path: Path) -> None:
    examples, name = again._to_compare(None)
    sides = rows_of_runs.kept(finished.folder)
    assert sides
    assert (list(examples), name) == (list(sides.held_out), "2 evaluation rows")
    again.hold(finished.model, finished.tokenizer)
    (answered,), name = again._to_compare(["Where is my order?"])
    assert name == "1 prompts"
    said = again.tokenizer.decode([id for id, on in zip(answered.ids, answered.supervised, strict=True) if on])
    assert said.startswith(again.generate(["Where is my order?"], True, max_new_tokens=4)[0])


def test_a_script_gets_the_examples_of_the_run_with_their_rows_while_these_are_there(
    again: Adapter, finished: Run, rows: list[dict[str, str]]
) -> None:
    base, train, held_out = again.for_script({}, silent)
    assert (base.identity, train.rows, held_out.rows) == (finished.facts.base, None, None)
    assert (len(train.examples), len(held_out.examples)) == (21, 2)
    mine = Adapter(finished.spec, Inputs(data=rows), finished.record, lambda: False)
    _, train, held_out = mine.for_script({}, silent)
    assert train.rows is not None is not held_out.rows
    assert (list(train.rows), train.layout.name) == (rows, "question_answer")  # type: ignore[union-attr]


def test_losses_are_those_of_the_model_with_its_adapter_and_without(finished: Run, again: Adapter) -> None:
    sides = kept(finished.folder)
    assert sides
    rows = sides.held_out
    found, bare = again.losses(rows), again.losses(rows, adapter=False)
    assert str(again.scorer()).startswith("padding-free")
    assert found.tolist() == pytest.approx([loss(again.model, one) / one.targets for one in rows], rel=1e-3)
    with again.model.disable_adapter():
        assert bare.tolist() == pytest.approx([loss(again.model, one) / one.targets for one in rows], rel=1e-3)
    assert found.mean() < bare.mean()


def test_an_answer_is_as_sure_as_its_tokens_are_probable(again: Adapter) -> None:
    prompt, answers = "Where is my parcel?", ("Ahoy!", "xyzzy")
    asked = ask(Renderer(again.tokenizer), prompt, again.chat, again.spec.system)
    wanted = []
    for answer in answers:
        said = again.tokenizer(answer, add_special_tokens=False).input_ids
        example = Example(array("i", [*asked, *said]), bytes(len(asked)) + b"\1" * len(said))
        wanted.append(math.exp(-loss(again.model, example) / len(said)))
    assert again.confidence([prompt] * 2, answers).tolist() == pytest.approx(wanted, rel=1e-3)
    assert wanted[0] > wanted[1]
