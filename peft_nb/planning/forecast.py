"""What a run is expected to take, and whether that can be had."""

from __future__ import annotations

from dataclasses import dataclass

from peft_nb.errors import RunError

MARGIN = 1.2  # the error of an estimate, by benchmarks/forecast.py


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take. Memory is resident memory in MB (10^6 bytes), at its peak; on a GPU, the GPU's.

    Attributes
    ----------
    weights_mb, adapter_mb, optimizer_mb : float
        The frozen base; what is trained, with its gradients and a copy where it is small; what the optimizer keeps.
    activations_mb, loss_mb : float
        What the largest micro-batch keeps for its backward pass; what is needed beside it for a moment, by the loss
        or by the backward pass of one layer, and holes that the allocator cannot use.
    process_mb : float
        Python, PyTorch and libraries, and whatever else is in this process now; on a GPU, what it holds there.
    room_mb : float
        What the process can have at most: what it has and what is free under the container's limit.
    seconds : float or None
        Of training, with the evaluations between its steps; None where `untimed` says why.
    evaluation_seconds : float or None
        Of all evaluations, also the one before the first step and the one after the last, and of what a reference makes
        of the training rows.
    steps, tokens : int
        Optimizer steps, and the tokens they compute: padding included, shared prefixes once.
    trainable_parameters, token_budget : int
        What is trained; most tokens computed at once.
    dtype, path : str
        The precision, and how batches are formed: padding-free or padded.
    examples : int
        Training examples, about.
    slowdown : float
        How many times as long it takes if the machine stays as busy as it is.
    fixes : tuple of tuple of str and float
        Where it is tight: settings that would fit, and the peak with each in MB.
    device : str
        ``cpu`` or ``cuda``.
    untimed : str
        Why the time is not foreseen.
    longest_answers : bool
        Whether the time is that of answers which are all as long as they may be, so that it takes so long at most.
    """

    weights_mb: float
    adapter_mb: float
    optimizer_mb: float
    activations_mb: float
    loss_mb: float
    process_mb: float
    room_mb: float
    seconds: float | None
    evaluation_seconds: float | None
    steps: int
    tokens: int
    trainable_parameters: int
    token_budget: int
    dtype: str
    path: str
    examples: int = 0
    slowdown: float = 1.0
    fixes: tuple[tuple[str, float], ...] = ()
    device: str = "cpu"
    untimed: str = ""
    longest_answers: bool = False

    @property
    def memory_mb(self) -> float:
        """The peak: the sum of all parts."""
        held = self.weights_mb + self.adapter_mb + self.optimizer_mb
        return held + self.activations_mb + self.loss_mb + self.process_mb

    @property
    def tight(self) -> bool:
        """Whether that is more than the run can have, if the estimate is exact."""
        return self.memory_mb > self.room_mb

    @property
    def fits(self) -> bool:
        """Whether the run can have that much, allowing for the error of an estimate."""
        return self.memory_mb <= MARGIN * self.room_mb

    @property
    def shortage(self) -> str:
        """What is missing and the settings that fix it, in one line; empty where there is enough."""
        if not self.tight:
            return ""
        able = " or ".join(f"{setting} (about {mb:,.0f} MB)" for setting, mb in self.fixes)
        fix = f"set {able}" if able else "use a smaller model, or free some memory"
        return f"the run needs about {self.memory_mb:,.0f} MB of memory and {self.room_mb:,.0f} MB are available; {fix}"

    def require_memory(self) -> None:
        """Refuse a run that cannot fit.

        Raises
        ------
        RunError
            With the settings that would make it fit.
        """
        if not self.fits:
            raise RunError(self.shortage)
