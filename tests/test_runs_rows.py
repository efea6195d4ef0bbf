"""Rows on their way to examples: what is told of them, and what lies beside a run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peft_nb
from peft_nb.data import encoding, prompts
from peft_nb.data.detection import detect
from peft_nb.data.examples import load
from peft_nb.data.quality.fixes import Change
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.sources import IN_MEMORY
from peft_nb.data.table import Table
from peft_nb.errors import DataError
from peft_nb.events import Event, Notice, Preparing, StatusChanged
from peft_nb.models.load import Base
from peft_nb.runs import model as models
from peft_nb.runs import rows as rows_of_runs
from peft_nb.runs.context import Context, Inputs
from peft_nb.runs.run import Run, begin
from peft_nb.runs.run import load as load_run
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import stop_at

Start = Callable[..., Run]


def notices(run: Run) -> list[str]:
    return [event.text for event in run.events() if isinstance(event, Notice)]


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that were encoded to be trained on, a call at a time; not those of forecasts."""
    calls: list[int] = []
    encode = encoding.encode

    def counted(rendered: RenderedRows, **options: Any) -> Any:
        if options.get("folder"):
            calls.append(len(rendered))
        return encode(rendered, **options)

    monkeypatch.setattr(encoding, "encode", counted)
    return calls


def shelf(run: Run) -> Path:
    return run.folder.parent.parent / "examples"


def losses(run: Run) -> list[float]:
    return run.history.loss.dropna().tolist()


def test_the_same_rows_are_encoded_once_for_all_runs(start: Start, rows_file: Path, encodings: list[int]) -> None:
    first = start(max_steps=2).wait()
    again = start(max_steps=2, learning_rate=1e-3, seed=5).wait()
    assert encodings == [23]
    told = [event.text for event in again.events() if isinstance(event, Notice)]
    assert told == [event.text for event in first.events() if isinstance(event, Notice)]
    assert not any("encoding" in event.what for event in again.events() if isinstance(event, Preparing))
    start(max_steps=2, max_length=64).wait()
    start(max_steps=2, eval_data=str(rows_file)).wait()
    assert encodings == [23, 23, 23]


def test_a_run_goes_on_though_its_encoded_rows_are_gone(start: Start, encodings: list[int]) -> None:
    undisturbed = start(max_steps=6).wait()
    run = start(stop_at(3), max_steps=6)
    assert run.wait().status == "stopped"
    shutil.rmtree(shelf(run))
    assert losses(run.resume()) == losses(undisturbed)
    assert encodings == [23, 23]


