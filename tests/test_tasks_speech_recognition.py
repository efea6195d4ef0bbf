"""A run on clips from the first row to the saved adapter: told, measured, stopped, resumed, merged, asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import peft_nb
from peft_nb.data.detection import detect
from peft_nb.errors import DataError, ModelError, RunError, SpecError
from peft_nb.events import Sampled
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.store import Store
from peft_nb.tasks import TASKS, proposed
from peft_nb.ui import status, summary
from peft_nb.ui.live import view_of
from tests import speech as clips
from tests.conftest import few, stop_at

METHODS = ("lora", "dora", "ia3", "bottleneck", "bitfit", "full", "qlora")


def test_a_run_learns_and_is_measured_and_told(listener: Run) -> None:
    metrics = listener.metrics
    assert metrics["eval_loss"] < metrics["base_eval_loss"]
    assert metrics["token_accuracy"] > metrics["base_token_accuracy"]
    assert metrics["perplexity"] > 1
    assert metrics["path"] == "clips of 30 s, loss without logits"
    assert metrics["verdict"].startswith("passed")
    sampled = [event for event in listener.events() if isinstance(event, Sampled)]
    assert {event.step for event in sampled} == {0, 20, 40}
    view = view_of(listener)
    page = summary.html(view, metrics) + status.samples(view)
    assert page.count("<audio ") == len(view.clips)
    assert "word error rate (word_error_rate)" in page
    assert len(page) < 200_000


def test_clips_in_any_container_are_asked_about(listener: Run, tmp_path: Path) -> None:
    tone = clips.sound("low high")
    file = clips.write(tmp_path / "one.flac", tone)
    sound = {"array": tone, "sampling_rate": clips.RATE}
    found = listener.predict([str(file), sound])
    assert list(found.columns) == ["audio", "text", "seconds"]
    assert found.audio.tolist() == [str(file), "clip 1"]
    assert found.text[0] == found.text[1] == listener.predict(file).text[0]
    assert found.seconds.tolist() == [0.5, 0.5]
    long = {"array": numpy.concatenate([tone, numpy.zeros(20_000, "float32")] * 3), "sampling_rate": clips.RATE}
    assert listener.predict(long).text[0]
    assert len(listener.predict([])) == 0
    with pytest.raises(RunError, match=r"^a clip there is no file 'none.wav'; correct the path"):
        listener.predict("none.wav")
    with pytest.raises(RunError, match="writes down speech and answers no prompts; call predict"):
        listener.generate("What is it?")


def test_a_long_clip_is_cut_where_it_is_quiet() -> None:
    from peft_nb.tasks.speech_recognition import _parts

    loud, quiet = numpy.ones(24_000, "float32"), numpy.zeros(4_000, "float32")
    whole = numpy.concatenate([loud, quiet, loud, quiet, loud])
    parts = _parts(whole, 32_000)
    assert numpy.concatenate(parts).tolist() == whole.tolist()
    assert all(len(part) <= 32_000 for part in parts)
    assert 24_000 <= len(parts[0]) <= 28_000


def test_plain_peft_loads_what_was_saved(listener: Run, speech: Path, tmp_path: Path) -> None:
    folder = listener.save(tmp_path / "adapter")
    lines = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    file = clips.write(tmp_path / "one.wav", clips.sound("mid low"))
    lines = lines.replace("path/to/this/folder", str(folder)).replace("path/to/a/clip.wav", str(file))
    lines = lines.replace(f'"path/to/{speech.name}"', repr(str(speech)))
    seen: dict[str, Any] = {}
    exec(lines, seen)
    found = seen["tokenizer"].batch_decode(seen["made"], skip_special_tokens=True)[0].strip()
    assert found == listener.predict(file).text[0]


def test_a_merged_model_says_the_same(listener: Run, tmp_path: Path) -> None:
    merged = listener.merge(tmp_path / "merged")
    assert merged.table.KL.max() < 1e-6
    from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq, AutoTokenizer

    assert AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "merged").generation_config.suppress_tokens
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "merged").feature_size == 16
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")


def test_two_runs_are_compared_on_clips(listener: Run, train_speech: Callable[..., Run]) -> None:
    other = train_speech(max_steps=20, eval_steps=20, eval_fraction=0.2, freeze_encoder=False, seed=43)
    compared = peft_nb.compare(listener, other)
    page = compared._repr_html_()
    assert page.count("<audio ") >= 2
    assert "word error rate" in page


def test_a_run_goes_on_where_it_stopped_without_its_clips(train_speech: Callable[..., Run]) -> None:
    whole, part = train_speech(max_steps=6), train_speech(stop_at(3), max_steps=6)
    assert part.status == "stopped"
    again = peft_nb.load(part.id, store=part.store).resume()
    assert again.status == "finished"
    losses, wanted = (one.history.loss.dropna().tolist() for one in (again, whole))
    assert losses == pytest.approx(wanted, rel=1e-5)


@pytest.mark.exhaustive
def test_two_processes_learn_of_clips_what_one_does(speech: Path, tmp_path: Path) -> None:
    fields = {"model": str(speech), "language": "en", "dtype": "float32", "batch_size": 4, "max_steps": 4}
    data, other = (str(clips.folder(tmp_path / name, count)) for name, count in (("clips", 16), ("other", 4)))
    spec = RunSpec(data=data, regression=other, eval_fraction=0.25, learning_rate=1e-2, seed=3, **fields)
    alone, both = (
        begin(spec, store=Store(tmp_path / on[:4]), place=Place.of(on=on)).wait() for on in ("here", "local:2")
    )
    assert both.status == "finished"
    losses, wanted = (run.history.loss.dropna().tolist() for run in (both, alone))
    assert losses == pytest.approx(wanted, rel=1e-3)
    for metric in ("eval_loss", "base_eval_loss", "word_error_rate", "forgetting", "regression_word_error_rate"):
        assert both.metrics[metric] == pytest.approx(alone.metrics[metric], rel=1e-3, abs=1e-4), metric
    clip = str(tmp_path / "clips" / "00.wav")
    assert both.predict(clip).text[0] == alone.predict(clip).text[0]


@pytest.mark.parametrize("method", few(METHODS, "lora", "bottleneck"))
def test_every_method_that_fits_lowers_the_loss_by_the_decoder_alone_and_opens_again(
    method: str, train_speech: Callable[..., Run]
) -> None:
    run = train_speech(method=method, max_steps=6, judge="off")
    assert run.metrics["eval_loss"] < run.metrics["base_eval_loss"]
    assert run.metrics["path"] == "clips of 30 s, loss without logits"
    trained = [name for name, one in run.model.named_parameters() if one.requires_grad]
    assert trained
    assert not any(".encoder." in name for name in trained)
    again = peft_nb.load(run.id, store=run.store)
    sound = {"array": clips.sound("low"), "sampling_rate": clips.RATE}
    assert run.predict(sound).text[0] == again.predict(sound).text[0]


def test_what_is_faster_gives_the_same_and_an_encoder_may_learn_too(
    train_speech: Callable[..., Run], listener: Run
) -> None:
    fast, slow = (train_speech(max_steps=3, judge="off", fast=fast) for fast in (True, False))
    assert slow.metrics["path"] == "clips of 30 s, plain forward pass (fast is off)"
    assert slow.metrics["eval_loss"] == pytest.approx(fast.metrics["eval_loss"], rel=1e-4)
    for run, learns in ((fast, False), (listener, True)):
        names = [name for name, _ in run.model.named_parameters() if "lora_A" in name]
        assert any(".encoder." in name for name in names) == learns


def test_clips_choose_their_task_and_its_model() -> None:
    spec = proposed(RunSpec(data="x"), detect(clips.rows(3)))
    assert (spec.task, spec.model) == ("speech-recognition", "whisper-tiny-en")
    with pytest.raises(DataError, match=r"learns what is said in clips; say which columns hold clips and texts"):
        TASKS["speech-recognition"].validate(detect([{"text": "x", "label": "a"}]), RunSpec(data="x"))
    with pytest.raises(SpecError, match="too_long: a clip cannot be split"):
        begin(RunSpec(data="x", task="speech-recognition", too_long="split"), data=clips.rows(3))
    with pytest.raises(SpecError, match="language: task classification has no use for it; speech-recognition has"):
        begin(RunSpec(data="x", task="classification", language="en"), data=[{"text": "x", "label": "a"}] * 3)


def test_a_language_is_said_where_a_model_knows_several(train_speech: Callable[..., Run]) -> None:
    with pytest.raises(ModelError, match="knows several; say which is spoken, such as language: en"):
        train_speech(language=None)
    with pytest.raises(ModelError, match="has none called 'xx'"):
        train_speech(language="xx")
    rows = [{**row, "language": "de-DE"} for row in clips.rows(12)]
    run = train_speech(data=rows, max_steps=1, judge="off")
    assert run.facts.task["language"] == "en"


def test_a_model_with_ctc_is_refused_in_a_line(tmp_path: Path) -> None:
    from safetensors.numpy import save_file
    from transformers import Wav2Vec2Config

    Wav2Vec2Config(architectures=["Wav2Vec2ForCTC"]).save_pretrained(tmp_path / "wav2vec2")
    save_file({"weight": numpy.zeros(1)}, tmp_path / "wav2vec2" / "model.safetensors")
    told = (
        r"is a wav2vec2 model, which writes down speech by CTC, which is not supported; take another, such as whisper-"
    )
    with pytest.raises(ModelError, match=told):
        begin(RunSpec(data="x", task="speech-recognition", model=str(tmp_path / "wav2vec2")), data=clips.rows(3)).wait()
