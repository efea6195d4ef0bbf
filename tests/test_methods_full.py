"""Full fine-tuning from a spec, and as a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peft_nb.methods import attach
from peft_nb.methods.full.config import FullConfig
from peft_nb.runs.run import Run, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests import tiny
from tests.conftest import stop_at


def test_the_spec_reaches_the_config() -> None:
    def made(options: dict[str, object], **fields: object) -> FullConfig:
        spec = RunSpec(data="x", method="full", method_options=options, **fields)
        return attach(tiny.base("llama"), spec, "base").peft_config["default"]

    assert made({}).target_modules is None
    assert set(made({}, target_modules="layers.1,norm").target_modules) == {"layers.1", "norm"}
    assert made({"exclude_modules": ["lm_head"]}).exclude_modules == ["lm_head"]


@pytest.mark.exhaustive
def test_a_run_trains_everything_goes_on_after_a_stop_and_is_found_again(
    start: Callable[..., Run], store: Store
) -> None:
    fields = {"method": "full", "learning_rate": 1e-3, "weight_decay": 0.1}
    run = start(**fields).wait()
    losses = run.history.loss.dropna().tolist()
    assert losses[-1] < 0.9 * losses[0]
    assert run.metrics["total_parameters"] == 2 * run.metrics["trainable_parameters"]
    assert "the output head is trained" in run.metrics["path"]
    assert "import peft_nb.methods.full.model" in (run.adapter_dir / "README.md").read_text()
    stopped = start(stop_at(3), **fields).wait()
    assert stopped.resume().history.loss.dropna().tolist() == losses
    answer, bare = (run.generate("Hello", max_new_tokens=8, adapter=on) for on in (True, False))
    assert load(run.id, store=store).generate("Hello", max_new_tokens=8) == answer != bare