def test_a_run_does_not_go_on_with_other_data(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    table = [dict(row) for row in rows]
    stop = [stop_at(1)]
    run = begin(spec(max_steps=50), data=table, store=store, listeners=stop)
    assert run.wait().status == "stopped"
    table[0]["answer"] = "Something else."
    shutil.rmtree(shelf(run))
    with pytest.raises(DataError, match="is not what the run began with; put it back, or start a new run"):
        run.resume()


def test_a_run_finds_its_examples_without_its_data(start: Start, store: Store) -> None:
    run = start(stop_at(2), max_steps=5)
    assert run.wait().status == "stopped"
    kept = json.loads((run.folder / "examples.json").read_text())
    assert len(kept["keys"]) == 1
    assert len(kept["held_out"]) == 2
    assert load_run(run.id, store=store).resume().status == "finished"  # as in another process
    assert run.metrics["eval_examples"] == 2


@pytest.fixture(scope="module")
def lengths(base: Path, rows: list[dict[str, str]]) -> list[int]:
    """Tokens of each row, sorted."""
    from transformers import AutoTokenizer

    encoded = encoding.encode(RenderedRows(rows, detect(rows), AutoTokenizer.from_pretrained(base)), max_length=1024)
    return sorted(encoded.examples.lengths.tolist())


def test_a_run_that_leaves_long_rows_out_says_so_and_holds_out_of_the_others(start: Start, lengths: list[int]) -> None:
    limit = lengths[len(lengths) // 2]
    kept = sum(length <= limit for length in lengths)
    run = start(max_steps=2, max_length=limit, too_long="drop", eval_fraction=0.3).wait()
    told, warned = [event for event in run.events() if isinstance(event, Notice)]
    assert re.search(rf", {23 - kept} rows? over {limit} tokens dropped$", told.text)
    assert warned == Notice(
        f"{23 - kept} of 23 rows are over {limit} tokens: dropped", "warning", "raise max_length, or too_long: split"
    )
    assert run.metrics["examples"] + run.metrics["eval_examples"] == kept
    assert 0 < run.metrics["eval_examples"] < kept


def test_parts_of_one_row_are_never_on_both_sides(start: Start, lengths: list[int]) -> None:
    limit = lengths[len(lengths) // 2]
    run = start(max_steps=1, max_length=limit, too_long="split", eval_fraction=0.3, loss_on="all").wait()
    kept = json.loads((run.folder / "examples.json").read_text())
    loaded = load(shelf(run) / kept["keys"][0])
    assert loaded is not None
    assert len(loaded.examples) > 23
    train, held_out = loaded.examples.parted(kept["held_out"])
    assert not set(train.rows.tolist()) & set(held_out.rows.tolist())
    assert (len(train), len(held_out)) == (run.metrics["examples"], run.metrics["eval_examples"])


def test_held_out_rows_come_from_where_the_spec_says(finished: Run, start: Start, rows_file: Path) -> None:
    none = start(eval_fraction=0).wait()
    assert (none.metrics["examples"], none.metrics["eval_examples"]) == (23, 0)
    assert none.metrics["eval_loss"] is None
    assert none.history.eval_loss.isna().all()
    assert none.history.eval_loss.dtype == float
    given = start(eval_data=str(rows_file)).wait()
    assert (given.metrics["examples"], given.metrics["eval_examples"]) == (23, 23)
    assert (finished.metrics["examples"], finished.metrics["eval_examples"]) == (21, 2)


def test_held_out_rows_may_be_given_without_a_name(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store, rows_file: Path
) -> None:
    named = begin(spec(eval_data=str(rows_file), max_steps=2), data=rows, store=store).wait()
    run = begin(spec(eval_data=IN_MEMORY, max_steps=2), data=rows, eval_data=rows, store=store).wait()
    assert run.metrics["eval_loss"] == named.metrics["eval_loss"]
    assert "23 rows also in the evaluation set (train/eval leakage)" in notices(run)


def test_what_was_done_with_the_data_is_told(finished: Run) -> None:
    (told,) = notices(finished)
    assert re.fullmatch(
        r"list, 23 rows: .*; the model's own chat template; 23 rows, [\d,]+ tokens, [\d,]+ of them in the loss", told
    )


def test_what_the_check_finds_is_told_before_the_first_step_and_kept_with_the_run(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    heard: list[Event] = []
    run = begin(spec(max_steps=1), data=[*rows, rows[3]], store=store, listeners=[heard.append]).wait()
    told = Notice("1 duplicate row", "warning", "peft_nb.check shows more")
    assert heard.index(told) < heard.index(StatusChanged("training"))
    kept = json.loads((run.folder / "data.json").read_text())
    assert kept["rows"] == 24
    assert [(found["kind"], found["rows"]) for found in kept["findings"] if found["level"] != "info"] == [
        ("duplicate", [23])
    ]
    assert kept["lengths"]["shortest"] > 0
    assert not kept["lengths"]["estimated"]
    assert kept["changes"] == []
    assert rows[3]["answer"] not in (run.folder / "data.json").read_text()


def test_the_list_of_what_was_fixed_is_kept_with_a_run_on_the_fixed_data(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    report = peft_nb.check([*rows, rows[3]], model="no/such")
    clean = report.fixed()
    run = begin(spec(max_steps=1), data=clean, store=store).wait()
    kept = json.loads((run.folder / "data.json").read_text())
    assert kept["changes"] == [{"row": 23, "what": "dropped: duplicate of row 3"}]
    changed = begin(spec(max_steps=1), data=clean[1:], store=store).wait()
    assert json.loads((changed.folder / "data.json").read_text())["changes"] == []


def test_redacted_rows_are_listed_with_the_run(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    pytest.importorskip("presidio_analyzer")
    private = [{**rows[0], "answer": "Write to anna.berg@tidewater.shop."}, *rows[1:]]
    run = begin(spec(max_steps=1, personal_data="redact"), data=private, store=store).wait()
    text = (run.folder / "data.json").read_text()
    assert json.loads(text)["changes"] == [{"row": 0, "what": "redacted EMAIL"}]
    assert "anna" not in text
    assert "personal data: redacted EMAIL (1)" in notices(run)
    allowed = begin(
        spec(max_steps=1, personal_data="redact", allow="*@tidewater.shop"), data=private, store=store
    ).wait()
    assert json.loads((allowed.folder / "data.json").read_text())["changes"] == []
    assert begin(spec(max_steps=1, personal_data="refuse", allow="*@*"), data=private, store=store).wait().status == (
        "finished"
    )


def test_of_many_rows_the_first_are_looked_through(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_of_runs, "CHECKED_ROWS", 10)
    run = begin(spec(max_steps=1), data=[*rows, rows[3]], store=store).wait()
    kept = json.loads((run.folder / "data.json").read_text())
    assert (kept["rows"], kept["notes"]) == (10, ["the first 10 of 24 rows were looked at"])
    assert len(notices(run)) == 1


# ---- what lies beside a run


@pytest.fixture
def begun(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path: Path
) -> tuple[Context, Table, rows_of_runs.Sides, Base]:
    """A run that has encoded its rows, two of which it holds out, and begins to train."""
    own = [{"question": "Who are you?", "answer": f"I am number {n}."} for n in range(3)]
    inputs = Inputs(data=rows, namespace={"mine": own})
    described = spec(judge="full", regression="mine")
    _, found, facts = rows_of_runs.read(described, inputs)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    context = Context(described, inputs, tmp_path / "runs" / "one", facts)
    base = models.load_base(described, models.find(described, inputs), facts, lambda event: None)
    return context, found, rows_of_runs.encode(context, found, base), base


def test_the_examples_of_a_run_are_found_again_without_its_data(begun: Any) -> None:
    context, _, sides, _ = begun
    assert (len(sides.train), len(sides.held_out)) == (21, 2)
    kept = rows_of_runs.kept(context.folder)
    assert kept is not None
    assert (list(kept.train), list(kept.held_out)) == (list(sides.train), list(sides.held_out))
    compared, name = rows_of_runs.compared_on(context.folder)
    assert (list(compared), name) == (list(sides.held_out), "evaluation rows")
    (asked, more) = prompts.load(context.folder)
    assert {asked.reference, more.reference} == {
        context.inputs.data[number]["answer"] for number in sides.held_out.rows.tolist()
    }


def test_without_held_out_rows_a_run_is_compared_on_those_it_learned(begun: Any) -> None:
    context, *_ = begun
    file = context.folder / "examples.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"held_out": []}))
    compared, name = rows_of_runs.compared_on(context.folder)
    assert (len(compared), name) == (23, "training rows")


def test_of_examples_that_are_no_longer_complete_there_are_none(begun: Any, tmp_path: Path) -> None:
    context, *_ = begun
    (encoded,) = json.loads((context.folder / "examples.json").read_text())["keys"]
    (tmp_path / "examples" / encoded / "ids.npy").unlink()
    assert rows_of_runs.kept(context.folder) is None
    assert rows_of_runs.compared_on(context.folder) == ((), "training rows")
    assert rows_of_runs.kept(tmp_path) is None


def test_what_is_to_be_evaluated_is_found_again_without_the_data(begun: Any) -> None:
    context, found, sides, base = begun
    asked, own = rows_of_runs.to_evaluate(context, found, sides, base.tokenizer)
    table = context.inputs.data
    assert [(one.prompt, one.reference) for one in asked] == [
        (table[number]["question"], table[number]["answer"]) for number in sides.held_out.rows.tolist()
    ]
    assert [name for name, _ in own] == ["row 0", "row 1", "row 2"]
    context.inputs = Inputs()
    again, same = rows_of_runs.to_evaluate(context, None, sides, base.tokenizer)
    assert (again, [(name, one) for name, one in same]) == (asked, own)


def test_what_the_check_told_is_empty_where_it_is_missing_or_damaged(begun: Any) -> None:
    context, found, _, base = begun
    assert rows_of_runs.told(context.folder) == {}
    rows_of_runs.check(context, found, [Change(3, "dropped")], base.tokenizer)
    told = rows_of_runs.told(context.folder)
    assert (told["data"], told["rows"], told["changes"][-1]) == ("list, 23 rows", 23, {"row": 3, "what": "dropped"})
    (context.folder / "data.json").write_text("{")
    assert rows_of_runs.told(context.folder) == {}


def test_rows_that_are_not_what_they_were_are_not_read_again(begun: Any) -> None:
    context, found, _, _ = begun
    again = rows_of_runs.read_again(context)
    assert (list(again.rows), again.fingerprint) == (list(found.rows), found.fingerprint)
    context.inputs = Inputs(data=context.inputs.data[1:], namespace=context.inputs.namespace)
    with pytest.raises(DataError, match="is not what the run began with; put it back, or start a new run$"):
        rows_of_runs.read_again(context)
