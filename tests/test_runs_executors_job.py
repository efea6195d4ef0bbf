"""A run and its rows, as another process reads them."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from peft_nb.errors import DataError
from peft_nb.runs import rows
from peft_nb.runs.context import Context, Inputs
from peft_nb.runs.executors.job import Job, pack, unpack
from peft_nb.spec import RunSpec
from peft_nb.store import Facts
from tests import images

FRAME = pandas.DataFrame(
    {
        "question": ["Où?", "When?", None, "Who?"],
        "answer": ["Ici.", "Now.", "x", "Me."],
        "stars": [1, 2, None, 4],
        "at": [datetime.datetime(2026, 1, day) for day in (1, 2, 3, 4)],
    }
).dropna(subset="question")
SPLITS = {"train": [{"text": "a"}, {"text": "b"}], "validation": [{"text": "c"}]}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"mine": FRAME}),
        ({"eval_data": "asked", "regression": "kept"}, {"mine": FRAME, "asked": FRAME.head(2), "kept": FRAME.tail(1)}),
        ({}, {"mine": SPLITS}),
        ({"eval_data": "asked"}, {"mine": SPLITS, "asked": [{"text": "d"}, {"text": "e"}]}),
        ({"data": "support-desk"}, {}),
    ],
    ids=["a frame", "with evaluation and regression rows", "splits", "splits and another evaluation set", "built-in"],
)
def test_rows_are_there_what_they_are_here(fields: dict[str, Any], names: dict[str, Any]) -> None:
    spec = RunSpec(**{"data": "mine", **fields})
    given = Inputs(namespace=names)
    spec, found, facts = rows.read(spec, given)
    told = pack(Context(spec, given, facts=facts), found)
    inputs, there = unpack(json.loads(json.dumps(told)), spec)
    assert there is not None
    assert [*there.rows] == [*found.rows]
    assert [*(there.eval_rows or ())] == [*(found.eval_rows or ())]
    assert (there.layout, there.eval_layout) == (found.layout, found.eval_layout)
    assert (there.origin, there.fingerprint, there.eval_fingerprint) == (
        found.origin,
        found.fingerprint,
        found.eval_fingerprint,
    )
    _, again, known = rows.read(spec, inputs)  # as where the encoded rows are gone
    assert [*again.rows] == [*found.rows]
    assert known.task == facts.task
    assert known.layout == facts.layout


@pytest.mark.parametrize("of", ["images", "arrays", "bytes", "clips"])
def test_images_and_clips_in_memory_are_there_by_their_content(of: str) -> None:
    given: list[Any] = [row["image"] for row in images.rows(3)]
    if of == "arrays":
        given = [numpy.asarray(one) for one in given]
    elif of == "bytes":
        files = [io.BytesIO() for _ in given]
        given = [one.save(file, "jpeg") or file.getvalue() for one, file in zip(given, files, strict=True)]
    elif of == "clips":
        noise = numpy.random.default_rng(0).normal(0, 0.1, (3, 800)).astype("float32")
        given = [{"array": one, "sampling_rate": 8_000} for one in noise]
    column, told = ("audio", "text") if of == "clips" else ("image", "label")
    data = [{column: one, told: "ab"[place % 2]} for place, one in enumerate(given)]
    spec, found, facts = rows.read(RunSpec(data="mine"), inputs := Inputs(namespace={"mine": data}))
    _, there = unpack(pack(Context(spec, inputs, facts=facts), found), spec)
    assert there is not None
    assert there.layout == found.layout
    for row, own in zip(there.rows, found.rows, strict=True):
        medium, mine = (one.text(cells) for one, cells in ((there.layout, row), (found.layout, own)))
        numpy.testing.assert_array_equal(medium.open(), mine.open())


def test_a_run_that_goes_on_takes_its_rows_where_they_are_not_encoded(tmp_path: Path) -> None:
    context = Context(RunSpec(data="mine"), Inputs(namespace={"mine": FRAME}), tmp_path / "runs" / "lora-abc")
    context.folder.mkdir(parents=True)
    _, there = unpack(pack(context, None), context.spec)
    assert there is not None
    assert len(there.rows) == 3
    assert unpack("{}", context.spec) == (Inputs(), None)


def test_personal_data_is_replaced_before_it_is_sent() -> None:
    mine = [{"text": "Write to ann.lee@tidewater.shop please"}, {"text": "b"}]
    given = Inputs(namespace={"mine": mine})
    spec, found, facts = rows.read(RunSpec(data="mine", personal_data="redact"), given)
    packed = pack(Context(spec, given, facts=facts), found)
    assert "ann.lee@tidewater.shop" not in packed
    inputs, there = unpack(packed, spec)
    assert there is not None
    assert there.fingerprint == found.fingerprint
    again, changes = rows.redacted(Context(spec, inputs, facts=facts), there)
    here, before = rows.redacted(Context(spec, given, facts=facts), found)
    assert (changes, [*again.rows], again.fingerprint) == (before, [*here.rows], here.fingerprint)
    with pytest.raises(DataError, match="refuse|personal data"):
        pack(Context(RunSpec(data="mine", personal_data="refuse"), given, facts=facts), found)


def test_a_job_says_all_that_is_known_of_the_run(tmp_path: Path) -> None:
    context = Context(RunSpec(data="x", r=4), folder=tmp_path / "lora-abc", facts=Facts(dtype="float32"))
    context.metrics, context.history = {"loss": float("nan"), "steps": 3}, [{"step": 1, "loss": 2.0}]
    job = Job(**json.loads(json.dumps(Job.of(context, resumed=True).to_json())))
    assert (job.id, job.resumed, job.history) == ("lora-abc", True, context.history)
    assert RunSpec.from_yaml(job.spec) == context.spec
    assert Facts.from_json(job.facts) == context.facts
    assert job.metrics == {"loss": None, "steps": 3}
