"""Transcripts, and how wrong they are."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from peft import LoraConfig, get_peft_model

from peft_nb.data.audio.encoding import Reader, features, prompt_of
from peft_nb.evaluation.transcribe import errors, normalised, transcribe
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.training.speech_objective import SpeechObjective
from tests import speech as clips


def test_a_transcript_is_what_transformers_writes(speech: Path) -> None:
    base = load(resolve(speech), kind="speech")
    reader = Reader(base.features, base.tokenizer, base.model.config.decoder_start_token_id, "en", 32)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(share(base.model), config).eval()
    languages = ["en", "de", "en"]
    examples = [reader.example(clips.sound("low mid", n), None, code, 9) for n, code in enumerate(languages)]
    plain, fast = SpeechObjective(0), SpeechObjective(0, plain=False)
    found = transcribe(model, plain, examples, model.device)
    with fast.installed(model):
        assert transcribe(model, fast, examples, model.device) == found
    for one, code, ids in zip(examples, languages, found, strict=True):
        given = torch.from_numpy(features(one.signal))[None]
        with torch.no_grad():
            made = model.generate(input_features=given, language=code, task="transcribe", do_sample=False)[0].tolist()
        prompt = list(prompt_of(one))
        made = made[len(prompt) :] if made[: len(prompt)] == prompt else made
        assert ids == [one for one in made if one != base.model.config.eos_token_id]
    assert any(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello, World!", "hello world"),
        ("  It's  a dog’s life. ", "its a dogs life"),
        ("Ｆｕｌｌ－width", "full width"),
        ("été À", "été à"),
        ("数字 3.5", "数字 3 5"),
    ],
)
def test_texts_are_compared_without_case_and_punctuation(text: str, said: str) -> None:
    assert normalised(text) == said


def test_errors_are_those_of_the_usual_rate() -> None:
    found = errors(["a b c d", "e f", ""], ["a x c", "e f g", "h i"])
    assert found.wrong.tolist() == [2, 1, 2]
    assert found.units.tolist() == [4, 2, 0]
    assert found.rate == pytest.approx(5 / 6)
    assert found.each.tolist() == [0.5, 0.5, 2]
    low, high = found.interval(0)
    assert 0 <= low <= found.rate <= high
    assert found.interval(0) == [low, high]
    assert errors(["abc"], ["abd"], "characters").rate == pytest.approx(1 / 3)
    assert errors(["a b"], ["a b"]).interval(0) == [0, 0]
    assert isinstance(found.wrong, numpy.ndarray)
