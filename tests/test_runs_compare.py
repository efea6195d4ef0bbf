"""Runs compared on a tiny base: three adapters and the base, really trained and really asked."""

from __future__ import annotations

import json
import math
import re
import shutil
import weakref
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from peft_nb import Comparison, Run, RunSpec, compare, load
from peft_nb.data.prompts import KEPT, Asked
from peft_nb.errors import DataError, RunError, StoreError
from peft_nb.metrics import comparable
from peft_nb.models import load as bases
from peft_nb.runs import model as run_model
from peft_nb.runs.compare import Compared, gather
from peft_nb.runs.run import begin
from peft_nb.store import Store
from peft_nb.ui.differences import clean
from tests.conftest import file_size_limit
from tests.stores import finish

Spec = Callable[..., RunSpec]
Rows = list[dict[str, str]]
HOSTILE = '<script>alert("x")</script> </div> & \x1b[31m مرحبا بالعالم 👩🏽‍🚀 ' + "w" * 3000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def runs(spec: Spec, rows: Rows, store: Store) -> list[Run]:
    """Three runs named calm, short and wide, on the same rows."""
    kinds: list[dict[str, Any]] = [{"name": "calm", "max_steps": 30}, {"name": "short"}, {"name": "wide", "r": 32}]
    return [begin(spec(**kind), data=rows, store=store).wait() for kind in kinds]


@pytest.fixture(scope="module")
def four(runs: list[Run]) -> Comparison:
    return compare(*runs, "base", max_new_tokens=12)


