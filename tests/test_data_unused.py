from __future__ import annotations

import pandas
import pytest
from PIL import Image

from peft_nb.data import sources, table
from peft_nb.data.unused import find, flags
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec
from peft_nb.tasks import inspect

PAIR = {"question": "Where is it?", "answer": "In Oslo."}


def kinds(**cells: list[object]) -> dict[str, str]:
    rows = [{**PAIR, **dict(zip(cells, values, strict=True))} for values in zip(*cells.values(), strict=True)]
    return {one.column: one.what for one in find(rows, ("question", "answer"))}


def test_content_is_told_from_what_may_be_left_aside() -> None:
    assert kinds(
        note=["It left the harbour on Monday.", "Nobody knows where it is."],
        context=["Oslo", "Bergen"],
        turns=[["a"], ["b"]],
        extra=[{"a": 1}, {"b": 2}],
        weight=[0.5, 1.0],
        distractor1=["Rome", "Paris"],
    ) == dict.fromkeys(("note", "context", "turns", "extra", "weight", "distractor1"), "content")
    assert kinds(
        id=["a b c d e"] * 2,
        question_id=[3, 4],
        topic=["what a parcel is worth", "how to pay it"],
        source=["the mails of the year 2025"] * 2,
        metadata=[{"a": 1}] * 2,
        tags=[["a", "b"]] * 2,
        price=[3.5, 4.25],
        code=["X1", "X2"],
        nothing=[None, ""],
    ) == dict.fromkeys(
        ("id", "question_id", "topic", "source", "metadata", "tags", "price", "code", "nothing"), "aside"
    )


def test_judgements_are_known_by_their_values_or_names() -> None:
    told = kinds(
        good=[True, False], is_right=["yes", "no"], rating=[4, 5], score_of_judge=[0.5, 1], verdict=["bad", "so-so"]
    )
    assert set(told.values()) == {"judgement"}
    (one,) = find([{**PAIR, "good": True}, {**PAIR, "good": False}], tuple(PAIR))
    assert str(one) == "good (false and true)"


def test_a_column_without_a_name_that_counts_is_the_row_index() -> None:
    assert kinds(**{"": ["0", "1"], "Unnamed: 0": [0.0, 1.0], "__index_level_0__": [7, 3]}) == {
        "": "index",
        "Unnamed: 0": "index",
        "__index_level_0__": "index",
    }
    assert kinds(**{"Unnamed: 0": ["It is on its way to you.", "It has been lost at sea."]}) == {
        "Unnamed: 0": "content"
    }


def test_images_and_audio_are_known_by_name_and_by_content() -> None:
    picture = Image.new("RGB", (2, 2))
    told = kinds(
        image=["a.jpg"], scan=[picture], raw=[{"bytes": b"1", "path": None}], clip=[{"array": [0], "sampling_rate": 8}]
    )
    assert set(told.values()) == {"media"}


@pytest.mark.parametrize(("column", "held"), [("image", "images"), ("audio", "audio"), ("video", "video")])
def test_a_text_task_refuses_them(column: str, held: str) -> None:
    spec = RunSpec(data="x")
    with pytest.raises(DataError) as caught:
        inspect(spec, table.read(spec, [{**PAIR, column: "a.bin"}]))
    alone = ", or on the images alone, set format: image_label and columns: {image: image, label: …}"
    heard = ", or to learn to write speech down, set columns: {audio: audio, text: …}"
    assert str(caught.value) == (
        f"column '{column}' holds {held}, and this task reads text only; "
        f"to train on the texts without them, pass data.drop(columns=['{column}']){alone * (held == 'images')}"
        f"{heard * (held == 'audio')}"
    )


def test_labels_written_as_0_and_1_are_offered_as_one_column_of_lists() -> None:
    df = pandas.DataFrame({"comment": ["you fool", "thanks", "go away now"], "id": ["a", "b", "c"]})
    df = df.assign(toxic=[1, 0, 1], threat=[0, 0, 1])
    assert flags(sources.read(df).train, ("comment",)) == ["toxic", "threat"]
    spec = RunSpec(data="x", task="classification")
    with pytest.raises(DataError, match="columns toxic, threat look like labels written as 0 and 1") as caught:
        inspect(spec, table.read(spec, df))
    assert str(caught.value).endswith(", and columns={'text': 'comment', 'label': 'label'}")
    with pytest.raises(DataError, match="columns toxic, threat look like labels written as 0 and 1"):
        inspect(spec, table.read(spec, df.rename(columns={"comment": "document"})))
    fix = str(caught.value).partition("make one column of lists, ")[2].partition(", and columns=")[0]
    exec(fix)
    assert df["label"].tolist() == [["toxic"], [], ["toxic", "threat"]]
