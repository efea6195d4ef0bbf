"""A planned step is one mean loss whatever its cut, and what interrupts a training costs no more than it has to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peft_nb.errors import RunError
from peft_nb.events import Checkpointed, Evaluated, Event, Notice, StepLogged
from peft_nb.spec import RunSpec
from peft_nb.system.resources import process_memory_mb
from peft_nb.training import checkpoint
from peft_nb.training.draws import OwnDraws
from peft_nb.training.hooks import Hooks
from peft_nb.training.objectives import Installed, Padded, PaddingFree
from peft_nb.training.packing import supervised_targets
from peft_nb.training.stop import Abandoned, StopFlag
from peft_nb.training.trainer import PlannedTrainer, out_of_memory
from tests import tiny
from tests.conftest import file_size_limit

CPU = torch.device("cpu")
EXAMPLES, HELD_OUT = tiny.examples(8), tiny.examples(5, seed=1)
PADDED = Padded(0)
STEPS = [[0, 1, 2, 3], [4, 5, 6, 7], [2, 0, 5, 1], [3, 7, 6, 4]]
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes"

Make = Callable[..., tuple[PlannedTrainer, list[Event]]]


@dataclass(frozen=True)
class Scarce(Padded):
    """The padded way on a machine that has memory for so many tokens at once."""

    pad_id: int = 0
    room: int = 0
    error: str = NO_MEMORY
    sizes: list[int] = field(default_factory=list)

    def loss(self, model: torch.nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Refuse what does not fit."""
        self.take(examples)
        return super().loss(model, examples, device)

    def scores(self, model: torch.nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Likewise."""
        self.take(examples)
        return super().scores(model, examples, device)

    def take(self, examples: Sequence[Any]) -> None:
        """Refuse what does not fit."""
        self.sizes.append(sum(one.cost for one in examples))
        if self.sizes[-1] > self.room:
            raise RuntimeError(self.error)


@dataclass(frozen=True)
class Poisoned(Padded):
    """A loss that is no number on one example, or has a gradient that is none."""

    pad_id: int = 0
    bad: int = 5
    what: str = "loss"

    def loss(self, model: torch.nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Spoil the sum with the bad example."""
        bad = EXAMPLES[self.bad] in examples
        for parameter in model.parameters() if bad and self.what == "weights" else ():
            if parameter.requires_grad:
                parameter.data.fill_(torch.inf)
        loss = super().loss(model, examples, device)
        if not bad or self.what == "weights":
            return loss
        return loss * torch.nan if self.what == "loss" else loss + (loss - loss.detach()).sqrt()

    def scores(self, model: torch.nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Likewise."""
        return super().scores(model, examples, device) * (torch.nan if EXAMPLES[self.bad] in examples else 1)


def right_tokens(model: Any, example: Any) -> list[bool]:
    """Of each supervised token of an example whether it is the likeliest."""
    ids = torch.tensor([list(example.ids)])
    with torch.no_grad():
        likeliest = model(input_ids=ids).logits[0].argmax(-1)
    return [bool(likeliest[place - 1] == ids[0, place]) for place in supervised_targets(example)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A trainer of a tiny model with a fixed adapter."""

    def make(
        objective: Any = PADDED,
        *,
        held_out: Sequence[Any] = (),
        hooks: Hooks | None = None,
        most: int | None = None,
        **fields: Any,
    ) -> tuple[PlannedTrainer, list[Event]]:
        heard: list[Event] = []
        usual = {"data": "x", "batch_size": 4, "learning_rate": 1e-2, "token_budget": 1_000, "device": "cpu"}
        model, spec = tiny.with_lora(tiny.base("llama")), RunSpec(**usual | fields)
        told = heard.append, StopFlag(), "cpu", hooks or Hooks(), OwnDraws(spec.seed), most
        return PlannedTrainer(model, spec, objective, EXAMPLES, held_out, STEPS, tmp_path, *told), heard

    return make


def gradients(trainer: PlannedTrainer) -> torch.Tensor:
    return torch.cat([one.grad.flatten() for one in trainer.model.parameters() if one.grad is not None])


def weights(trainer: PlannedTrainer) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in trainer.model.parameters() if one.requires_grad])


