"""Whole runs that learn from rewards of their own answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import PeftNbError
from peft_nb.events import Notice, Sampled
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.tasks import TASKS
from peft_nb.tasks.base import Written
from tests.conftest import few, stop_at
from tests.every_method import NEEDED

Reinforce = Callable[..., Run]


def vowels(completion: str) -> float:
    """The share of letters that are e."""
    return Counter(completion)["e"] / max(1, len(completion))


@pytest.fixture(scope="module")
def asked(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"prompt": row["question"], "wanted": row["answer"]} for row in rows[:12]]


@pytest.fixture(scope="module")
def reinforce(spec: Callable[..., RunSpec], asked: list[dict[str, str]], runs: Store) -> Reinforce:
    """Learn from the rewards of answers to a few prompts, which are evaluated on too."""

    def reinforce(*listeners: Any, reward: Any = vowels, data: Any = None, **fields: Any) -> Run:
        usual = {"task": "grpo", "eval_data": "asked", "max_steps": 6, "eval_steps": 3, "learning_rate": 2e-2}
        usual |= {"num_generations": 8, "max_completion_length": 12, "batch_size": 6}
        several = reward if isinstance(reward, list) else [reward]
        names = [one if isinstance(one, str) else "(in memory)" for one in several] if reward else None
        live = None if not reward or all(isinstance(one, str) for one in several) else reward
        return begin(
            spec(**{**usual, "reward": names, **fields}),
            data=asked if data is None else data,
            reward=live,
            namespace={"asked": asked, "vowels": vowels},
            store=runs,
            listeners=listeners,
        ).wait()

    return reinforce


@pytest.fixture(scope="module")
def run(reinforce: Reinforce) -> Run:
    return reinforce()


def rewards(run: Run) -> list[float]:
    return run.history["reward"].dropna().tolist()


def told(run: Run) -> list[str]:
    return [event.text for event in run.events() if isinstance(event, Notice)]


def test_a_reward_rises_in_a_handful_of_steps(run: Run) -> None:
    found = rewards(run)
    assert len(found) == 6
    assert found[-1] > found[0] + 0.02  # as with any of six other seeds
    assert run.metrics["eval_reward"] > run.metrics["base_eval_reward"] + 0.01
    assert run.metrics["eval_loss"] == pytest.approx(-run.metrics["eval_reward"])
    assert (run.history["reward_std"].dropna() > 0).all()
    assert (run.history["completion_length"].dropna() <= 12).all()
    assert run.metrics["path"].startswith("padding-free, shared prefixes")
    assert any(line.startswith("reward tried on 32 answers to 4 prompts") for line in told(run))
    samples = [event for event in run.events() if isinstance(event, Sampled)]
    assert {one.step for one in samples} == {0, 3, 6}
    assert all(one.reward is not None for one in samples)


def test_stopped_and_resumed_is_as_if_never_stopped(reinforce: Reinforce, run: Run, runs: Store) -> None:
    stopped = reinforce(stop_at(2))
    assert stopped.status == "stopped"
    with pytest.raises(PeftNbError, match="pass it again"):
        load(stopped.id, store=runs).resume()
    again = load(stopped.id, store=runs, reward=vowels).resume()
    assert rewards(again) == pytest.approx(rewards(run), rel=1e-5)
    assert again.metrics["eval_reward"] == pytest.approx(run.metrics["eval_reward"])


def test_two_ways_to_begin_with_the_same_samples_learn_the_same(reinforce: Reinforce, run: Run) -> None:
    for changes in ({"fast": False}, {"token_budget": 64}):
        assert rewards(reinforce(max_steps=2, eval_steps=None, **changes)) == pytest.approx(rewards(run)[:2], abs=0.05)


def test_a_reward_that_raises_skips_its_answer_and_is_counted(reinforce: Reinforce) -> None:
    def fragile(completion: str) -> float:
        if "e" not in completion:
            raise ValueError("no e")
        return vowels(completion)

    found = reinforce(reward=fragile, max_steps=2, eval_steps=None)
    assert found.status == "finished"
    (line,) = [one for one in told(found) if "which were skipped" in one]
    assert line.endswith("answers, which were skipped: fragile fails with ValueError: no e")


def test_many_at_once_async_and_several_with_weights(reinforce: Reinforce) -> None:
    async def many(completions: list[str], wanted: list[str], **columns: Any) -> list[float]:
        assert len(wanted) == len(completions)
        assert set(columns) == {"prompts"} | ({"prompt"} & set(columns))
        return [vowels(one) for one in completions]

    weights = {"reward_weights": [1.0, 0.1]}
    found = reinforce(reward=[many, "length:2"], max_steps=1, eval_steps=None, beta=0.1, **weights)
    assert found.status == "finished"
    assert found.history["kl"].dropna().iloc[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("method", few(["prefix", "bottleneck", "full", "ia3"], "prefix"))
def test_every_method_can_learn_by_reward(reinforce: Reinforce, method: str) -> None:
    found = reinforce(method=method, max_steps=1, eval_steps=None, learning_rate=1e-3, **NEEDED.get(method, {}))
    assert found.metrics["eval_reward"] is not None


def test_a_conversation_is_asked_up_to_its_last_answer(reinforce: Reinforce, rows: list[dict[str, str]]) -> None:
    def near(completion: str, reference: str, question: str) -> float:
        assert {"question": question, "answer": reference} in rows
        return len(set(completion) & set(reference)) / 10

    found = reinforce(reward=near, data=rows, eval_data=None, max_steps=1, eval_steps=None)
    assert found.metrics["examples"] == len(rows) - found.metrics["eval_examples"]


def test_of_pairs_the_prompts_are_asked(reinforce: Reinforce, rows: list[dict[str, str]]) -> None:
    pairs = [{"prompt": row["question"], "chosen": row["answer"], "rejected": "No idea."} for row in rows[:12]]
    answers = {row["chosen"] for row in pairs}

    def near(completion: str, reference: str, rejected: str) -> float:
        assert reference in answers
        assert rejected == "No idea."
        return len(set(completion) & set(reference)) / 10

    found = reinforce(reward=near, data=pairs, eval_data=None, max_steps=1, eval_steps=None, eval_fraction=0)
    assert found.metrics["examples"] == 12
    assert any("of each pair the prompt alone" in line for line in told(found))


def test_what_does_not_fit_is_refused_in_a_line(reinforce: Reinforce, rows: list[dict[str, str]]) -> None:
    def line(**fields: Any) -> str:
        with pytest.raises(PeftNbError) as error:
            reinforce(**fields)
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    def broken(completion: str) -> float:
        raise KeyError("solution")

    assert "reward: grpo needs one" in line(reward=None)
    assert "no function 'brief'" in line(reward="brief")
    assert "reward_weights: 2 for 1 rewards" in line(reward_weights="1,2")
    assert "grpo has no loss 'dapi'" in line(loss_type="dapi")
    assert "num_generations" in line(num_generations=1)
    assert "leave one out" in line(beta=0.1, init_adapter="whatever")
    assert "too_long" in line(too_long="split")
    assert "equal rewards teach nothing" in line(reward=lambda completion: 1)
    assert "asked for a number or None" in line(reward=lambda completion: "good")
    assert "gave 2 rewards for 32 answers" in line(reward=lambda completions: [1, 2])
    assert "broken fails with KeyError: 'solution'" in line(reward=broken)
    assert "task: grpo" in line(task="generation", reward=None, num_generations=None, max_completion_length=None)
    assert "reward: task dpo has no use for it; grpo has" in line(
        task="dpo", num_generations=None, max_completion_length=None
    )


def test_rewards_that_are_mostly_equal_are_told(reinforce: Reinforce, asked: list[dict[str, str]]) -> None:
    special = asked[0]["prompt"]

    def sparse(prompt: str, completion: str) -> float:
        return vowels(completion) if prompt == special else 0.0

    found = reinforce(reward=sparse, max_steps=1, eval_steps=None)
    assert "3 of 4 prompts get equal rewards: nothing is learned from them" in told(found)
    assert found.metrics["equal_rewards"] >= 5 / 6


def test_what_each_step_writes_is_told() -> None:
    described = RunSpec(data="x", task="grpo", reward="f", num_generations=4, beta=0.1)
    assert TASKS["grpo"].written(described) == Written(4, 256)
    assert TASKS["grpo"].written(RunSpec(data="x", task="grpo", reward="f")) == Written(8, 256)


def test_a_training_that_taught_nothing_is_told() -> None:
    spec, task = RunSpec(data="x", task="grpo", reward="f"), TASKS["grpo"]
    assert "nothing was learned" in task.warning(spec, [0.0, 0.0], {"equal_rewards": 1.0})
    assert not task.warning(spec, [0.0, 0.0], {"equal_rewards": 0.9})
    longer = {"base_eval_completion_length": 10, "eval_completion_length": 30, "base_eval_reward": 1, "eval_reward": 1}
    assert "only got longer (10 → 30 tokens)" in task.warning(spec, [0.1], longer)
    assert not task.warning(spec, [0.1], {**longer, "eval_reward": 2})


def test_a_cell_names_a_function_of_the_notebook(shell: InteractiveShell, base: Path) -> None:
    shell.user_ns |= {"vowels": vowels, "asked": [{"prompt": f"Who is {name}?"} for name in ("Ann", "Bo", "Cy", "Di")]}
    flags = "--task grpo --reward vowels --num-generations 4 --max-completion-length 6 --out made"
    small = f"--model {base} --dtype float32 --device cpu --judge off --max-steps 1 --eval-fraction 0"
    shell.run_cell_magic("peft", f"lora {flags} {small}", "data: asked")
    made = shell.user_ns["made"]
    assert made.spec.reward == ["vowels"]
    assert made.history["reward"].notna().all()


def test_training_goes_on_from_an_adapter(reinforce: Reinforce) -> None:
    first = reinforce(max_steps=2, eval_steps=None, name="first")
    further = reinforce(max_steps=1, eval_steps=None, init_adapter="first")
    assert further.metrics["base_eval_reward"] == pytest.approx(first.metrics["base_eval_reward"])
    began = further.history["eval_reward"].dropna().iloc[0]
    assert began == pytest.approx(first.metrics["eval_reward"], abs=1e-4)
