"""What was measured of a run."""

from __future__ import annotations

import math

import pytest

from peft_nb.errors import StoreError
from peft_nb.store import Evaluation, Store
from tests.stores import finish


def test_evaluations_are_kept_and_replaced_by_measure(store: Store) -> None:
    id, other = finish(store), finish(store)
    forgetting = Evaluation("regression", "forgetting", 0.25, 0.125, 0.5, {"texts": 40})
    unknown = Evaluation("held-out", "accuracy", None)
    store.evaluate(id, [Evaluation("regression", "forgetting", 9.0), unknown])
    store.evaluate(id, [forgetting])
    assert store.evaluations(id) == store.lineage(id).evaluations == [unknown, forgetting]
    assert store.evaluations(other) == []
    numpy = pytest.importorskip("numpy")
    half = numpy.float32(0.5)
    store.evaluate(id, [Evaluation("held-out", "accuracy", half, math.nan, detail={"f1": half})])
    assert store.evaluations(id)[0] == Evaluation("held-out", "accuracy", 0.5, None, detail={"f1": 0.5})
    with pytest.raises(StoreError, match="there is no run"):
        store.evaluate("lora-000000", [unknown])
