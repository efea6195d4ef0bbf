"""One layer of the real size, trained for a moment on real rows: what a token costs in time and in kept memory."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peft_nb.system import known
from peft_nb.training import optimizer
from peft_nb.training.draws import OwnDraws
from peft_nb.training.loss import chunk_rows, log_probs

DEPTH, TOKENS = 4, 2048  # layers in a chain, fewer with many tokens: what is touched is not to stay in the caches
FEWEST, REPEATS = 2, 5  # tries
SECONDS = 0.4  # after which nothing more is repeated
HEAD_VOCABULARY = 16384  # of whose logits as many rows are held as fill a chunk, as in a run
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm")


@dataclass(frozen=True)
class Costs:
    """What training takes of this machine.

    Attributes
    ----------
    kept_bytes : float
        Kept by a layer's forward pass for its backward pass, a token.
    forward_s, both_s : float
        Seconds of a layer's forward pass, and of forward and backward pass, a token.
    head_s : float
        Seconds of the loss and its gradient, a predicted position and entry of the vocabulary.
    optimizer_s : float
        Seconds of clipping and one step of the optimizer, a trained parameter.
    products, segment_products : float
        Shapes of products in bfloat16 in a layer: of all tokens of a micro-batch, and of those of a segment.
    slowdown : float
        How many times as long the tries took on average as the fastest: above 1 where others keep the machine busy.
    once_s, once_bytes : float
        Seconds and memory of what is computed once of an example and kept, as by an encoder that is not trained.
    """

    kept_bytes: float
    forward_s: float
    both_s: float
    head_s: float
    optimizer_s: float
    products: float = 0.0
    segment_products: float = 0.0
    slowdown: float = 1.0
    once_s: float = 0.0
    once_bytes: float = 0.0


def benchmark_layer(
    model: PeftModel,
    objective: Any,
    batches: Sequence[Sequence[Any]],
    tokens: Sequence[float],
    device: torch.device,
    optim: str,
    layers: int = 0,
) -> list[Costs]:
    """Measure one layer forward and backward, on micro-batches that take turns.

    Parameters
    ----------
    model : PeftModel
        A model of one layer with its adapter.
    objective : Objective
        How the run turns rows into a loss.
    batches : sequence of sequence of Encoded or Labelled
        Micro-batches, the smallest last; their ids have to be in the model's vocabulary.
    tokens : sequence of float
        Tokens that each makes the model compute, padding included, shared prefixes once.
    device : torch.device
        Where the model is.
    optim : str
        The optimizer, as transformers names it.
    layers : int, default 0
        How many a model has whose layers differ; all of it is measured then, and the costs are those of one on average.

    Returns
    -------
    list of Costs
        Of each micro-batch the least of some tries: whatever else the machine does makes them longer, never shorter.
    """
    model.train()
    find, most = (_whole, 1) if layers else (_layer, DEPTH)
    depths = [max(1, min(most, round(TOKENS / count))) for count in tokens]
    draws = OwnDraws(0)  # in which a run goes on only where it draws: it slows every operation
    with objective.installed(model), draws:
        objective.loss(model, batches[-1], device).backward()  # which shows what is trained, and whether it draws
    with objective.installed(model), draws if draws.drew else nullcontext():
        parts = [find(model, objective, batch, device) for batch in batches]
        kept = [_kept(part, call) for part, call in parts]
        products = [_products(call) for _, call in parts]
        rounds = repeated(
            lambda: [_round(call, depth) for (_, call), depth in zip(parts, depths, strict=True)], SECONDS
        )
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    others = _head_seconds(model), _optimizer_seconds(optim, trained)
    found = []
    work = [count * max(1, layers) for count in tokens]
    for tries, held, shapes, depth, count in zip(zip(*rounds, strict=True), kept, products, depths, work, strict=True):
        forward, both = (min(seconds) / depth / count for seconds in zip(*tries, strict=True))
        slowdown = fmean(seconds for _, seconds in tries) / min(seconds for _, seconds in tries)
        found.append(Costs(held / count, forward, both, *others, *shapes, slowdown))
    return found


class _Called(Exception):
    """The layer has been given its input; what the model would compute after it is not needed."""


def _layer(
    model: PeftModel, objective: Any, batch: Sequence[Any], device: torch.device
) -> tuple[nn.Module, Callable[[int], tuple[torch.Tensor, torch.Tensor]]]:
    """Find the layer, and a way to run it as the model does on a batch, some times after itself."""
    (layer,) = next(part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == 1)
    seen: list[Any] = []

    def note(part: nn.Module, args: Any, named: dict[str, Any]) -> None:
        seen.append((args, {name: _loose(one) for name, one in _afresh(named).items()}))
        raise _Called

    with layer.register_forward_pre_hook(note, with_kwargs=True), suppress(_Called):
        objective.loss(model, batch, device)
    (hidden, *others), named = seen[0]

    def call(depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        given = out = hidden.detach().clone().requires_grad_()
        for _ in range(depth):
            out = layer(out, *others, **_afresh(named))
            out = out[0] if isinstance(out, tuple) else out
        return given, out

    return layer, call


def _whole(
    model: PeftModel, objective: Any, batch: Sequence[Any], device: torch.device
) -> tuple[nn.Module, Callable[[int], tuple[None, torch.Tensor]]]:
    """The model itself, and a way to run it on a batch."""
    return model, lambda depth: (None, objective.loss(model, batch, device))


def _loose(given: Any) -> Any:
    """A tensor without what it was computed from, such as a text by a text encoder that is trained too."""
    if isinstance(given, dict):
        return {name: _loose(one) for name, one in given.items()}
    return given.detach() if isinstance(given, torch.Tensor) else given


def _afresh(named: dict[str, Any]) -> dict[str, Any]:
    """The same keywords, with a cache of keys and values that no layer has added to yet: prefixes come in one."""
    cache = named.get("past_key_values")
    if cache is None:
        return named
    again = copy.copy(cache)
    again.layers = [copy.copy(one) for one in cache.layers]
    for one in again.layers:
        if one.is_initialized:
            one.keys, one.values = (part.detach().requires_grad_() for part in (one.keys, one.values))
    return {**named, "past_key_values": again}


def _kept(layer: nn.Module, call: Callable[[int], tuple[Any, torch.Tensor]]) -> int:
    """Bytes that a layer keeps of what it computes: saved tensors that are not its own weights."""
    own = {id(one) for one in layer.parameters()} | {id(one) for one in layer.buffers()}
    weights = {one.untyped_storage().data_ptr() for one in [*layer.parameters(), *layer.buffers()]}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if id(tensor) not in own and storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output as it is would hold the graph that holds it, for good

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = call(1)
    del result
    return sum(sizes.values())


class _Shapes(TorchDispatchMode):
    """Which shapes of products in bfloat16 are computed, by their number of dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.found = dict[int, set[Any]]({2: set(), 3: set()})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS and args[0].dtype is torch.bfloat16:
            shapes = tuple((tuple(one.shape), one.stride()) for one in args[:3] if isinstance(one, torch.Tensor))
            self.found[args[1].dim()].add((func, shapes))
        return func(*args, **(kwargs or {}))


