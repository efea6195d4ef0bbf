"""An estimate is made once for what a run depends on; memory is looked at anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peft_nb.data import table
from peft_nb.methods import complete
from peft_nb.models.resolve import resolve
from peft_nb.planning import estimate, memory, recall
from peft_nb.planning.forecast import Forecast
from peft_nb.spec import RunSpec
from peft_nb.system import resources
from peft_nb.tasks import inspect


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The specs for which an estimate was really made."""
    monkeypatch.setenv("PEFT_NB_CACHE", str(tmp_path / "known"))
    specs: list[RunSpec] = []
    whole = estimate.foresee

    def foresee(spec: RunSpec, *given: Any) -> Forecast:
        specs.append(spec)
        return whole(spec, *given)

    monkeypatch.setattr(estimate, "foresee", foresee)
    return specs


def foreseen(base: Path, rows: list[dict[str, str]], **fields: Any) -> Forecast:
    spec = complete(RunSpec(data="x", model=str(base), device="cpu", max_steps=2, **fields))
    read = table.read(spec, rows, namespace={})
    return recall.foresee(spec, resolve(spec.model), read, inspect(spec, read), memory.process())


def test_the_same_run_is_estimated_once(base: Path, rows: list[dict[str, str]], made: list[RunSpec]) -> None:
    first = foreseen(base, rows, name="first")
    again = foreseen(base, rows, name="again", judge="off")  # which change nothing of it
    assert len(made) == 1
    assert (again.seconds, again.trainable_parameters, again.dtype, again.path) == (
        *(first.seconds, first.trainable_parameters, first.dtype, first.path),
    )
    assert again.memory_mb == pytest.approx(first.memory_mb, rel=0.2)
    foreseen(base, rows, r=4)
    foreseen(base, rows[:-1])
    assert len(made) == 3


def test_where_memory_is_short_it_is_estimated_anew(
    base: Path, rows: list[dict[str, str]], made: list[RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "memory_available_mb", lambda *given: 900.0)
    first = foreseen(base, rows)
    assert not first.tight
    monkeypatch.setattr(resources, "memory_available_mb", lambda *given: 1.0)
    monkeypatch.setattr(resources, "process_memory_mb", lambda: 0.0)
    assert foreseen(base, rows).tight
    assert len(made) == 2
    assert foreseen(base, rows).tight  # and what is tight is not kept
    assert len(made) == 3


def test_a_live_model_is_estimated_each_time(base: Path, rows: list[dict[str, str]], made: list[RunSpec]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pair = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    spec = complete(RunSpec(data="x", model="(in memory)", device="cpu", max_steps=2))
    read = table.read(spec, rows, namespace={})
    for _ in range(2):
        recall.foresee(spec, resolve(pair), read, inspect(spec, read), memory.process())
    assert len(made) == 2
