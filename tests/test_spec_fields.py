"""What a field says of itself, and how its value is read, for any model made of such fields."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from peft_nb.spec.field_info import FieldInfo, aliases
from peft_nb.spec.fields import Switch, Whole, Word, explain, field, info


class Trip(BaseModel):
    """A model of its own."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    place: Word = field(..., "trip")
    """Where it goes."""
    days: Whole | None = field(None, "trip", "days", ("length",), ge=1, lt=100)
    """How long
    it takes."""
    by: Literal["train", "ship"] = field("train", "trip")
    """What takes you there."""
    alone: Switch = field(False, "trip")
    """Whether nobody comes with you."""


def described() -> dict[str, FieldInfo]:
    return {name: info(name, one) for name, one in Trip.model_fields.items()}


def refused(**values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Trip(**values)
    (error,) = caught.value.errors(include_url=False)
    return explain(error, Trip, ["length"])


def test_a_field_describes_itself() -> None:
    fields = described()
    assert fields["place"] == FieldInfo("place", "text", "Where it goes.", "trip", required=True)
    days = FieldInfo(
        *("days", "integer", "How long it takes.", "trip", "days"),
        minimum=1,
        maximum=100,
        bounds="at least 1, below 100",
        aliases=("length",),
    )
    assert fields["days"] == days
    assert (fields["by"].type, fields["by"].choices, fields["by"].default) == ("choice", ("train", "ship"), "train")
    assert (fields["alone"].type, fields["alone"].flag) == ("switch", "--alone")
    assert aliases(fields.values()) == {"length": "days"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "place: missing; give where it goes."),
        ({"place": "a", "dayz": 1}, "dayz: no such field; did you mean 'days'?"),
        ({"place": "a", "lenght": 1}, "lenght: no such field; did you mean 'length'?"),
        ({"place": "a", "days": 0}, "days: 0 is below the smallest allowed value 1"),
        ({"place": "a", "days": "100"}, "days: 100 is too high; it must be below 100"),
        ({"place": "a", "days": 2.4}, "days: 2.4 is not a whole number; the nearest is 2"),
        ({"place": "a", "by": "trian"}, "by: 'trian' is not one of train, ship; did you mean 'train'?"),
        ({"place": "a", "alone": "perhaps"}, "alone: 'perhaps' is neither true nor false"),
    ],
)
def test_what_is_refused_is_explained_in_a_line(values: dict[str, object], told: str) -> None:
    assert refused(**values) == told