def _products(call: Callable[[int], tuple[Any, torch.Tensor]]) -> tuple[int, int]:
    """How many products of different shapes a layer has: of all tokens, and of the tokens of segments."""
    with _Shapes() as shapes:
        _, out = call(1)
        out.backward(torch.ones_like(out))
    return len(shapes.found[2]), len(shapes.found[3])


def _round(call: Callable[[int], tuple[Any, torch.Tensor]], depth: int) -> tuple[float, float]:
    start = time.perf_counter()
    _, out = call(depth)
    forward = time.perf_counter() - start
    out.backward(torch.ones_like(out))
    return forward, time.perf_counter() - start


def repeated(run: Callable[[], Any], seconds: float = SECONDS / 4) -> list[Any]:
    """Run something some times, and give what each of them gave."""
    run()  # the first time, memory has to be found and kernels chosen
    until, found = time.perf_counter() + seconds, [run()]
    while len(found) < FEWEST or (time.perf_counter() < until and len(found) < REPEATS):
        found.append(run())
    return found


def _head_seconds(model: PeftModel) -> float:
    head = model.get_base_model().get_output_embeddings()
    if head is None:  # no words are scored
        return 0.0
    embeddings = model.get_input_embeddings().weight
    of = embeddings.shape[1], embeddings.dtype, head.weight.requires_grad
    about = {"machine": known.machine(), "head": list(map(str, of))}  # whatever the adapter and the layers are
    found: float = known.once("head", about, partial(_benchmark_head, *of), days=1)
    return found


def _benchmark_head(width: int, dtype: torch.dtype, trained: bool) -> float:
    weight = torch.zeros(HEAD_VOCABULARY, width, dtype=dtype)
    weight.normal_(std=0.02, generator=torch.Generator())  # not the notebook's
    targets = torch.zeros(chunk_rows(weight), dtype=torch.long)
    hidden = torch.ones(len(targets), width, dtype=dtype, requires_grad=True)
    weight.requires_grad_(trained)  # which takes twice as long

    def run() -> float:
        start = time.perf_counter()
        log_probs([(hidden, weight)], targets).sum().backward()
        return time.perf_counter() - start

    return min(repeated(run)) / len(targets) / HEAD_VOCABULARY


def _optimizer_seconds(optim: str, trained: Sequence[torch.Tensor]) -> float:
    made = optimizer.made(optim, "cpu", trained)
    for group in made.param_groups:
        group["lr"] = 1e-9

    def run() -> float:
        start = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        made.step()
        return time.perf_counter() - start

    return min(repeated(run)) / sum(one.numel() for one in trained)
