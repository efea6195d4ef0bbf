"""The weights of adapters that are not on the base: read ahead by a thread, or kept in memory in 8 bits."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from peft_nb.serving.adapter_files import Adapter


@dataclass(frozen=True)
class Packed:
    """A matrix in 8 bits: whole numbers from -127 to 127, the step of each row, and the shape it had."""

    numbers: Tensor
    steps: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Packed:
        """Round a matrix to whole steps, each row by its largest value (absmax quantization)."""
        import torch

        rows = weight.float().reshape(len(weight), -1) if weight.dim() else weight.float().reshape(1, 1)
        steps = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        return cls((rows / steps).round().to(torch.int8).reshape(weight.shape), steps)

    def unpacked(self) -> Tensor:
        """Give the matrix back, in float32."""
        numbers = self.numbers.float()
        return (numbers.reshape(len(self.steps), -1) * self.steps).reshape(numbers.shape)

    @property
    def mb(self) -> float:
        """What it takes, in MB."""
        return (self.numbers.numel() + 4 * self.steps.numel()) / 1e6


class AdapterBank:
    """Weights of adapters by name.

    Parameters
    ----------
    in_8_bits : bool, default False
        Whether what was read once stays, in 8 bits. An adapter then always answers from 8 bits, also the first time, so
        that its answers do not depend on what was asked before.
    """

    def __init__(self, in_8_bits: bool = False) -> None:
        self.in_8_bits = in_8_bits
        self._packed: OrderedDict[str, dict[str, Packed]] = OrderedDict()  # the one used last at the end
        self._reader: ThreadPoolExecutor | None = None
        self._ahead: dict[str, Future[dict[str, Tensor]]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._packed or name in self._ahead

    @property
    def mb(self) -> float:
        """What is kept in 8 bits, in MB."""
        return sum(one.mb for held in self._packed.values() for one in held.values())

    def weights(self, one: Adapter) -> dict[str, Tensor]:
        """Give the weights of an adapter, from memory where they are.

        Parameters
        ----------
        one : Adapter
            Which.

        Returns
        -------
        dict of str to torch.Tensor
            As they are named in its file.
        """
        if one.name in self._packed:
            self._packed.move_to_end(one.name)
        else:
            ahead = self._ahead.pop(one.name, None)
            found = ahead.result() if ahead else _read(one.folder)
            if not self.in_8_bits:
                return found
            self._packed[one.name] = {key: Packed.of(weight) for key, weight in found.items()}
        return {key: packed.unpacked() for key, packed in self._packed[one.name].items()}

    def read_ahead(self, one: Adapter) -> None:
        """Begin to read an adapter that will be wanted next; another one that was read so and not taken is dropped."""
        if one.name in self:
            return
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="peft_nb-adapters")
        for other in list(self._ahead):
            self._ahead.pop(other).cancel()
        self._ahead[one.name] = self._reader.submit(_read, one.folder)

    def shrink(self, most_mb: float) -> None:
        """Forget those not used for longest until the rest takes at most so many MB."""
        while self._packed and self.mb > most_mb:
            self._packed.popitem(last=False)

    def clear(self) -> None:
        """Give back the memory of all."""
        self._packed.clear()
        self._ahead.clear()


def _read(folder: Path) -> dict[str, Tensor]:
    from peft import load_peft_weights

    found: dict[str, Tensor] = load_peft_weights(str(folder), device="cpu")
    return found
