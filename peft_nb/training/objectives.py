"""The two ways from a micro-batch to its loss: padding-free where that is exact, padded everywhere else."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn

from peft_nb.training import attention, fused, gpu_attention, selfcheck
from peft_nb.training.loss import Products, log_probs, token_scores
from peft_nb.training.packing import (
    IGNORE,
    Encoded,
    micro_batches,
    pack,
    pad,
    short_positions,
    supervised_targets,
)

# Relative differences of the loss and of the gradients that rounding explains; a token that sees another example,
# or is predicted from the wrong place, changes both many times more.
TOLERANCE = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (1e-2, 1e-1), torch.float16: (1e-3, 1e-2)}


class Objective(Protocol):
    """A way from a micro-batch to its loss."""

    @property
    def padded(self) -> bool:
        """Whether every example is padded to the longest of its micro-batch."""

    @property
    def share_prefix(self) -> bool:
        """Whether leading tokens that examples of a micro-batch share are computed once."""

    def cut(self, examples: Sequence[Any], budget: int) -> list[list[Any]]:
        """Cut examples into micro-batches of at most ``budget`` tokens."""

    def targets(self, examples: Sequence[Any]) -> int:
        """What the mean loss of some examples is divided by."""

    def loss(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Summed loss of the examples, in nats."""

    def scores(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Sum up each example without a gradient; shape ``(examples, 3 + …)``, float64.

        The columns: its loss, its targets that greedy decoding would find (NaN where none are tokens), its targets,
        what :meth:`summary` takes.
        """

    def begin(self, model: nn.Module, examples: Sequence[Any], budget: int, device: torch.device) -> Sequence[Any]:
        """Look at all examples of a step or an evaluation, before they are cut, and give what is learned of them."""

    def summary(self, measured: torch.Tensor) -> dict[str, float]:
        """Metrics of some examples beside the loss, by the further columns of :meth:`scores`."""

    def logged(self) -> dict[str, float]:
        """What was measured while training since this was last asked."""

    def installed(self, model: PeftModel) -> AbstractContextManager[None]:
        """Make the model ready for this path while the context lasts."""


class Installed:
    """A context in which a model is ready for a path, and out of which the path can be taken for a while.

    Parameters
    ----------
    objective : Objective
        What to install.
    model : PeftModel
        Where.
    """

    def __init__(self, objective: Objective, model: PeftModel) -> None:
        self._objective, self._model = objective, model

    def __enter__(self) -> Installed:
        self._context = self._objective.installed(self._model)
        self._context.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)

    @contextmanager
    def taken_out(self) -> Iterator[None]:
        """Give the model its own forward pass back while this context lasts."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()


class Cutting:
    """What objectives have in common that learn each example by itself, and measure nothing but its loss.

    Of these attributes ``micro_batches`` says what they are.
    """

    padded: bool
    share_prefix: bool
    short: int

    def begin(self, model: nn.Module, examples: Sequence[Any], budget: int, device: torch.device) -> Sequence[Any]:
        """The examples themselves."""
        return examples

    def summary(self, measured: torch.Tensor) -> dict[str, float]:
        """No metrics."""
        return {}

    def logged(self) -> dict[str, float]:
        """No metrics."""
        return {}

    def cut(self, examples: Sequence[Any], budget: int) -> list[list[Any]]:
        """Cut examples into micro-batches of at most ``budget`` tokens; a single longer one gets one of its own."""
        return micro_batches(examples, budget, self.padded, self.share_prefix, self.short)


class Tokenwise(Cutting, ABC):
    """Losses of tokens, as generation learns them."""

    def targets(self, examples: Sequence[Encoded]) -> int:
        """Number of supervised tokens."""
        return sum(len(supervised_targets(one)) for one in examples)

    def loss(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        """Summed negative log-likelihood of the supervised tokens, in nats."""
        return -self._log_probs(model, examples, device).sum()

    def log_probs(
        self, model: nn.Module, examples: Sequence[Encoded], device: torch.device
    ) -> tuple[torch.Tensor, ...]:
        """Log-probabilities of the supervised tokens of each example, differentiable; a sequence's is their sum."""
        counts = [len(supervised_targets(one)) for one in examples]
        return self._log_probs(model, examples, device).split(counts)

    @abstractmethod
    def _log_probs(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        """Of all supervised tokens, one example after the other."""


@dataclass(frozen=True)
class Padded(Tokenwise):
    """Rows padded to equal length through the model's own forward pass; right for every model and method."""

    pad_id: int
    reason: str = ""
    padded: bool = True
    share_prefix: bool = False
    short: int = 0

    def __str__(self) -> str:
        return f"padded ({self.reason})" if self.reason else "padded"

    def _log_probs(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        inputs = {name: tensor.to(device) for name, tensor in pad(examples, self.pad_id).items()}
        logits, targets, _ = self._predicted(model, inputs, inputs.pop("labels"))
        return -F.cross_entropy(logits, targets, reduction="none")

    def _predicted(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The logits of the supervised tokens, these tokens, and the example each belongs to."""
        # A soft prompt stands before the tokens, and its logits are none of theirs.
        logits = model(**inputs, use_cache=False).logits[:, -labels.shape[1] : -1]
        labels = labels[:, 1:]
        wanted = labels != IGNORE
        return logits[wanted].float(), labels[wanted], wanted.nonzero()[:, 0]

    @torch.no_grad()
    def scores(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        """Loss, right tokens and tokens of each example; as of :meth:`Objective.scores`."""
        inputs = {name: tensor.to(device) for name, tensor in pad(examples, self.pad_id).items()}
        logits, targets, owner = self._predicted(model, inputs, inputs.pop("labels"))
        losses = F.cross_entropy(logits, targets, reduction="none")
        return _by_example(torch.stack((losses, logits.argmax(-1) == targets)), owner, len(examples))

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Nothing to install: the model is used as it is."""
        yield


@dataclass(frozen=True)
class PaddingFree(Tokenwise):
    """Examples end to end in one row, a loss without logits, fused layers, and shared prefixes run once."""

    share_prefix: bool
    padded: bool = False
    short: int = 0
    kernel: str = ""  # of attention; empty for what suits
    reason: str = ""  # why a GPU takes one segment after the other

    def __str__(self) -> str:
        slowed = f", attention segment by segment ({self.reason})" if self.reason else ""
        return ("padding-free, shared prefixes" if self.share_prefix else "padding-free") + slowed

    def _log_probs(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        found: torch.Tensor = model(**pack(examples, self.share_prefix).inputs(device), kernel=self.kernel)
        return found

    @torch.no_grad()
    def scores(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        """Loss, right tokens and tokens of each example; as of :meth:`Objective.scores`."""
        found = model(**pack(examples, self.share_prefix).inputs(device), kernel=self.kernel, scored=True)
        counts = torch.tensor([len(supervised_targets(one)) for one in examples], device=device)
        return _by_example(found, torch.arange(len(examples), device=device).repeat_interleave(counts), len(examples))

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Give the model the padding-free forward pass while the context lasts.

        The log-probabilities come out of the causal language model's forward, inside whatever DDP or FSDP wraps.
        """
        causal = model.get_base_model()
        with ExitStack() as stack:
            stack.enter_context(attention.installed(causal))
            stack.enter_context(fused.installed(model))
            causal.forward = _forward_to_log_probs(causal)
            stack.callback(causal.__dict__.pop, "forward")
            yield


def _by_example(of_tokens: torch.Tensor, owner: torch.Tensor, examples: int) -> torch.Tensor:
    """Add up losses, right tokens and tokens by example."""
    sums = torch.zeros(3, examples, dtype=torch.float64, device=owner.device)
    sums.index_add_(1, owner, torch.cat((of_tokens.double(), torch.ones_like(of_tokens[:1], dtype=torch.float64))))
    return sums.T


def _forward_to_log_probs(causal: Any) -> Callable[..., torch.Tensor]:
    decoder, head = getattr(causal, causal.base_model_prefix), causal.get_output_embeddings()
    # What families make of their logits: Cohere, Granite, Gemma 2; the check at start finds who does it otherwise.
    config = causal.config
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)

    def forward(
        sources: torch.Tensor,
        targets: torch.Tensor,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segments: list[int],
        parents: list[int],
        kernel: str = "",
        scored: bool = False,
        **ignored: Any,
    ) -> torch.Tensor:
        hidden = decoder(
            input_ids=input_ids,
            position_ids=position_ids,
            segments=segments,
            parents=parents,
            kernel=kernel,
            use_cache=False,
        ).last_hidden_state
        predicting = hidden[0, sources] if scale == 1 else hidden[0, sources] * scale
        return (token_scores if scored else log_probs)(_products(head, predicting), targets, head.bias, softcap)

    return forward


def _products(head: Any, hidden: torch.Tensor) -> Products:
    """What a head's logits are made of: its weight, trained or not, and the B of a LoRA on it."""
    if not fused.fits(head):
        return [(hidden, head.weight)]
    name = head.active_adapters[0]
    down, up = (one[name].weight.to(hidden.dtype) for one in (head.lora_A, head.lora_B))
    return [(hidden, head.weight), (hidden @ down.t() * head.scaling[name], up)]


def choose(
    model: PeftModel,
    examples: Sequence[Encoded],
    pad_id: int,
    device: torch.device,
    *,
    fast: bool,
    supported: bool,
) -> Padded | PaddingFree:
    """Pick the padding-free path if it gives this model's losses and gradients, the padded one otherwise.

    Before the first step both are run on a few short cuts of the examples, once a feature that the run will use; see
    :mod:`peft_nb.training.selfcheck`. Where only prefixes cannot be shared, the rest of the path is still used.

    Parameters
    ----------
    model : PeftModel
        The base with the adapter that will be trained.
    examples : sequence of Encoded
        Training examples.
    pad_id : int
        Token to pad with.
    device : torch.device
        Where the model is.
    fast : bool
        Whether the user wants the padding-free path.
    supported : bool
        Whether the method can use it: it must add no virtual tokens.

    Returns
    -------
    Padded or PaddingFree
        The path, the padded one with the reason for it.
    """
    causal = model.get_base_model()
    padded = Padded(pad_id, unwanted(causal, fast, supported) or obstacle(model), short=short_positions(causal.config))
    if padded.reason:
        return padded
    dtype = causal.get_output_embeddings().weight.dtype
    reasons = [gpu_attention.slowed(causal.config, dtype, device)]
    for kernel in ("", gpu_attention.EACH)[: 1 + (device.type == "cuda")]:
        slowed = reasons[-1]
        for share in (False,) if _drops_out(model) else (True, False):
            objective = PaddingFree(share, short=padded.short, kernel=kernel, reason=slowed)
            reasons.append(fault(model, objective, padded, examples, device, dtype))
            if not reasons[-1]:
                return objective
    return replace(padded, reason=reasons[-1])


def unwanted(model: Any, fast: bool, supported: bool) -> str:
    """Why no padding-free path can be used with a model, whatever is learned, or an empty string."""
    if not fast:
        return "fast is off"
    if not supported:
        return "the method adds virtual tokens"
    if not getattr(model, "_supports_attention_backend", False) and not getattr(model, "_supports_sdpa", False):
        return f"{type(model).__name__} does not take another attention function"
    return ""


def obstacle(model: PeftModel) -> str:
    """Why a causal model cannot use the padding-free path, or an empty string."""
    causal = model.get_base_model()
    head = causal.get_output_embeddings()
    inner = getattr(head, "original_module", getattr(head, "base_layer", head))
    if type(inner) is not nn.Linear:
        return "the output head is not a plain linear layer"
    if inner is not head and not head.weight.requires_grad and not fused.fits(head):
        return "the output head has more than plain LoRA on it"
    return ""


def fault(
    model: PeftModel,
    objective: Objective,
    padded: Objective,
    examples: Sequence[Any],
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    """Say in what a path fails to give what the padded one gives, beyond what rounding in ``dtype`` explains.

    Parameters
    ----------
    model : PeftModel
        The model.
    objective, padded : Objective
        What to try, and what is right.
    examples : sequence of Example
        What the run trains on.
    device : torch.device
        Where the model is.
    dtype : torch.dtype
        What the base computes in.

    Returns
    -------
    str
        Empty when the two agree on whatever the run will use.
    """
    most_loss, most_gradient = TOLERANCE[dtype]
    trial = selfcheck.trial(examples, objective.share_prefix)
    try:
        with selfcheck.narrowed(model, trial.narrow_below):
            loss, gradient = disagreement(model, objective, padded, trial.examples, device)
    except Exception as error:
        return f"the padding-free path does not fit {type(model.get_base_model()).__name__}: {error}"
    if loss <= most_loss and gradient <= most_gradient:
        return ""
    if math.isinf(gradient):
        return "the padding-free path leaves out a part that is trained"
    differed = f"its loss by {loss:.1e} and its gradients by {gradient:.1e}"
    return f"the padding-free path differed on a few examples, {differed}"


def disagreement(
    model: PeftModel, objective: Objective, other: Objective, examples: Sequence[Any], device: torch.device
) -> tuple[float, float]:
    """Relative difference between two paths: of the loss, and of the gradients by the norm of their difference.

    Parameters
    ----------
    model : PeftModel
        The model; dropout is switched off for the comparison and its gradients are cleared.
    objective, other : Objective
        What to compare.
    examples : sequence of Encoded or Labelled
        A few examples.
    device : torch.device
        Where the model is.

    Returns
    -------
    tuple of float
        Both 0 when the two agree to the last bit.
    """
    results: list[tuple[float, torch.Tensor]] = []
    training = model.training
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for one in (objective, other):
            with one.installed(model):
                loss = torch.stack([one.loss(model, few, device) for few in one.cut(examples, sys.maxsize)]).sum()
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            flat = torch.cat([g.flatten().float() for g in gradients if g is not None])
            results.append((loss.item(), flat))
    finally:
        model.train(training)
    (mine, gradient), (other_loss, other_gradient) = results
    if gradient.shape != other_gradient.shape:
        return math.inf, math.inf
    return (
        abs(mine - other_loss) / max(abs(other_loss), 1e-8),
        float((gradient - other_gradient).norm() / other_gradient.norm().clamp_min(1e-8)),
    )


def _drops_out(model: PeftModel) -> bool:
    """Whether training is random: one prefix run once for all segments would share its dropout."""
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return True
    config = model.get_base_model().config
    return any((getattr(config, name, 0) or 0) > 0 for name in ("attention_dropout", "attn_pdrop"))
