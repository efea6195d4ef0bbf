from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from peft_nb.documents.embedding import Embedder
from peft_nb.errors import ModelError


def test_a_vector_is_the_mean_over_a_texts_own_tokens(encoder: Path, labelled: list[dict[str, str]]) -> None:
    texts = [row["text"] for row in labelled[:5]] + [" ".join(row["text"] for row in labelled[:9]), ""]
    embedder = Embedder(str(encoder))
    assert embedder.waits
    stages: list[str] = []
    found = embedder.embed(texts, lambda share, stage: stages.append(stage))
    assert not embedder.waits
    assert stages[-1] == f"embedding {len(texts)} chunks"
    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    for text, vector in zip(texts, found, strict=True):
        alone = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
        with torch.inference_mode():
            mean = model(**alone).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    assert embedder.embed([]).shape == (0, 32)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="minilm-l7"):
        Embedder("minilm-l7").embed(["text"])
