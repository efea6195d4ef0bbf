"""The two ways from a micro-batch to its loss: padding-free where that is exact, padded everywhere else."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn

from peft_nb.models.quiet import first_line
from peft_nb.training import attention, compiled, fused, gpu_attention, selfcheck
from peft_nb.training.loss import Products, log_probs, token_scores
from peft_nb.training.packing import (
    IGNORE,
    Encoded,
    micro_batches,
    pack,
    pad,
    sent,
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
    compiling : bool, default False
        Whether to compile the blocks of the model.
    """

    def __init__(self, objective: Objective, model: PeftModel, compiling: bool = False) -> None:
        self._objective, self._model, self._compiling = objective, model, compiling

    def __enter__(self) -> Installed:
        objective = Compiled(self._objective) if self._compiling else self._objective
        self._context = objective.installed(self._model)
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


class Compiled:
    """An objective in a model whose blocks are compiled."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Compile the blocks, and make the model ready for the objective's path around them."""
        with compiled.installed(model), self._objective.installed(model):
            yield


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
    chunked: bool = False  # logits of supervised tokens alone, some at a time, where that was found to be the same

    def __str__(self) -> str:
        return f"padded ({self.reason})" if self.reason else "padded"

    def _log_probs(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        inputs, places, targets = self._rows(examples, device)
        if self.chunked:
            found: torch.Tensor = model(**inputs, places=places, targets=targets)
            return found
        return -F.cross_entropy(self._predicted(model, inputs, places), targets, reduction="none")

    @torch.no_grad()
    def scores(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        """Loss, correct tokens and tokens of each example; as of :meth:`Objective.scores`."""
        inputs, places, targets = self._rows(examples, device)
        if self.chunked:
            found = model(**inputs, places=places, targets=targets, scored=True)
        else:
            logits = self._predicted(model, inputs, places)
            found = torch.stack((F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets))
        return by_example(found, places[0], len(examples))

    def _rows(
        self, examples: Sequence[Encoded], device: torch.device
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """The model's inputs, row and place of what predicts each supervised token, and these tokens.

        Places are counted from the end: a soft prompt stands before the tokens.
        """
        inputs = pad(examples, self.pad_id)
        labels = inputs.pop("labels")
        rows, columns = (labels[:, 1:] != IGNORE).nonzero().T
        places, targets = torch.stack((rows, columns - labels.shape[1])), labels[rows, columns + 1]
        return {name: sent(one, device) for name, one in inputs.items()}, sent(places, device), sent(targets, device)

    def logits(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        """All logits, as the model gives them."""
        return self._logits(model, self._rows(examples, device)[0])

    def _logits(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = model(**inputs, use_cache=False).logits
        return found

    def _predicted(self, model: nn.Module, inputs: dict[str, torch.Tensor], places: torch.Tensor) -> torch.Tensor:
        """The logits of the supervised tokens."""
        return self._logits(model, inputs)[*places].float()

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Use the model as it is, or end its forward pass at its head while the context lasts."""
        if not self.chunked:
            yield
            return
        causal = model.get_base_model()
        forward = padded_to_log_probs(causal)
        with ExitStack() as stack:
            # With a soft prompt switched off, PEFT calls the base's forward pass as it was found then.
            if getattr(vars(model).get("forward"), "__self__", None) is causal:
                stack.enter_context(with_forward(model, forward))
            stack.enter_context(with_forward(causal, forward))
            yield


@dataclass(frozen=True)
class PaddingFree(Tokenwise):
    """Examples end to end in one row, a loss without logits, fused layers, and shared prefixes run once."""

    share_prefix: bool
    padded: bool = False
    short: int = 0
    kernel: str = ""  # of attention; empty for what suits

    def __str__(self) -> str:
        return "padding-free, shared prefixes" if self.share_prefix else "padding-free"

    def _log_probs(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        found: torch.Tensor = model(**pack(examples, self.share_prefix).inputs(device), kernel=self.kernel)
        return found

    @torch.no_grad()
    def scores(self, model: nn.Module, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
        """Loss, correct tokens and tokens of each example; as of :meth:`Objective.scores`."""
        found = model(**pack(examples, self.share_prefix).inputs(device), kernel=self.kernel, scored=True)
        counts = torch.tensor([len(supervised_targets(one)) for one in examples], device=device)
        return by_example(found, torch.arange(len(examples), device=device).repeat_interleave(counts), len(examples))

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Give the model the padding-free forward pass while the context lasts.

        The log-probabilities come out of the causal language model's forward, inside whatever DDP or FSDP wraps.
        """
        causal = model.get_base_model()
        with ExitStack() as stack:
            stack.enter_context(attention.installed(causal))
            stack.enter_context(fused.installed(model))
            stack.enter_context(with_forward(causal, _packed_to_log_probs(causal)))
            yield


def by_example(of_tokens: torch.Tensor, owner: torch.Tensor, examples: int) -> torch.Tensor:
    """Add up losses, correct tokens and tokens by example."""
    sums = torch.zeros(3, examples, dtype=torch.float64, device=owner.device)
    sums.index_add_(1, owner, torch.cat((of_tokens.double(), torch.ones_like(of_tokens[:1], dtype=torch.float64))))
    return sums.T


@contextmanager
def with_forward(causal: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a model another forward pass while the context lasts."""
    before = vars(causal).get("forward")
    causal.forward = forward
    try:
        yield
    finally:
        del causal.forward
        if before:
            causal.forward = before


def _packed_to_log_probs(causal: Any) -> Callable[..., torch.Tensor]:
    decoder, score = getattr(causal, causal.base_model_prefix), _scorer(causal)

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
            attention_mask=attention.nothing_hidden(input_ids),
            position_ids=position_ids,
            segments=segments,
            parents=parents,
            kernel=kernel,
            use_cache=False,
        ).last_hidden_state
        return score(hidden[0, sources], targets, scored)

    return forward


class _AtHead(Exception):
    """The head has been given its input; what the model would make of it is not needed."""


def padded_to_log_probs(causal: Any) -> Callable[..., torch.Tensor]:
    """The forward pass of a model with a head that ends there, and gives log-probabilities of tokens, or scores."""
    stock, head, score = causal.forward, causal.get_output_embeddings(), _scorer(causal)

    def forward(places: torch.Tensor, targets: torch.Tensor, scored: bool = False, **inputs: Any) -> torch.Tensor:
        seen: list[torch.Tensor] = []

        def note(head: nn.Module, given: tuple[torch.Tensor]) -> None:
            seen.append(given[0])
            raise _AtHead

        with head.register_forward_pre_hook(note), suppress(_AtHead):
            stock(**inputs | {"use_cache": False})
        return score(seen[0][*places], targets, scored)

    return forward


def _scorer(causal: Any) -> Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]:
    """What makes log-probabilities, or scores, of the hidden states that predict some tokens, and these tokens."""
    head, (scale, softcap) = causal.get_output_embeddings(), _made_of_logits(causal.config)

    def score(hidden: torch.Tensor, targets: torch.Tensor, scored: bool) -> torch.Tensor:
        predicting = hidden if scale == 1 else hidden * scale
        return (token_scores if scored else log_probs)(_products(head, predicting), targets, head.bias, softcap)

    return score


SCALES = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere, Falcon H1, Muse
DIVISORS = ("logits_scaling",)  # Granite
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma 2, RecurrentGemma, xLSTM


def _made_of_logits(config: Any) -> tuple[float, float | None]:
    """By what families multiply what their head gives, and under which bound they squeeze that then."""
    text = config.get_text_config()
    scale, divisor, cap = (
        next((value for name in names if (value := getattr(text, name, None))), None)
        for names in (SCALES, DIVISORS, CAPS)
    )
    return (scale or 1.0) / (divisor or 1.0), cap


@torch.no_grad()
def unfollowed(model: PeftModel, padded: Padded, examples: Sequence[Any], device: torch.device) -> str:
    """Say that a model makes something else of its logits than is followed here, or nothing.

    Where logits are small, as before any training, a bound that they are squeezed under changes no loss; it is tried on
    large ones, in place of those of the head. Parameters as of :func:`fault`.
    """
    causal, given, training = model.get_base_model(), list[torch.Tensor](), model.training

    def large(head: nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        given.append(torch.linspace(-50, 50, logits.numel(), device=device).view_as(logits).to(logits.dtype))
        return given[-1]

    model.eval()
    try:
        with causal.get_output_embeddings().register_forward_hook(large):
            found = padded.logits(model, selfcheck.trial(examples, False).examples[:1], device)
        scale, cap = _made_of_logits(causal.config)
    except Exception:  # the check that comes after says what does not work
        return ""
    finally:
        model.train(training)
    scaled = [factor * one.float() for one in given[-1:] for factor in (scale, 1.0)]  # MiniCPM does it before the head
    wanted = [one if cap is None else cap * torch.tanh(one / cap) for one in scaled]
    if not wanted or any(torch.allclose(found.float(), one, rtol=0.02, atol=0.02) for one in wanted):
        return ""
    return f"{type(causal).__name__} makes more of its logits than is followed"


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
    if not fast or obstacle(model):
        return padded
    dtype, own = causal.get_output_embeddings().weight.dtype, unfollowed(model, padded, examples, device)
    reason = padded.reason or own
    for share in () if reason else (False,) if _drops_out(model) else (True, False):
        objective = PaddingFree(share, short=padded.short)
        reason = gpu_attention.unserved(causal.config, dtype, device, tree=share)
        reason = reason or fault(model, objective, padded, examples, device, dtype)
        if not reason:
            return objective
    padded = replace(padded, reason=reason)
    chunked = replace(padded, chunked=chunkable(model) and not own)
    return padded if fault(model, chunked, padded, examples, device, dtype) else chunked


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


def chunkable(model: PeftModel) -> bool:
    """Whether the padded path may end at the head: it is plain, and no tuner holds on to the forward pass before."""
    return not obstacle(model) and "forward" not in vars(model.base_model)


def fault(
    model: PeftModel,
    objective: Objective,
    padded: Objective,
    examples: Sequence[Any],
    device: torch.device,
    dtype: torch.dtype,
    what: str = "the padding-free path",
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
    what : str
        The path to try, by its name.

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
        return f"{what} does not fit {type(model.get_base_model()).__name__}: {first_line(error)}"
    if loss <= most_loss and gradient <= most_gradient:
        return ""
    if math.isinf(gradient):
        return f"{what} leaves out a part that is trained"
    differed = f"its loss by {loss:.1e} and its gradients by {gradient:.1e}"
    return f"{what} differed on a few examples, {differed}"


def uncompilable(model: PeftModel, objective: Any, examples: Sequence[Any], device: torch.device) -> str:
    """Why the blocks of a model are better not compiled, or an empty string; parameters as of :func:`fault`."""
    if _drops_out(model):
        return "it would draw otherwise (dropout)"
    if not compiled.blocks(model):
        return f"{type(model.get_base_model()).__name__} is no stack of blocks"
    path = getattr(objective, "path", objective)  # of sequences that are compared
    dtype = model.get_base_model().get_input_embeddings().weight.dtype
    return fault(model, Compiled(path), path, examples, device, dtype, "compiled code")


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
