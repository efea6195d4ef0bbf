"""New rows of the same kind and of another one, for real runs on two kinds of words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from peft_nb import Run
from peft_nb.data import language
from peft_nb.errors import DataError, RunError
from peft_nb.runs.run import begin
from peft_nb.runs.watch import Found, history, watch
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests import images, speech
from tests.conftest import KINDS

TONGUE = "language" if language.known() else "script"


def prompts(kind: str, seed: int, count: int = 30) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(KINDS[kind], k=draw.randrange(3, 8))) for _ in range(count)]


def changed(found: Found) -> list[str]:
    return [one.name for one in found.tests if one.alarm]


@pytest.fixture(scope="module")
def look(kinds: dict[str, Run], encoder: Path) -> Callable[..., Found]:
    return lambda rows, run="fruit", **how: watch(kinds[run], rows, encoder=str(encoder), **how)


@pytest.fixture(scope="module")
def classifier(labelled: list[dict[str, str]], encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    told = RunSpec(
        **{"data": "(in memory)", "task": "classification", "model": str(encoder), "device": "cpu", "max_steps": 150},
        **{"learning_rate": 1e-2, "eval_fraction": 0.2, "judge": "off"},
    )
    return begin(told, data=labelled[:120], store=Store(tmp_path_factory.mktemp("classifier"))).wait()


def test_rows_of_the_same_kind_raise_no_alarm_and_are_logged(look: Callable[..., Found], kinds: dict[str, Run]) -> None:
    found = look(prompts("fruit", 5))
    assert not found.drifted
    assert (found.run, found.rows, found.step) == ("fruit v1", 30, "nothing")
    assert [one.name for one in found.tests] == ["inputs", "topics", "length", TONGUE]
    assert list(found.table) == ["what", "before", "now", "distance", "p", "alarm"]
    run = kinds["fruit"]
    entry = run.store.log()[0]
    assert (entry.action, entry.run, entry.why) == ("watch", run.id, "30 rows: no change")
    kept = {one.measure: one.detail for one in run.store.evaluations(run.id) if one.suite == "watch"}
    assert kept.keys() == {"inputs", "topics", "length", TONGUE}
    assert kept["inputs"]["alarm"] is False
    assert run.store.get(run.id).metrics["watched"] == "no change"


def test_other_inputs_are_seen_and_wait_for_answers(look: Callable[..., Found]) -> None:
    found = look(prompts("tool", 5))
    assert changed(found)[0] == "inputs"
    assert found.step == "label"
    assert {word for topic in found.topics for word in topic.words} <= set(KINDS["tool"])
    assert found.topics[0].before == 0
    assert found.topics[0].now > 5
    assert {word for word, *_ in found.words} <= set(KINDS["tool"])
    assert len(found.words) >= 3
    new, old, similarity = found.new[0]
    assert set(new.split()) <= set(KINDS["tool"])
    assert set(old.split()) <= set(KINDS["fruit"])
    assert similarity == min(one[2] for one in found.new)
    assert "length" in changed(look([f"{one} {one} {one} {one}" for one in prompts("fruit", 6)]))
    fish = look(["щука и окунь уже не умеют плавать"] * 30)
    assert TONGUE in changed(fish)
    assert ("ru 100%" if language.known() else "CYRILLIC 100%") in fish.table.set_index("what").now[TONGUE]
    assert fish.notes == (() if language.known() else (language.MISSING,))


def test_answers_tell_whether_the_loss_has_risen(look: Callable[..., Found]) -> None:
    right = [{"prompt": one, "completion": "fruit"} for one in prompts("fruit", 7)]
    found = look(right)
    assert found.tests[-1].name == "loss"
    assert "loss" not in changed(found)
    wrong = look([row | {"completion": "Ahoy! Come by again."} for row in right])
    assert "loss" in changed(wrong)
    assert wrong.step in ("retrain", "roll back")
    assert "retrain fruit with these rows, %%peft lora --data ROWS --init-adapter fruit" in wrong.why
    assert float(wrong.tests[-1].now.split()[0]) > float(wrong.tests[-1].before.split()[0])


def test_each_time_is_kept(look: Callable[..., Found], kinds: dict[str, Run]) -> None:
    before = history(kinds["tool"])
    look(prompts("tool", 5), run="tool")
    look(prompts("fruit", 5), run="tool")
    after = history(kinds["tool"]).iloc[len(before) :]
    assert after["at"].nunique() == 2
    assert list(after["what"]) == ["inputs", "topics", "length", TONGUE] * 2
    assert list(after.loc[after["what"] == "inputs", "alarm"]) == [False, True]


def test_the_log_of_a_server_is_read(look: Callable[..., Found], tmp_path: Path) -> None:
    def log(**more: Any) -> Path:
        file = tmp_path / f"{len(more)}.jsonl"
        lines = [{"at": "now", "version": "fruit v1", **dict.fromkeys(more, one)} for one in prompts("tool", 8)]
        file.write_text("\n".join(map(json.dumps, lines)))
        return file

    found = look(log(asked=True))
    assert changed(found)[0] == "inputs"
    assert [one.name for one in found.tests][-1] == TONGUE
    refused = dict.fromkeys(("asked", "answer"), True)
    file = log(**refused)
    lines = [json.loads(line) | {"answer": "Sorry, I cannot help."} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, lines)))
    tests = {one.name: one for one in look(file).tests}
    assert "refusal 100%" in tests["refusals"].now
    assert tests["refusals"].p < 0.05
    assert {"length of answers", "probability of answers"} < tests.keys()
    with pytest.raises(DataError, match="the log holds no texts; serve with --log-texts"):
        look(log())


def test_what_cannot_be_watched_is_one_line(look: Callable[..., Found]) -> None:
    with pytest.raises(DataError, match="2 rows are too few there are to watch; 8 or more"):
        look(["plum", "fig"])
    with pytest.raises(DataError, match="these rows are none that generation learns from"):
        look([{"text": one, "label": "a"} for one in prompts("fruit", 9)])


def test_without_the_package_scripts_are_compared_and_that_is_said(
    look: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "known", lambda: False)
    found = look(prompts("fruit", 5))
    assert [one.name for one in found.tests][-1] == "script"
    assert found.notes == ("languages were not told apart, only scripts; pip install 'peft_nb[languages]' adds them",)


def test_a_classifier_of_texts_is_watched_by_its_classes_and_its_loss(
    classifier: Run, labelled: list[dict[str, str]], encoder: Path
) -> None:
    told = {one.name: one for one in watch(classifier, labelled[200:260], encoder=str(encoder)).tests}
    assert {"classes given", "probability given", "loss"} < told.keys()
    assert told["loss"].now.endswith("nats per text")
    fruit = [row for row in labelled[200:] if row["label"] == "fruit"][:60]
    found = watch(classifier, [*fruit, {"text": "a bird", "label": "bird of prey"}], encoder=str(encoder))
    assert "classes given" in changed(found)
    assert found.notes[0].startswith("1 of 61 rows are of classes that it does not know: bird of prey (1)")


def test_images_are_watched_by_what_the_base_sees(spec: Callable[..., RunSpec], vision: Path, store: Store) -> None:
    rows = images.rows(150)
    told = spec(task="image-classification", model=str(vision), max_steps=10, eval_fraction=0.2)
    run = begin(told, data=rows[:75], store=store).wait()
    same = watch(run, rows[75:])
    assert not same.drifted
    assert [one.name for one in same.tests][:3] == ["inputs", "topics", "brightness"]
    assert same.tests[-1].name == "loss"
    assert same.tests[-1].now.endswith("nats per image")
    found = watch(run, [row["image"].point(lambda value: 255 - value) for row in rows[75:]])
    assert {"inputs", "brightness"} <= {*changed(found)}
    assert found.step == "label"
    assert found.new[0][0].startswith("image ")


def test_clips_are_watched_by_what_the_base_hears(listener: Run) -> None:
    pytest.importorskip("soundfile")
    same = watch(listener, speech.rows(96)[48:])
    assert not same.drifted
    assert {"inputs", "length", "words written", "loss"} <= {one.name for one in same.tests}
    draw = numpy.random.default_rng(0)
    noise = [{"array": draw.normal(0, 0.3, 24_000).astype("float32"), "sampling_rate": speech.RATE} for _ in range(24)]
    found = watch(listener, noise)
    assert {"inputs", "length"} <= {*changed(found)}
    assert found.new[0][0].startswith("clip ")


def test_what_draws_is_refused(drawing: Path, store: Store) -> None:
    pytest.importorskip("diffusers")
    rows = [{"image": row["image"], "text": f"a {row['label']}"} for row in images.rows(8)]
    told = RunSpec(data="(in memory)", model=str(drawing), device="cpu", task="text-to-image", max_steps=1)
    run = begin(told, data=rows, store=store).wait()
    with pytest.raises(RunError, match="draws images; runs that read texts, images or speech are watched so far"):
        watch(run, ["a"] * 8)
