"""What no training changes is computed once, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from peft_nb.data.images.encoding import example
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.models import image_head
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.training.image_objective import ImageObjective
from tests import images

PREPARE, CPU = Preprocess(0, 32, 32), torch.device("cpu")
EXAMPLES = [example(row["image"], PREPARE, 17, (n % 3,)) for n, row in enumerate(images.rows(6))]


def cross_entropy(logits: torch.Tensor, some: Any) -> torch.Tensor:
    wanted = torch.tensor([one.labels[0] for one in some])
    return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")


def adapted(path: Path, family: str, layers: list[int] | None) -> Any:
    base = load(resolve(images.vision_model(path / family, family)), kind="vision")
    model, new = image_head.build(base, ["a", "b", "c"], "single_label_classification")
    names = "q_proj|query|k_proj|key|fc1|fc2|dense"
    places = "|".join(map(str, layers)) if layers else r"\d"
    config = LoraConfig(target_modules=rf".*\.({places})\..*({names})", modules_to_save=new, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(model, config)


def gradients(model: Any, objective: ImageObjective, rounds: int = 1) -> tuple[float, torch.Tensor]:
    trained = [one for one in model.parameters() if one.requires_grad]
    with objective.installed(model):
        for _ in range(rounds):
            loss = objective.loss(model, EXAMPLES, CPU)
            found = torch.autograd.grad(loss, trained, allow_unused=True)
    return loss.item(), torch.cat([one.flatten() for one in found if one is not None])


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip"])
def test_losses_and_gradients_are_those_of_the_plain_way(family: str, tmp_path: Path) -> None:
    model = adapted(tmp_path, family, [1]).train()
    fast, plain = ImageObjective(PREPARE, cross_entropy, plain=False), ImageObjective(PREPARE, cross_entropy)
    wanted = gradients(model, plain)
    for rounds in (1, 2):  # the second out of what was kept
        found = gradients(model, fast, rounds)
        assert found[0] == pytest.approx(wanted[0], rel=1e-5)
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5)


def test_the_lower_blocks_run_once_an_image(tmp_path: Path) -> None:
    model = adapted(tmp_path, "dinov2", [1])
    objective, ran = ImageObjective(PREPARE, cross_entropy, plain=False), list[int]()
    lower, upper = model.get_base_model().dinov2.encoder.layer
    lower.norm1.register_forward_hook(lambda part, given, out: ran.append(len(out)))
    upper.norm1.register_forward_hook(lambda part, given, out: ran.append(-len(out)))
    with objective.installed(model):
        objective.loss(model, EXAMPLES[:4], CPU).backward()
        objective.loss(model, EXAMPLES, CPU).backward()
        with torch.inference_mode():
            objective.logits(model, EXAMPLES[:2], CPU)
    assert ran == [4, -4, 2, -6, -2]


def test_nothing_is_kept_where_the_first_block_is_trained_or_drops_out(tmp_path: Path) -> None:
    objective = ImageObjective(PREPARE, cross_entropy, plain=False)
    for layers, dropout in ((None, 0.0), ([1], 0.1)):
        model = adapted(tmp_path, "vit", layers)
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = dropout
        with objective.installed(model):
            assert not objective.frozen.at_work


def test_what_does_not_fit_into_memory_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft_nb.training.frozen_blocks.memory_available_mb", lambda: 0.0)
    model = adapted(tmp_path, "vit", [1])
    fast, plain = ImageObjective(PREPARE, cross_entropy, plain=False), ImageObjective(PREPARE, cross_entropy)
    torch.testing.assert_close(gradients(model, fast, 2)[1], gradients(model, plain)[1], rtol=1e-4, atol=1e-5)