def plain_loss(model: Any, examples: Sequence[Any]) -> torch.Tensor:
    """The mean over all supervised tokens, one example after the other."""
    total, count = torch.zeros(()), 0
    for one in examples:
        scores = model(input_ids=torch.tensor([one.ids])).logits[0].log_softmax(-1)
        for place in range(1, len(one.ids)):
            if one.supervised[place]:
                total, count = total - scores[place - 1, one.ids[place]], count + 1
    return total / count


@pytest.mark.parametrize("budget", [8, 40, 1_000])
@pytest.mark.parametrize("objective", [PADDED, PaddingFree(share_prefix=True)], ids=str)
def test_a_step_is_the_mean_over_its_supervised_tokens_whatever_the_cut(
    make: Make, objective: Any, budget: int
) -> None:
    trainer, _ = make(objective, token_budget=budget)
    with Installed(objective, trainer.model):
        loss = trainer.training_step(trainer.model, STEPS[0])
    found = gradients(trainer)
    trainer.model.zero_grad()
    wanted = plain_loss(trainer.model, EXAMPLES[:4])
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found, gradients(trainer), rtol=1e-3, atol=1e-5)
    assert trainer.tokens == sum(one.cost for one in EXAMPLES[:4])


def test_a_size_that_was_found_fast_bounds_micro_batches_unless_the_spec_gives_one(make: Make) -> None:
    assert make(token_budget=None, most=600)[0].budget == 600
    assert make(token_budget=None, most=10**9)[0].budget == make(token_budget=None)[0].budget < 10**9
    assert make(token_budget=700, most=600)[0].budget == 700


def test_the_held_out_loss_is_a_mean_over_all_of_its_tokens_and_is_told(make: Make) -> None:
    asked: list[tuple[int, float]] = []
    trainer, heard = make(held_out=HELD_OUT, token_budget=30)
    trainer.sample = lambda step, trained_s: asked.append((step, trained_s))
    with torch.no_grad():
        wanted = plain_loss(trainer.model.eval(), HELD_OUT).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-4)
    likeliest = [right_tokens(trainer.model.eval(), one) for one in HELD_OUT]
    assert trainer.accuracies == {0: pytest.approx(sum(map(sum, likeliest)) / sum(map(len, likeliest)))}
    trainer.model.train()
    assert heard == [Evaluated(0, trainer.eval_losses[0], trainer.accuracies[0])]
    assert asked == [(0, 0.0)]
    assert trainer.model.training


def test_an_evaluation_begins_by_giving_back_what_the_steps_have_freed(make: Make) -> None:
    trainer, _ = make(held_out=HELD_OUT)
    blocks = [torch.ones(16_384) for _ in range(2_000)]  # 131 MB
    blocks[:] = blocks[::50]  # between them nothing is left, and the allocator holds it all
    before = process_memory_mb()
    trainer.measured()
    assert process_memory_mb() < before - 80


def test_when_memory_runs_out_the_step_is_cut_smaller_and_comes_out_the_same(make: Make) -> None:
    calm, _ = make()
    wanted = calm.training_step(calm.model, STEPS[0])
    scarce = Scarce(room=max(one.cost for one in EXAMPLES[:4]))
    trainer, heard = make(scarce)
    found = trainer.training_step(trainer.model, STEPS[0])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients(trainer), gradients(calm), rtol=1e-4, atol=1e-6)
    assert scarce.sizes[0] == sum(one.cost for one in EXAMPLES[:4])
    assert heard[-1] == Notice(f"memory ran out: micro-batches are cut at {trainer.budget:,} tokens from here on")
    assert trainer.budget <= scarce.sizes[0] // 2


def test_when_memory_runs_out_on_held_out_examples_these_are_cut_smaller_too(make: Make) -> None:
    scarce = Scarce(room=max(one.cost for one in HELD_OUT))
    trainer, heard = make(scarce, held_out=HELD_OUT)
    calm, _ = make(held_out=HELD_OUT)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(calm.evaluate()["eval_loss"], rel=1e-5)
    assert isinstance(heard[0], Notice)


