"""Where a run is executed, as it is written."""

from __future__ import annotations

import pytest

from peft_nb.errors import SpecError
from peft_nb.spec.place import Place


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({}, Place()),
        ({"on": "here"}, Place()),
        ({"on": "local:3"}, Place("local:3", workers=3)),
        ({"on": "ray", "workers": "2", "cpus": 4}, Place("ray", 2, 4)),
        ({"on": "ray", "gpus": "0.5"}, Place("ray", 1, 1, 0.5)),
        ({"on": "ray", "gpus": "0"}, Place("ray")),
        (
            {"on": "ray://head.example:10001", "keep": "true", "workers": None},
            Place("ray://head.example:10001", keep=True),
        ),
        ({"on": "ray", "keep": False}, Place("ray")),
        (Place("ray", workers=2, at_once=3).said, Place("ray", workers=2, at_once=3)),
    ],
)
def test_what_is_written_is_read(said: dict[str, object], place: Place) -> None:
    assert Place.of(**said) == place
    assert place.kind in ("here", "local", "ray")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"on": "mars"}, "on: 'mars' is no place; write here, local:2, ray or ray://HOST:PORT"),
        ({"on": "local"}, "on: 'local' is no place"),
        ({"on": "local:0"}, "on: 'local:0' is no place"),
        ({"on": "ray://host"}, "on: 'ray://host' is no place"),
        ({"on": "local:2", "workers": 2}, "workers: is for --on ray; leave it out"),
        ({"gpus": 1}, "gpus: is for --on ray; leave it out"),
        ({"on": "ray", "workers": "many"}, "workers: 'many' is not a number of processes, 1 or more"),
        ({"on": "ray", "cpus": 0}, "cpus: 0 is not a number of cores, 1 or more"),
        ({"on": "ray", "gpus": -1}, "gpus: -1 is not a number of GPUs, 0 or more"),
    ],
)
def test_what_is_no_place_is_refused_in_a_line(said: dict[str, object], line: str) -> None:
    with pytest.raises(SpecError) as refused:
        Place.of(**said)
    assert line in str(refused.value)
    assert len(refused.value.problems) == 1


def test_a_place_is_taken_out_of_the_fields_of_a_run() -> None:
    fields = {"data": "tickets", "on": "ray", "workers": "2"}
    assert Place.taken(fields) == Place("ray", 2)
    assert fields == {"data": "tickets"}
