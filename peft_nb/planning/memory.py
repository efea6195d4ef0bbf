"""What a run keeps in memory, in bytes, told from the shapes of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft_nb.models.load import loaded_bytes, sized_by
from peft_nb.planning.workload import Load
from peft_nb.system import resources
from peft_nb.system.resources import MB

FLOAT = 4  # bytes of what is trained, whatever the base is in
# Measured on models of many sizes: by how much libraries grow between the forecast and the last step (pages that they
# touch, threads, buffers, a tokenizer), and what share of all that comes and goes with a micro-batch is left in holes.
GROWTH, HOLES = 100e6, 0.5
TOKENWISE = 130e6  # by how much more where tokens are learned
# oneDNN multiplies in bfloat16 with a kernel for each shape, and keeps so many: their bytes, with the holes that they
# leave between batches of other sizes, and seconds to compile one.
KERNELS, KERNEL, KERNEL_S = 1024, 0.9e6, 2.5e-3
DRAWING = 4  # copies of the scores of a token, as it is drawn
_grown = 0.0  # by earlier runs of this process, which need not grow again


@dataclass(frozen=True)
class Shapes:
    """The sizes of a model that decide what it keeps.

    Attributes
    ----------
    layers, hidden, inner, words : int
        Number of layers, width, width inside the feed-forward part, entries of the vocabulary.
    size : int
        Bytes of a number of the base.
    cached : int
        Numbers of a token that a layer keeps for those written after it: its keys and values.
    """

    layers: int
    hidden: int
    inner: int
    words: int
    size: int
    cached: int = 0

    @classmethod
    def of(cls, config: Any, dtype: str) -> Shapes:
        """Read them from a model's configuration."""
        from peft_nb.training import probe

        text, sizes = sized_by(config), probe.sizes(config)
        heads = getattr(text, "num_attention_heads", None) or 1
        heads = 1 if isinstance(heads, list) else heads  # of a model in stages
        width = getattr(text, "head_dim", None) or sizes[1] // heads
        cached = 2 * width * (getattr(text, "num_key_value_heads", None) or heads)
        words = getattr(text, "vocab_size", 0)  # an image has none
        return cls(*sizes, words, 4 if dtype == "float32" else 2, cached)

    def kept(self, padded: bool) -> float:
        """About what one layer keeps of one token for its backward pass."""
        hidden, inner = (12, 5) if padded else (6, 2)
        return self.size * (hidden * self.hidden + inner * self.inner)

    def activations(self, tokens: float, kept: float, checkpointing: bool) -> float:
        """What the backward pass needs of so many tokens, of which a layer keeps ``kept`` bytes each."""
        inputs = tokens * self.hidden * self.size
        ends = 4 * inputs  # embeddings, last norm, and the gradients there
        return ends + (self.layers * inputs + tokens * kept if checkpointing else self.layers * tokens * kept)

    def writing(self, answers: int, tokens: float) -> float:
        """What it takes to write so many answers at once that come to so many tokens each, prompts included."""
        return answers * (tokens * self.layers * self.cached * self.size + DRAWING * FLOAT * self.words)

    def heard(self, clips: int, positions: int) -> float:
        """What an encoder that is not trained takes for a moment to hear so many clips."""
        return self.size * clips * positions * (4 * self.hidden + 2 * self.inner)

    def loss(self, micro: Load, whole: bool, device: str = "cpu") -> float:
        """What the loss of a micro-batch needs beside that: logits by the chunk, or of all positions at once."""
        from peft_nb.training.loss import CHUNK_BYTES, GPU_CHUNK_BYTES

        if whole:
            forward = micro.positions * self.size + micro.predicted * (self.size + FLOAT)
            backward = max(3 * FLOAT * micro.predicted, 2 * micro.positions * self.size)  # as a slice and whole
            return self.words * max(forward, backward)
        held = GPU_CHUNK_BYTES if device == "cuda" else CHUNK_BYTES
        chunk = min(micro.predicted, max(16, held // (4 * self.words))) * self.words
        return 2 * FLOAT * chunk + 2 * micro.predicted * self.hidden * self.size  # logits, and what logsumexp makes


def sizes(model: Any) -> tuple[int, int]:
    """Count the weights of a base with what lies beside its tree, and those of linear layers but its head."""
    import torch

    linear = [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear)]
    head = model.get_output_embeddings()
    inner = sum(one.numel() for one in linear if head is None or one is not head.weight)
    return sum(one.numel() for one in model.parameters()) + getattr(model, "beside", 0), inner


def weights(count: int, inner: int, quantization: str, size: int) -> float:
    """Bytes of a base, quantized as it will be, given :func:`sizes` and the bytes of a number."""
    total: float = count * size
    if quantization == "none":
        return total
    # NF4 with double quantization: 4 bits a weight, 8 a block of 64, 32 a block of 256 of those.
    each = 0.5 + 1 / 64 + 4 / 64 / 256 if quantization == "4bit" else 1.0
    return total + inner * (each - size)


def trained(count: float) -> float:
    """Bytes of what is trained, its gradients, and the copy of few of them by which a bad step is undone."""
    from peft_nb.training.trainer import UNDO_BYTES

    return FLOAT * count * (3 if FLOAT * count <= UNDO_BYTES else 2)


def growth(tokenwise: bool, kernels: float) -> float:
    """By how much libraries will grow that multiply by so many kernels."""
    return max(0.0, GROWTH + TOKENWISE * tokenwise + KERNEL * min(KERNELS, kernels) - _grown)


def process(device: str = "cpu") -> float:
    """Of this process on a device, without the bases it holds and without what it has freed."""
    resources.give_back_memory(device)
    return resources.device_memory_mb(device) * MB - loaded_bytes()


def settle(before: float) -> None:
    """Note by how much a run has left the process larger, which was so large before it."""
    global _grown
    _grown += max(0.0, process() - before)