def test_what_cannot_be_cut_or_is_no_want_of_memory_is_told(make: Make) -> None:
    trainer, _ = make(Scarce(room=1))
    longest = max(one.cost for one in EXAMPLES[:4])
    with pytest.raises(RunError, match=rf"^memory ran out on a single example of {longest} tokens; lower max_length"):
        trainer.training_step(trainer.model, STEPS[0])
    trainer, heard = make(Scarce(room=1, error="shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="^shapes cannot be multiplied$"):
        trainer.training_step(trainer.model, STEPS[0])
    assert heard == []
    assert out_of_memory(RuntimeError(NO_MEMORY))
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_a_step_is_given_up_at_once(make: Make) -> None:
    trainer, _ = make(held_out=HELD_OUT)
    trainer.stop.now.set()
    with pytest.raises(Abandoned):
        trainer.training_step(trainer.model, STEPS[0])
    with pytest.raises(Abandoned):
        trainer.evaluate()


def test_a_method_may_have_parameters_that_learn_faster_and_a_penalty(make: Make) -> None:
    class Plus(Hooks):
        def faster(self, name: str) -> float:
            return 16.0 if "lora_B" in name else 1.0

        def penalty(self, model: Any) -> torch.Tensor:
            return sum(one.square().sum() for one in model.parameters() if one.requires_grad)  # type: ignore[return-value]

    trainer, _ = make(hooks=Plus(), token_budget=8)
    trainer.create_optimizer()
    speeds = {one: group["lr"] for group in trainer.optimizer.param_groups for one in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        assert speeds.get(parameter) == ((0.16 if "lora_B" in name else 0.01) if parameter.requires_grad else None)
    plain, _ = make(token_budget=8)
    for one in (trainer, plain):
        one.training_step(one.model, STEPS[0])
    torch.testing.assert_close(gradients(trainer), gradients(plain) + 2 * weights(trainer))  # once a step


def test_a_training_that_was_stopped_goes_on_as_an_undisturbed_one(make: Make, tmp_path: Path) -> None:
    calm, heard = make(held_out=HELD_OUT, eval_steps=2, save_steps=3)
    calm.train()
    assert [event.step for event in heard if isinstance(event, StepLogged)] == [1, 2, 3, 4]
    assert [event.step for event in heard if isinstance(event, Evaluated)] == [2, 4]
    (saved,) = (event for event in heard if isinstance(event, Checkpointed))
    assert (saved.step, Path(saved.folder)) == (3, tmp_path / "checkpoint-3")
    assert calm.finished

    stopped, heard = make(held_out=HELD_OUT, eval_steps=2)
    stopped.publish = lambda event: (heard.append(event), stopped.stop.soon.set())
    stopped.train()
    assert not stopped.finished
    assert [event.step for event in heard if isinstance(event, Checkpointed)] == [stopped.state.global_step] == [2]

    resumed, heard = make(held_out=HELD_OUT, eval_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [event.step for event in heard if isinstance(event, StepLogged)] == [3, 4]
    assert torch.equal(weights(resumed), weights(calm))


def test_as_many_checkpoints_stay_as_wanted(make: Make, tmp_path: Path) -> None:
    for limit, left in ((1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])):
        trainer, _ = make(save_steps=1, save_total_limit=limit)
        trainer.train()
        assert sorted(checkpoint.step_of(one) for one in tmp_path.glob("checkpoint-*")) == left


def test_the_warmup_is_a_number_or_a_share_of_the_steps(make: Make) -> None:
    rates = []
    for warmup in ({"warmup_steps": 2}, {"warmup_ratio": 0.4}, {}):  # 0.4 of 4 steps is rounded up
        trainer, heard = make(**warmup)
        trainer.train()
        rates.append([event.learning_rate for event in heard if isinstance(event, StepLogged)])
    assert rates[0] == rates[1] == pytest.approx([0, 0.005, 0.01, 0.005])
    assert rates[2][0] == 0.01


def test_a_full_disk_costs_a_checkpoint_and_no_training(make: Make, tmp_path: Path) -> None:
    trainer, heard = make(save_steps=2)
    with file_size_limit(1_000):
        trainer.train()
    told = [event.text for event in heard if isinstance(event, Notice)]
    assert [text.partition(":")[0] for text in told] == ["no checkpoint after step 2", "no checkpoint after step 4"]
    assert told[0].endswith("; free some space, training goes on")
    assert list(tmp_path.iterdir()) == []
    assert trainer.finished


def test_the_best_adapter_is_gone_back_to(make: Make) -> None:
    trainer, _ = make(held_out=HELD_OUT, eval_steps=1, load_best_model_at_end=True, learning_rate=0.5)
    seen: list[torch.Tensor] = []
    trainer.sample = lambda step, trained_s: seen.append(weights(trainer))
    trainer.train()
    losses = trainer.eval_losses
    best = losses.index(min(losses))
    assert best < 3  # the longer the steps lead astray, the worse
    assert torch.equal(weights(trainer), seen[3])
    trainer.load_best()
    assert torch.equal(weights(trainer), seen[best])


@pytest.mark.parametrize(
    ("what", "value", "kept"), [("loss", "nan", 0), ("gradient", "nan", 1), ("gradient unclipped", "inf", 1)]
)
def test_numbers_that_are_not_finite_end_the_training_with_the_last_good_adapter(
    make: Make, what: str, value: str, kept: int
) -> None:
    clip = {"max_grad_norm": 0.0} if "unclipped" in what else {}
    calm, _ = make(**clip)
    if kept:
        calm.stop.soon.set()
        calm.train()
    wanted = weights(calm)
    trainer, heard = make(Poisoned(what=what.split()[0]), **clip)
    trainer.train()
    advice = "lower learning_rate (now 0.01), or look at what these rows hold"
    assert trainer.fault.startswith(f"the {what.split()[0]} of step 2 is ")
    assert trainer.fault.endswith(f" on row 5 (counting from 0); {advice}")
    assert (trainer.finished, trainer.state.global_step) == (False, kept)
    assert torch.equal(weights(trainer), wanted)
    assert [event.step for event in heard if isinstance(event, StepLogged)] == [1]


def test_of_a_gpu_only_the_steps_that_are_logged_are_waited_for() -> None:
    def watched(device: str) -> list[int]:
        told = {"args": SimpleNamespace(device=torch.device(device)), "steps": range(8)}
        spec = SimpleNamespace(logging_steps=3)
        states = [SimpleNamespace(global_step=step - 1) for step in range(1, 9)]
        looked = PlannedTrainer._watched.fget
        return [one.global_step + 1 for one in states if looked(SimpleNamespace(state=one, spec=spec, **told))]

    assert watched("cpu") == list(range(1, 9))
    assert watched("cuda") == [1, 3, 6, 8]


def test_what_is_too_large_to_be_copied_goes_back_to_its_checkpoint_or_to_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft_nb.training.trainer.UNDO_BYTES", 0)
    told = r"the loss of step 2 is nan on rows 4, 5, 6, 7 \(counting from 0\); "
    trainer, _ = make(Poisoned(what="weights"))
    with pytest.raises(RunError, match=rf"^{told}.*; there is no checkpoint to go back to$"):
        trainer.train()
    trainer, _ = make(Poisoned(what="weights"), save_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1
    assert bool(weights(trainer).isfinite().all())


def test_a_loss_of_the_base_that_is_not_finite_is_told_before_any_training(make: Make) -> None:
    trainer, heard = make(Poisoned(), held_out=EXAMPLES)
    with pytest.raises(
        RunError, match=r"^the eval loss of the base model, before any training, is nan; try dtype: float32$"
    ):
        trainer.evaluate()
    assert heard == []


def test_an_eval_loss_that_is_not_finite_after_a_step_goes_back_before_it(make: Make) -> None:
    @dataclass(frozen=True)
    class Spoilt(Padded):
        pad_id: int = 0

        def scores(self, model: torch.nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
            """What is held out is no number."""
            return super().scores(model, examples, device) * torch.tensor([torch.inf, 1, 1])

    trainer, heard = make(Spoilt(), held_out=HELD_OUT, eval_steps=2)
    before = weights(trainer)
    trainer.train()
    assert trainer.fault == "the eval loss after step 2 is inf; lower learning_rate (now 0.01)"
    assert (trainer.state.global_step, trainer.eval_losses) == (1, [])
    assert not torch.equal(weights(trainer), before)
    assert not [event for event in heard if isinstance(event, Evaluated)]
