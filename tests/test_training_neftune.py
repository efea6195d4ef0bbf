"""Noise on embeddings is transformers' own formula a row, only in training, and drawn again the same after a resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.integrations.neftune import neftune_post_forward_hook

from peft_nb.events import Notice, Planned
from peft_nb.methods import attach
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.training.draws import OwnDraws
from peft_nb.training.neftune import noisy, unshared
from peft_nb.training.objectives import Installed, Padded, PaddingFree
from tests import tiny
from tests.conftest import few, stop_at

ALPHA, CPU = 5.0, torch.device("cpu")
EXAMPLES = tiny.examples(6)


def model() -> Any:
    return attach(tiny.base("llama"), RunSpec(data="x", r=4), "").train()


def seen(objective: Any, adapted: Any, alpha: float | None, seed: int = 0) -> list[torch.Tensor]:
    """What the embeddings give for each example, under an objective."""
    caught: list[torch.Tensor] = []
    with noisy(adapted, alpha, EXAMPLES, OwnDraws(seed)):
        embeddings = adapted.get_base_model().get_input_embeddings()
        hook = embeddings.register_forward_hook(lambda module, given, output: caught.append(output.detach()))
        with Installed(objective, adapted):
            objective.loss(adapted, EXAMPLES, CPU)
        hook.remove()
    (rows,) = caught
    lengths = [len(one.ids) for one in EXAMPLES]
    if len(rows) == 1:
        return list(rows[0].split(lengths))
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


@pytest.mark.parametrize("objective", [Padded(0), PaddingFree(False)], ids=["padded", "padding-free"])
def test_the_noise_of_each_row_is_bounded_by_its_own_length(objective: Any) -> None:
    adapted = model()
    calm = seen(objective, adapted, None)
    noise = [loud - quiet for loud, quiet in zip(seen(objective, adapted, ALPHA), calm, strict=True)]
    for one in noise:
        bound = ALPHA / (one.shape[0] * one.shape[1]) ** 0.5
        assert 0.9 * bound < one.abs().max() <= bound * (1 + 1e-5)
        assert one.std() == pytest.approx(bound / 3**0.5, rel=0.15)  # of what is uniform
    assert len({len(one) for one in noise}) > 1
    assert not torch.allclose(noise[0][:4], noise[1][:4])


def test_one_row_alone_has_the_noise_that_transformers_gives_it() -> None:
    adapted, one = model(), EXAMPLES[:1]
    embeddings = adapted.get_base_model().get_input_embeddings()
    ids = torch.tensor([list(one[0].ids)])
    with noisy(adapted, ALPHA, one, OwnDraws(3)), torch.no_grad():
        mine = embeddings(ids)
    embeddings.neftune_noise_alpha = ALPHA
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        assert torch.allclose(mine, neftune_post_forward_hook(embeddings, (ids,), embeddings(ids)), atol=1e-6)


def test_rows_that_share_a_prefix_are_not_computed_together() -> None:
    assert unshared(PaddingFree(True), ALPHA) == PaddingFree(False)
    shared, padded = PaddingFree(True), Padded(0)
    assert unshared(shared, None) is shared
    assert unshared(padded, ALPHA) is padded


@pytest.fixture
def run(spec: Callable[..., RunSpec], rows: list[Any], store: Store) -> Callable[..., Run]:
    def run(*listeners: Any, **fields: Any) -> Run:
        wanted = {"system": "Answer kindly and briefly.", "max_steps": 4, "save_steps": 1, "neftune_noise_alpha": ALPHA}
        return begin(spec(**{**wanted, **fields}), data=rows, store=store, listeners=listeners).wait()

    return run


@pytest.mark.parametrize("fast", few([True, False], True))
def test_a_stopped_run_draws_the_same_noise_again(fast: bool, run: Callable[..., Run], store: Store) -> None:
    told: list[Any] = []
    whole, calm = run(told.append, fast=fast), run(fast=fast, neftune_noise_alpha=None)
    stopped = run(stop_at(2), fast=fast)
    assert stopped.status == "stopped"
    resumed = load(stopped.id, store=store).resume()
    wanted, found = (load_file(one.adapter_dir / "adapter_model.safetensors") for one in (whole, resumed))
    assert all(torch.equal(one, found[key]) for key, one in wanted.items())
    first, quiet = whole.history, calm.history
    assert first["loss"][1] != quiet["loss"][1]
    assert first["eval_loss"][0] == pytest.approx(quiet["eval_loss"][0], rel=1e-6)  # no noise where nothing is learned
    if fast:
        (plan,) = [one for one in told if isinstance(one, Planned)]
        assert plan.path == "padding-free"
        assert "padding-free, shared prefixes" in calm.metrics["path"]
        assert any(isinstance(one, Notice) and "neftune_noise_alpha" in one.text for one in told)


def test_encoders_learn_with_noise_as_well(
    spec: Callable[..., RunSpec], labelled: list[dict[str, str]], encoder: Any, store: Store
) -> None:
    wanted = {"model": str(encoder), "task": "classification", "max_steps": 2, "max_length": 16}
    losses = [
        begin(spec(**wanted, neftune_noise_alpha=alpha), data=labelled[:40], store=store).wait().history["loss"][1]
        for alpha in (None, ALPHA)
    ]
    assert losses[0] != losses[1]
