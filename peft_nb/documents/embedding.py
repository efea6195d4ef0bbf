"""Texts as vectors of length 1 that lie close together where they mean alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peft_nb.data.rendering import tokens
from peft_nb.events import Progress, silent
from peft_nb.models.load import Base, load
from peft_nb.models.resolve import resolve

BATCH_TOKENS = 4096  # padding included
LONGEST = 256  # tokens of a text that are read, as small sentence encoders were trained on


class Embedder:
    """An encoder that is loaded when the first text is embedded.

    The mean over the hidden states of a text's tokens, as Sentence-BERT (Reimers and Gurevych, 2019, arXiv:1908.10084).

    Parameters
    ----------
    model : str
        An alias, a folder or a name on the hub of an encoder, such as ``minilm-l6``.
    namespace : mapping, optional
        The notebook's variables, of which `model` may be one.
    """

    def __init__(self, model: str, namespace: Mapping[str, Any] | None = None) -> None:
        self.model, self._namespace = model, namespace
        self._base: Base | None = None

    @property
    def waits(self) -> bool:
        """Whether the encoder is still to be loaded."""
        return self._base is None

    def load(self, progress: Progress = silent) -> Base:
        """Load the encoder, or give the one that is loaded.

        Raises
        ------
        ModelError
            The model cannot be fetched or is none that reads texts.
        """
        if self._base is None:
            progress(0, f"loading {self.model}")
            self._base = load(resolve(self.model, namespace=self._namespace), kind="encoder", progress=progress)
        return self._base

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Embed texts.

        Parameters
        ----------
        texts : sequence of str
            What to embed; of each the first 256 tokens, or what the encoder reads at most.
        progress : callable, optional
            Told how far it is.

        Returns
        -------
        numpy.ndarray
            Shape ``(texts, hidden size)``, float32, each row of length 1.
        """
        import torch

        base = self.load(progress)
        longest = min(LONGEST, getattr(base.model.config, "max_position_embeddings", LONGEST))
        encoded = tokens(base.tokenizer, texts, longest)
        order = sorted(range(len(encoded)), key=lambda at: -len(encoded[at]))
        found = np.zeros((len(encoded), base.model.config.hidden_size), dtype=np.float32)
        done = 0
        while done < len(order):
            width = len(encoded[order[done]])
            here = order[done : done + max(1, BATCH_TOKENS // width)]
            ids = torch.full((len(here), width), base.tokenizer.pad_token_id)
            seen = torch.zeros(len(here), width, dtype=torch.long)
            for row, at in enumerate(here):
                ids[row, : len(encoded[at])] = torch.tensor(encoded[at])
                seen[row, : len(encoded[at])] = 1
            with torch.inference_mode():
                hidden = base.model(ids.to(base.device), attention_mask=seen.to(base.device)).last_hidden_state
                weight = seen.to(hidden)[..., None]
                mean = (hidden * weight).sum(1) / weight.sum(1)
                found[here] = torch.nn.functional.normalize(mean.float(), dim=-1).cpu().numpy()
            done += len(here)
            progress(done / len(order), f"embedding {len(order):,} chunks")
        return found
