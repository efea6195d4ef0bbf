"""What a run needs to be opened again, to and from the index."""

from __future__ import annotations

import json
import math

import pytest

from peft_nb.errors import StoreError
from peft_nb.store import Facts, Store
from tests.stores import finish

FACTS = Facts(
    base="smollm2 (hub) 1a2b",
    base_hash="ab" * 32,
    data="“rows”.csv, 9 rows 🦙",
    fingerprint="cd" * 32,
    layout="text_label",
    dtype="float32",
    device="cpu",
    task={"classes": ["a", "b"], "multi_label": False, "max_tokens": 16, "pooling": "mean"},
)


def test_facts_come_back_as_they_were() -> None:
    assert Facts.from_json(FACTS.to_json()) == FACTS
    assert Facts.from_json(Facts().to_json()) == Facts()


def test_missing_and_unknown_keys_do_no_harm() -> None:
    told = {"base": "m 1a2b", "layout": None, "task": {"classes": ["a"]}, "colour": "blue"}
    assert Facts.from_json(json.dumps(told)) == Facts(base="m 1a2b", task={"classes": ["a"]})


def test_numbers_of_numpy_are_numbers_and_only_finite_ones() -> None:
    numpy = pytest.importorskip("numpy")
    facts = Facts(task={"max_tokens": numpy.int64(16), "rates": [numpy.float32(0.5), math.nan]})
    assert Facts.from_json(facts.to_json()).task == {"max_tokens": 16, "rates": [0.5, None]}
    facts = Facts(task={"weights": numpy.array([[1.5, numpy.inf]])})
    assert Facts.from_json(facts.to_json()).task == {"weights": [[1.5, None]]}


def test_a_run_knows_nothing_until_told_and_then_all_of_it(store: Store) -> None:
    id, other = (store.create("r: 16\n", method="lora", model="m") for _ in range(2))
    assert store.get(id).facts == Facts()
    store.set_facts(id, Facts(data="rows.csv", device="cpu"))
    store.set_facts(id, FACTS)
    assert (store.get(id).facts, store.get(id).metrics) == (FACTS, {})
    store.set_facts(id, Facts(data="rows.csv"))
    assert Store(store.folder).get(id).facts == Facts(data="rows.csv")
    assert store.get(other).facts == Facts()
    with pytest.raises(StoreError, match="there is no run 'lora-000000'"):
        store.set_facts("lora-000000", FACTS)


def test_the_lineage_is_told_from_the_facts(store: Store) -> None:
    found = store.lineage(finish(store, facts=FACTS))
    assert (found.base, found.base_hash) == (FACTS.base, FACTS.base_hash)
    assert (found.data, found.data_fingerprint) == (FACTS.data, FACTS.fingerprint)
