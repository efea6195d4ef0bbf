"""What a step of a model of two stacks takes, by models of few layers, beside the whole model's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from peft_nb.data import table as tables
from peft_nb.data.audio.encoding import Reader
from peft_nb.methods import attach, complete
from peft_nb.models.load import load
from peft_nb.models.meta import load_meta, of_stacks
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.planning.layer_benchmark import Costs, _kept
from peft_nb.planning.plan import Plan
from peft_nb.planning.stacks_benchmark import _Few, benchmark_stacks, depths
from peft_nb.spec import RunSpec
from peft_nb.training.speech_objective import EncoderStates, SpeechObjective
from tests import speech as clips

CPU = torch.device("cpu")


def described(speech: Path, **fields: Any) -> RunSpec:
    fields = {"task": "speech-recognition", "language": "en", "dtype": "float32", "batch_size": 4, **fields}
    return complete(RunSpec(data="clips", model=str(speech), **fields))


@pytest.mark.parametrize("freeze", [True, False])
def test_few_layers_tell_what_the_whole_model_keeps_and_hears(freeze: bool, speech: Path) -> None:
    spec = described(speech, freeze_encoder=freeze)
    base, wanted = load_meta(resolve(speech), kind="speech"), SpeechObjective(0, plain=False)
    reader = Reader(base.features, base.tokenizer, base.model.config.decoder_start_token_id, "en", 32)
    batch = [reader.example(clips.sound(row["text"], n), row["text"], "", 9) for n, row in enumerate(clips.rows(4))]
    models = [attach(share(of_stacks(base, *layers).model), spec, "", peft_type="") for layers in depths((2, 2))]
    ways = [replace(wanted, states=EncoderStates()) for _ in models]
    found = benchmark_stacks(models, ways, batch, (2, 2), 1.0, CPU, "adamw_torch")
    whole = _Few(attach(share(load(resolve(speech), kind="speech").model), spec, "", peft_type=""), wanted, batch, CPU)
    with wanted.installed(whole.model.train()):
        whole.loss().backward()
        assert found.kept_bytes == pytest.approx(_kept(whole.model, whole), rel=0.02)
        states = wanted.states.of(whole.model, batch, CPU) if freeze else torch.zeros(len(batch), 0)
    assert found.once_bytes == states[0].nbytes
    assert (found.once_s > 0) == freeze
    assert 0 < found.forward_s < found.both_s
    assert found.slowdown >= 1


def test_a_run_on_clips_is_foreseen_with_what_its_encoder_is_kept_for(speech: Path) -> None:
    costs = Costs(50.0, forward_s=1e-5, both_s=3e-5, head_s=0.0, optimizer_s=0.0, once_s=0.01, once_bytes=2e6)
    base = load_meta(resolve(speech), kind="speech")
    spec = described(speech, epochs=4, eval_fraction=0.25, eval_steps=1000)
    facts: dict[str, Any] = {}
    from peft_nb.tasks import TASKS

    TASKS[spec.task].limit(base, spec, facts)

    def plan(costs: Costs, room: float = 4000.0) -> Plan:
        return Plan(spec, base, tables.read(spec, clips.rows(16)), facts, room, 500, {2048: costs})

    bare, kept = (plan(one).forecast() for one in (replace(costs, once_s=0.0, once_bytes=0.0), costs))
    assert (bare.untimed, kept.steps) == ("", 12)
    assert kept.activations_mb - bare.activations_mb == pytest.approx(16 * 2)
    assert kept.seconds - bare.seconds == pytest.approx(12 * 0.01, rel=1e-3)
    assert kept.evaluation_seconds - bare.evaluation_seconds == pytest.approx(4 * 0.01, rel=1e-3)
    short = plan(costs, room=500 + 4 * 16 + plan(costs).weights / 1e6).forecast()  # a quarter holds half of the states
    assert short.seconds - bare.seconds == pytest.approx((12 + 0.5 * 36) * 0.01, rel=1e-3)