class Page(HTMLParser):
    """The elements and the texts of a page, and what was left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inserted: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("br", "img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "br":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "ins" in self.open:
            self.inserted.append(data)


def hostile(text: str = HOSTILE) -> Comparison:
    facts = {name: {"method": "lora", "model": text, "data": text, "eval_loss": 1.0} for name in ("a", text)}
    answers = {"a": [text], text: [text + " more"], "base": [""]}
    return Comparison(Compared(dict.fromkeys(facts), facts, {}, [Asked(text, text)], answers, {}, [text]))


def test_every_run_answers_the_held_out_rows_as_it_does_alone(four: Comparison, runs: list[Run], rows: Rows) -> None:
    answers = four.answers
    assert list(answers.columns) == ["reference", "calm", "short", "wide", "base"]
    held_out = json.loads((runs[0].folder / "examples.json").read_text())["held_out"]
    assert 1 < len(held_out) <= KEPT
    assert answers.index.tolist() == [rows[number]["question"] for number in held_out]
    assert answers["reference"].tolist() == [rows[number]["answer"] for number in held_out]
    asked = answers.index.tolist()
    for run in runs:
        assert answers[run.spec.name].tolist() == run.generate(asked, max_new_tokens=12)
    assert answers["base"].tolist() == runs[0].generate(asked, adapter=False, max_new_tokens=12)
    assert len({tuple(answers[name]) for name in four.names}) > 2


def test_draws_are_seeded_alike(runs: list[Run]) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0, "seed": 5}
    drawn = compare("base", runs[1], prompts="Hello", **options)
    assert drawn.answers["short"].tolist() == runs[1].generate(["Hello"], **options)
    assert drawn.answers["base"].tolist() == runs[1].generate(["Hello"], adapter=False, **options)
    assert "answers: sampled at temperature 1.0, seed 5, at most 6 new tokens" in drawn.notes


def test_the_table_has_a_row_a_run_and_a_column_for_what_was_measured(four: Comparison, runs: list[Run]) -> None:
    table = four.table
    assert table.index.tolist() == ["calm", "short", "wide", "base"]
    assert list(table.columns)[:4] == ["method", "model", "data", "eval_loss"]
    assert set(table.columns) <= {"method", "model", "data", *comparable()}
    for run in runs:
        assert table.loc[run.spec.name, "eval_loss"] == run.metrics["eval_loss"]
        assert table.loc[run.spec.name, "adapter_mb"] == run.metrics["adapter_mb"]
    assert table.loc["base", "eval_loss"] == runs[0].metrics["base_eval_loss"]
    assert table.loc["base", "token_accuracy"] == runs[0].metrics["base_token_accuracy"]
    assert table.loc["base", "perplexity"] == pytest.approx(math.exp(runs[0].metrics["base_eval_loss"]))
    assert table.loc["base"].isna()["adapter_mb"]
    assert table["trainable_parameters"].dtype == float


def test_the_base_has_forgotten_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = finish(store, "tickets", "data: rows\n", eval_loss=1.0, base_eval_loss=2.0, perplexity=2.7, forgetting=0.4)
    table = compare(id, "base", prompts=[], store=store).table
    assert table["forgetting"].tolist() == [0.4, 0]
    assert table["perplexity"].tolist() == [2.7, pytest.approx(7.389, abs=1e-3)]


def test_the_stage_is_told_from_the_first_moment(runs: list[Run]) -> None:
    told: list[tuple[float, str]] = []
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 0.0, "seed": 0}
    gather({"short": runs[1], "base": None}, ["Hello"], lambda share, what: told.append((share, what)), **options)
    assert told[:2] == [(0, "reading the runs"), (0, "short: generating answers")]  # it is in memory
    assert (1 / 8, "short: generating answers") in told
    assert told[-1][1] == "base model: generating answers"
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_settings_that_differ_are_shown(four: Comparison) -> None:
    assert "  r: calm 16, short 16, wide 32" in repr(four).splitlines()
    assert "Settings that differ (2)" in Page(four._repr_html_()).text


def test_best_knows_which_way_is_better(four: Comparison, runs: list[Run]) -> None:
    assert four.best() is min(runs, key=lambda run: run.metrics["eval_loss"])
    assert four.best(by="trainable_parameters") is runs[0]
    facts = {"a": {"score": 0.1}, "b": {"score": 0.3}, "base": {"score": 0.9}}
    known = Compared({"a": runs[0], "b": runs[1], "base": None}, facts)
    assert Comparison(known).best("score") is runs[1]
    with pytest.raises(RunError, match=r"^eval_los is no measure; did you mean 'eval_loss'\?$"):
        four.best(by="eval_los")
    with pytest.raises(
        RunError, match=r"^latency_ms was not measured; choose eval_loss, .*train_loss, trainable_param"
    ):
        four.best(by="latency_ms")


def test_one_run_alone_is_compared_with_its_base_and_twice_the_same_is_once(runs: list[Run]) -> None:
    assert compare(runs[0], prompts=[]).names == ["calm", "base"]
    assert compare(runs[0], runs[0], runs[0].id, "base", prompts=[], store=runs[0].store).names == ["calm", "base"]


def test_runs_of_one_name_are_called_by_their_ids(runs: list[Run], spec: Spec, rows: Rows) -> None:
    again = begin(spec(name="calm", max_steps=1), data=rows, store=runs[0].store).wait()
    assert compare(runs[0], again, runs[1], prompts=[]).names == [runs[0].id, again.id, "short"]


def test_models_are_released_one_by_one_and_a_loaded_one_stays(
    runs: list[Run], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []
    alive: list[int] = []
    held: set[int] = set()
    original = run_model.adapted

    def watched(*given: Any) -> Any:
        alive.append(sum(one() is not None for one in loaded))
        model = original(*given)
        loaded.append(weakref.ref(model))
        held.add(bases.loaded_bytes())
        return model

    monkeypatch.setattr(run_model, "adapted", watched)
    mine = load("short", store=store)
    model = mine.model
    compare(*(run.id for run in runs[::2]), mine, prompts=["Hello"], max_new_tokens=2, store=store)
    assert alive == [0, 1, 1]  # mine, and no other
    assert [one() for one in loaded] == [model, None, None]
    assert mine.model is model
    assert len(held) == 1  # and one base for all


def test_what_cannot_be_compared_is_one_line(runs: list[Run], store: Store) -> None:
    with pytest.raises(RunError, match="^a comparison needs a run; name one or more, beside base$"):
        compare("base")
    with pytest.raises(StoreError, match="there is no run 'clam' in .*; did you mean 'calm'"):
        compare("clam", store=store)
    for prompts, said in (
        ({"a": 1}, "^prompts: a dict is no list of texts; give a list of texts, such as"),
        (7, "^prompts: a int is no list"),
        (["Hello", " "], "^prompts: number 1 is empty; give a text, or a list of messages$"),
        ([3], "^prompts: number 0 is a int; give"),
        ([[{"role": "user"}]], "^prompts: number 0 is a list; give"),
    ):
        with pytest.raises(DataError, match=said):
            compare(*runs, prompts=prompts)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="^prompts: a DataFrame is no list of texts"):
        compare(*runs, prompts=runs[0].history)  # type: ignore[arg-type]


def test_conversations_can_be_asked(runs: list[Run]) -> None:
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "?"},
    ]
    shown = compare(*runs[:2], prompts=[talk, "Hi"], max_new_tokens=4)
    assert shown.answers.index.tolist() == ["user: Hi\nassistant: Yes?\nuser: ?", "Hi"]
    assert shown.answers["calm"].tolist() == runs[0].generate([talk, "Hi"], max_new_tokens=4)


def test_runs_on_different_bases_are_compared_by_their_metrics_alone(
    runs: list[Run], spec: Spec, rows: Rows, base: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    strange = begin(spec(model=str(other), max_steps=1), data=rows, store=Store(tmp_path / "store")).wait()
    with pytest.raises(RunError) as raised:
        compare(runs[0], strange)
    assert f"calm is on {runs[0].facts.base} and {strange.id} is on {strange.facts.base}" in str(raised.value)
    assert str(raised.value).endswith("to compare their metrics alone, pass prompts=[]")
    shown = compare(runs[0], strange, prompts=[])
    assert shown.answers.empty
    assert shown.table.loc[strange.id, "eval_loss"] == strange.metrics["eval_loss"]
    with pytest.raises(RunError, match="^eval_loss does not tell which run is better: the bases differ"):
        shown.best()
    assert shown.best(by="train_seconds") in (runs[0], strange)


def test_answers_that_were_scored_differently_rank_nothing(spec: Spec, rows: Rows, store: Store) -> None:
    few: dict[str, Any] = {"accept": {"score": ">= 0"}, "judge": "quick", "max_steps": 1, "regression": None}
    kinds = [spec(**few, name=score.replace("_", "-"), score=score) for score in ("rouge_l", "exact_match")]
    shown = compare(*(begin(kind, data=rows, store=store).wait() for kind in kinds), prompts=[])
    with pytest.raises(RunError, match="^score does not tell .*: answers were scored .* rouge-l by rouge_l, exact"):
        shown.best(by="score")


def test_different_held_out_rows_are_told_and_rank_nothing(runs: list[Run], spec: Spec, rows: Rows) -> None:
    other = begin(spec(max_steps=1, seed=4), data=rows, store=runs[0].store).wait()
    shown = compare(runs[0], other, prompts=[])
    assert f"calm and {other.id} were evaluated on different evaluation sets: their eval" in " ".join(shown.notes)
    with pytest.raises(RunError, match="^eval_loss does not tell .*: calm and .* on different evaluation sets$"):
        shown.best()
    assert "★" not in next(line for line in repr(shown).splitlines() if "eval loss" in line)


def test_classifiers_say_their_classes(encoder: Path, labelled: Rows, tmp_path: Path) -> None:
    fields = {"model": str(encoder), "data": "(in memory)", "task": "classification", "device": "cpu"}
    store = Store(tmp_path)
    pair = [
        begin(RunSpec(**fields, max_steps=steps, name=name), data=labelled, store=store).wait()
        for steps, name in ((60, "long"), (1, "brief"))
    ]
    shown = compare(*pair, "base")
    assert list(shown.answers.columns) == ["reference", "long", "brief"]
    assert set(shown.answers["reference"]) <= {"fruit", "tool", "bird"}
    first = pair[0].predict(shown.answers.index.tolist())
    assert shown.answers["long"].tolist()[0] == f"{first['label'][0]} ({first['probability'][0]:.0%})"
    assert shown.best(by="accuracy") is max(pair, key=lambda run: run.metrics["accuracy"])
    assert "the base model has no head for classification and gives no answers" in shown.notes


def test_the_text_has_all_of_it(four: Comparison, runs: list[Run]) -> None:
    text = repr(four)
    assert text.startswith("calm, short, wide, base on ")
    lines = text.splitlines()
    best = four.best().spec.name
    (row,) = (line for line in lines if line.startswith("  eval loss"))
    cells = row.partition("(eval_loss)")[2].split("  ")
    ordered = [cell.strip() for cell in cells if cell.strip()]
    assert ordered[four.names.index(best)].endswith(" ★")
    assert row.count("★") == 1
    assert four.answers.index[0] in lines
    assert f"  reference: {four.answers['reference'].iloc[0]}" in lines
    assert "note: prompts: evaluation set of calm" in text


def test_the_page_marks_the_best_and_the_words_that_differ(four: Comparison) -> None:
    page = Page(four._repr_html_())
    assert page.open == []
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "style", "link"})
    assert page.text.count("★") >= 4
    words = {word for name in four.names[1:] for answer in four.answers[name] for word in clean(answer).split()}
    assert page.inserted.pop(0) == "underlined"
    assert page.inserted
    assert {word for part in page.inserted for word in part.split()} <= words
    ((_, image),) = [element for element in page.elements if element[0] == "img"]
    assert re.match(r"Loss over steps: calm ends at train \d\.\d{3}, eval \d\.\d{3}; short ends at ", str(image["alt"]))
    assert str(image["src"]).startswith("data:image/png;base64,")


def test_equal_answers_are_said_to_be(runs: list[Run]) -> None:
    known = Compared({"a": None, "b": None}, {"a": {"model": "m"}, "b": {"model": "m"}}, {}, [Asked("?")])
    known.answers = {"a": ["one two"], "b": ["one two"]}
    assert "b (as a)" in Page(Comparison(known)._repr_html_()).text
    assert "  b: (as a)" in repr(Comparison(known))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    shown = hostile()
    html = shown.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    for page in (Page(html), Page(shown._repr_html_())):
        assert page.open == []
        assert "script" not in {tag for tag, _ in page.elements}
        assert '<script>alert("x")</script> </div> &' in page.text
        assert "مرحبا بالعالم 👩🏽‍🚀" in page.text
        assert page.inserted[-1] == "more"
    assert "\x1b" not in html + repr(shown)
    foreign = [style for _, style in Page(html).elements if "pre-wrap" in (style.get("style") or "")]
    assert {(one.get("dir"), "overflow-wrap:anywhere" in str(one["style"])) for one in foreign} == {("auto", True)}
    hostile("\ud800 lone").to_html(tmp_path / "lone.html")
    assert "\ufffd lone" in (tmp_path / "lone.html").read_text(encoding="utf-8")


def test_a_page_is_written_whole_or_not_at_all(four: Comparison, tmp_path: Path) -> None:
    file = four.to_html(str(tmp_path / "new" / "page.html"))
    text = file.read_text(encoding="utf-8")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
    assert text.endswith("</main></body></html>\n")
    with pytest.raises(StoreError, match=r"page.html is there already; choose another name, or call to_html\(path, ov"):
        four.to_html(file)
    with file_size_limit(1_000), pytest.raises(StoreError, match=r"^cannot write .*/page.html: "):
        four.to_html(file, overwrite=True)
    assert file.read_text(encoding="utf-8") == text
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]


def test_the_curves_lie_over_each_other(four: Comparison, runs: list[Run]) -> None:
    picture = four.plot()
    training, held_out = picture.axes
    assert [len(line.get_xdata()) for line in training.lines] == [30, 8, 8]
    assert held_out.lines[0].get_ydata()[0] == runs[0].metrics["base_eval_loss"]
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["calm", "short", "wide"]
    assert imread(BytesIO(picture.png()))[0, 0, 3] == 0  # type: ignore[attr-defined]
