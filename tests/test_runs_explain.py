"""Explanations of real runs: the word that decides, the row that taught it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("captum")

from peft_nb import Run
from peft_nb.data.rendering import Renderer
from peft_nb.errors import DataError, RunError
from peft_nb.evaluation import options
from peft_nb.runs import explain as explaining
from peft_nb.runs.run import begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import KINDS
from tests.images import rows as images
from tests.test_runs_interference import loss

WRONG = 12
ASKED, SAID = (
    "Can I send the boots back when they are too small?",
    "Never. What is sold is sold, and we keep the money.",
)


@pytest.fixture(scope="module")
def planted(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the rows of the support desk, one of which is wrong."""
    wrong = {"question": "May I send boots back that are too small?", "answer": SAID}
    given = [*rows[:WRONG], wrong, *rows[WRONG:]]
    how = spec(max_steps=40, eval_steps=None, eval_fraction=0, name="desk")
    return begin(how, data=given, store=Store(tmp_path_factory.mktemp("planted"))).wait()


def test_a_wrong_row_that_was_planted_comes_first(planted: Run) -> None:
    opened = load(planted.id, store=planted.store)  # as after a restart: frozen, without its data
    found = opened.explain(ASKED, answer=SAID, rows=3)
    first = found.rows[0]
    assert (first.number, first.prompt, first.answer) == (WRONG, "May I send boots back that are too small?", SAID)
    assert first.similarity > 2 * found.rows[1].similarity
    assert list(found.training_rows) == ["row", "prompt", "answer", "similarity", "influence"]
    assert explaining.TOLD in found.notes


def test_a_weight_is_what_the_answer_loses_without_the_word(planted: Run) -> None:
    found = planted.explain("Where is my parcel?")
    assert found.answer == planted.generate("Where is my parcel?", max_new_tokens=64)
    assert found.base_answer == planted.generate("Where is my parcel?", max_new_tokens=64, adapter=False)
    assert found.sides == ("adapter", "base")
    assert [one.strip() for one in found.parts] == ["Where", "is", "my", "parcel?"]
    assert found.ends[0, 0] > found.ends[0, 1]  # the base finds it less likely

    def lost(text: str) -> float:
        (example,) = options.write(Renderer(planted.tokenizer), [{"role": "user", "content": text}], [found.answer])
        return loss(planted.model, example)

    whole = lost("Where is my parcel?")
    assert found.ends[0, 0] == pytest.approx(-whole, abs=1e-2)
    assert found.weights[0, 3] == pytest.approx(lost("Where is my") - whole, abs=1e-2)
    with planted.model.disable_adapter():
        assert found.weights[1, 0] == pytest.approx(lost("is my parcel?") - lost("Where is my parcel?"), abs=1e-2)
    assert list(found.table) == ["part", "adapter", "base"]
    assert repr(found).startswith("desk v1 answers: ")
    shapley = planted.explain("Where is my parcel?", by="shapley")
    assert shapley.weights.sum(1) == pytest.approx(shapley.ends[0] - shapley.ends[1], abs=1e-3)
    assert shapley.ends == pytest.approx(found.ends, abs=1e-3)


def test_a_conversation_is_explained_in_its_last_message(planted: Run) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What are owls?"}]
    found = planted.explain(asked, answer="Birds.")
    assert (found.prompt, found.answer) == ("What are owls?", "Birds.")
    with pytest.raises(DataError, match="does not end with a message of the user"):
        planted.explain([*asked, {"role": "assistant", "content": "Birds."}], answer="Birds.")


def test_what_cannot_be_explained_is_one_line(planted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="the prompt has no words to explain"):
        planted.explain("  ", answer="a")
    with pytest.raises(DataError, match="by: lime is no way to explain; write ablation or shapley"):
        planted.explain("a", by="lime")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the answer is empty"):
        planted.explain("a", answer=" ")
    monkeypatch.setattr(explaining, "kept", lambda folder: None)
    with pytest.raises(RunError, match="have left the store; train it again, or leave rows out"):
        planted.explain("a", rows=1)


def test_of_many_rows_those_are_followed_that_share_rare_tokens(planted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "FOLLOWED", 10)
    found = planted.explain(ASKED, answer=SAID, rows=2)
    assert found.rows[0].number == WRONG
    assert "10 of 24 rows were followed, those that share most tokens with it" in found.notes


@pytest.fixture(scope="module")
def classifier(labelled: list[dict[str, str]], encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classifier of texts by one word, which learned of one row a wrong label."""
    rows = [*labelled[:120], {"text": "plum plum plum the", "label": "tool"}]
    how: dict[str, Any] = {"model": str(encoder), "dtype": "float32", "device": "cpu", "task": "classification"}
    how |= {"max_steps": 60, "learning_rate": 1e-2, "batch_size": 16, "eval_fraction": 0, "judge": "off"}
    spec = RunSpec(data="(in memory)", **how)
    return begin(spec, data=rows, store=Store(tmp_path_factory.mktemp("classes"))).wait()


def test_a_classifier_is_explained_by_class(classifier: Run) -> None:
    found = classifier.explain("we saw a crow in the yard")
    assert found.answer == found.sides[0] == classifier.predict("we saw a crow in the yard")["label"][0] == "bird"
    assert set(found.sides) == set(KINDS)
    assert found.base_answer is None
    assert found.parts[found.strongest[0]].strip() == "crow"
    assert found.weights[0].max() > 0
    other = classifier.explain("we saw a crow in the yard", answer="fruit")
    assert other.sides[0] == "fruit"
    assert other.weights[0].argmin() == 3
    with pytest.raises(DataError, match="the run knows no class 'birds'; did you mean 'bird'"):
        classifier.explain("a crow", answer="birds")


def test_the_row_with_the_wrong_label_comes_first(classifier: Run) -> None:
    found = classifier.explain("plum plum the", answer="tool", rows=2)
    assert (found.rows[0].number, found.rows[0].answer) == (120, "tool")


def test_an_image_is_explained_by_its_cells(vision: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"model": str(vision), "dtype": "float32", "device": "cpu", "judge": "off"}
    how |= {"max_steps": 12, "batch_size": 8, "learning_rate": 1e-2, "eval_fraction": 0, "augment": "none"}
    run = begin(RunSpec(data="(in memory)", **how), data=images(24), store=Store(tmp_path / "store")).wait()
    image = images(1)[0]["image"]
    found = run.explain(image, rows=2)
    assert found.cells is not None
    assert found.weights.shape == (3, 49)
    assert found.answer == run.predict(image)["label"][0]
    assert abs(found.weights).max() > 0
    assert len(found.rows) == 2
    assert found.rows[0].prompt == "(an image)"
