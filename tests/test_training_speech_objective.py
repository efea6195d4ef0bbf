"""What is left out of the work changes neither losses nor gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from peft_nb.data.audio.encoding import Reader
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.training.speech_objective import SpeechObjective, choose
from tests import speech as clips

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def examples(speech: Path) -> list[Any]:
    base = load(resolve(speech), kind="speech")
    reader = Reader(base.features, base.tokenizer, base.model.config.decoder_start_token_id, "en", 32)
    return [reader.example(clips.sound(row["text"], n), row["text"], "", 9) for n, row in enumerate(clips.rows(6))]


def adapted(speech: Path, exclude: str | None = r"model\.encoder\..*") -> Any:
    model = share(load(resolve(speech), kind="speech").model)
    config = LoraConfig(target_modules=["q_proj", "v_proj", "fc1"], exclude_modules=exclude, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(model, config)


def gradients(model: Any, objective: SpeechObjective, some: list[Any], rounds: int = 1) -> tuple[float, torch.Tensor]:
    trained = [one for one in model.parameters() if one.requires_grad]
    with objective.installed(model):
        for _ in range(rounds):
            loss = objective.loss(model, some, CPU)
            found = torch.autograd.grad(loss, trained)
    return loss.item(), torch.cat([one.flatten() for one in found])


@pytest.mark.parametrize("exclude", [r"model\.encoder\..*", None])
def test_losses_and_gradients_are_those_of_the_plain_way(
    exclude: str | None, speech: Path, examples: list[Any]
) -> None:
    model = adapted(speech, exclude).train()
    fast, plain = SpeechObjective(0, plain=False), SpeechObjective(0)
    wanted = gradients(model, plain, examples)
    for rounds in (1, 2):  # the second out of what was kept
        found = gradients(model, fast, examples, rounds)
        assert found[0] == pytest.approx(wanted[0], rel=1e-5)
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5)
    alone = sum(gradients(model, fast, [one])[0] for one in examples)
    assert alone == pytest.approx(wanted[0], rel=1e-5)  # padding changes nothing
    for objective in (fast, plain):
        with objective.installed(model.eval()):
            scores = objective.scores(model, examples, CPU)
        assert scores[:, 0].sum().item() == pytest.approx(wanted[0], rel=1e-5)
        assert scores[:, 2].tolist() == [one.supervised.count(1) for one in examples]


def test_the_loss_is_that_of_transformers_labels(speech: Path, examples: list[Any]) -> None:
    model, one = adapted(speech).eval(), examples[2]
    ids = torch.tensor([list(one.ids)])
    labels = torch.where(torch.tensor([list(one.supervised)]) > 0, ids, -100)[:, 1:]
    objective = SpeechObjective(0)
    heard = objective.heard(model, [one], CPU)
    with torch.no_grad():
        wanted = model(**heard, decoder_input_ids=ids[:, :-1], labels=labels).loss.item()
        found = objective.loss(model, [one], CPU).item() / objective.targets([one])
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_frozen_encoder_hears_each_clip_once(
    speech: Path, examples: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, heard = adapted(speech), list[int]()
    model.get_base_model().get_encoder().register_forward_hook(
        lambda part, given, out: heard.append(len(out.last_hidden_state))
    )
    objective = SpeechObjective(0, plain=False)
    with objective.installed(model):
        objective.loss(model, examples[:4], CPU).backward()
        objective.loss(model, examples, CPU).backward()
        with torch.inference_mode():
            objective.scores(model, examples, CPU)
    assert heard == [4, 2]
    monkeypatch.setattr("peft_nb.training.speech_objective.memory_available_mb", lambda: 0.0)
    assert gradients(model, objective, examples, 2)[0] == pytest.approx(gradients(model, objective, examples)[0])
    other = adapted(speech, None)
    with objective.installed(other):
        assert not objective.states.at_work


def test_what_is_faster_is_taken_only_where_it_gives_the_same(
    speech: Path, examples: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(speech)
    assert str(choose(model, examples, CPU, SpeechObjective(0), fast=True)) == "clips of 30 s, loss without logits"
    off = choose(model, examples, CPU, SpeechObjective(0), fast=False)
    assert str(off) == "clips of 30 s, plain forward pass (fast is off)"
    monkeypatch.setattr(
        "peft_nb.training.speech_objective.EncoderStates.of",
        lambda self, model, some, device: torch.zeros(len(some), 100, 32),
    )
    wrong = choose(model, examples, CPU, SpeechObjective(0), fast=True)
    assert wrong.plain
    assert wrong.reason.startswith("what is faster differed on a few clips, the loss by ")
