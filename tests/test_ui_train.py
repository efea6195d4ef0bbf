from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb import RunSpec, train
from peft_nb.errors import SpecError


def test_a_run_is_trained_and_its_summary_is_shown(
    base: Path,
    rows: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PEFT_NB_STORE", str(tmp_path))
    run = train(data=rows, model=base, max_steps=1, batch_size=5, device="cpu", judge="off")
    assert (run.status, run.spec.model) == ("finished", str(base))
    assert "lora on" in capsys.readouterr().out


def test_a_spec_and_its_fields_exclude_each_other() -> None:
    with pytest.raises(SpecError, match="r: give it in the spec or beside it, not both"):
        train(RunSpec(data="tickets"), r=4)
