"""transformers' private API is where it was, and does what it is taken for."""

from __future__ import annotations

import torch
from transformers import modeling_gguf_pytorch_utils as loader

from peft_nb.system import transformers_private
from tests import tiny
from tests.private_api import as_found


def test_all_of_it_is_where_it_was_read() -> None:
    assert as_found(transformers_private.API) == transformers_private.API


def test_a_part_is_drawn_as_the_model_was() -> None:
    model = tiny.base("llama", initializer_range=0.5)
    part = torch.nn.Linear(64, 64)
    transformers_private.initialize(model, part)
    assert 0.45 < part.weight.std() < 0.55
    assert not part.bias.any()


def test_the_name_of_the_attention_is_the_one_that_was_set() -> None:
    model = tiny.base("llama")
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert transformers_private.attention(model) == name


def test_the_loader_of_gguf_files_shows_its_progress_elsewhere_for_a_while() -> None:
    before, shown = loader.tqdm, object()
    with transformers_private.gguf_progress(shown):
        assert loader.tqdm is shown
    assert loader.tqdm is before
