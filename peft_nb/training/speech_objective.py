"""From clips to the log-probabilities of the tokens that are said in them.

A model hears a clip of any length padded with silence to 30 s, for it has learned so; what can be left out exactly is
the padding of the loss, logits of tokens that are not learned, and the encoder where no training changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from peft_nb.data.audio.encoding import features
from peft_nb.models.quiet import first_line
from peft_nb.system.resources import MB, memory_available_mb
from peft_nb.training import cross_attention, fused, objectives
from peft_nb.training.packing import sent, supervised_targets

SHARE = 0.25  # of the free memory, at most
AT_ONCE = 8  # clips that are heard together


class EncoderStates:
    """What a frozen encoder made of the clips heard so far.

    Exact: with nothing to train and without dropout, an encoder gives the same for the same clip in every epoch.

    Attributes
    ----------
    at_work : bool
        Whether it is installed, and the encoder is frozen.
    """

    def __init__(self) -> None:
        self.at_work = False
        self._kept: dict[bytes, torch.Tensor] = {}
        self._room = 0.0

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Keep what the encoder gives while the context lasts, if it always gives the same."""
        self.at_work = _frozen(model.get_base_model())
        self._room = SHARE * memory_available_mb() * MB
        try:
            yield
        finally:
            self.at_work = False
            self._kept.clear()

    def of(self, model: Any, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """The encoder's states for some clips, shape ``(clips, positions, width)``."""
        keys = [hashlib.blake2b(one.signal, digest_size=16).digest() for one in examples]
        new = {key: one for key, one in zip(keys, examples, strict=True) if key not in self._kept}
        found = {key: self._kept[key] for key in keys if key in self._kept}
        names = list(new)
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            with torch.no_grad():
                heard = hear(model, [new[key] for key in part], device)
            for key, one in zip(part, heard, strict=True):
                found[key] = one
                if one.nbytes <= self._room:
                    self._room -= one.nbytes
                    with torch.inference_mode(False):  # training has to use it too
                        self._kept[key] = one.clone()
        return torch.stack([found[key] for key in keys])


def hear(model: Any, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
    """Let the encoder of a model hear some clips; shape ``(clips, positions, width)``."""
    encoder = model.get_base_model().get_encoder()
    found: torch.Tensor = encoder(features_of(encoder, examples, device)).last_hidden_state
    return found


def features_of(encoder: Any, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
    """The features of some clips in the encoder's numbers, shape ``(clips, bins, frames)``."""
    made = torch.stack([torch.from_numpy(features(one.signal)) for one in examples])
    return sent(made, device).to(encoder.conv1.weight.dtype)


@dataclass(frozen=True)
class SpeechObjective(objectives.Tokenwise):
    """The tokens of what is said in clips, of which each is predicted from the clip and those before it.

    Attributes
    ----------
    pad_id : int
        Token to pad with; what is padded is neither attended to by what comes before nor trained on.
    plain : bool
        Whether the model's own forward pass computes everything, with all logits.
    reason : str
        Why it does.
    """

    pad_id: int
    plain: bool = True
    reason: str = ""
    padded: bool = True
    share_prefix: bool = False
    short: int = 0
    states: EncoderStates = field(default_factory=EncoderStates, compare=False, repr=False)

    def __str__(self) -> str:
        if self.plain:
            return "clips of 30 s, plain forward pass" + f" ({self.reason})" * bool(self.reason)
        return "clips of 30 s, loss without logits"

    @property
    def chunked(self) -> bool:
        """Whether the logits of supervised tokens alone are computed, some at a time."""
        return not self.plain

    def heard(self, model: Any, examples: Sequence[Any], device: torch.device) -> dict[str, Any]:
        """What a model takes for some clips: what its encoder made of them where that is kept, else their features."""
        if self.states.at_work:
            return {
                "encoder_outputs": BaseModelOutput(last_hidden_state=self.states.of(_inside(model), examples, device))
            }
        return {"input_features": features_of(_inside(model).get_base_model().get_encoder(), examples, device)}

    def _log_probs(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        inputs, places, targets = self._rows(model, examples, device)
        if self.plain:
            logits = model(**inputs, use_cache=False).logits[*places].float()
            return -F.cross_entropy(logits, targets, reduction="none")
        found: torch.Tensor = model(**inputs, places=places, targets=targets)
        return found

    @torch.no_grad()
    def scores(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Loss, correct tokens and tokens of each clip; as of :meth:`peft_nb.training.objectives.Objective.scores`."""
        inputs, places, targets = self._rows(model, examples, device)
        if self.plain:
            logits = model(**inputs, use_cache=False).logits[*places].float()
            found = torch.stack((F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets))
        else:
            found = model(**inputs, places=places, targets=targets, scored=True)
        return objectives.by_example(found, places[0], len(examples))

    def logits(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """All logits, shape ``(clips, tokens, vocabulary)``."""
        inputs, _, _ = self._rows(model, examples, device)
        found: torch.Tensor = model(**inputs, use_cache=False).logits
        return found

    def _rows(
        self, model: nn.Module, examples: Sequence[Any], device: torch.device
    ) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
        """The model's inputs, row and place of what predicts each supervised token, and these tokens."""
        ids = torch.full((len(examples), max(len(one.ids) for one in examples)), self.pad_id)
        rows, columns = list[int](), list[int]()
        for row, one in enumerate(examples):
            ids[row, : len(one.ids)] = torch.tensor(list(one.ids))
            wanted = supervised_targets(one)
            rows += [row] * len(wanted)
            columns += wanted
        places = torch.tensor([rows, [column - 1 for column in columns]], dtype=torch.long)
        targets = ids[rows, columns]
        inputs = {**self.heard(model, examples, device), "decoder_input_ids": sent(ids, device)}
        return inputs, sent(places, device), sent(targets, device)

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Take the fast way through layers and head, and keep what a frozen encoder gives, while the context lasts."""
        with ExitStack() as stack:
            if not self.plain:
                base = model.get_base_model()
                stack.enter_context(fused.installed(model))
                stack.enter_context(cross_attention.installed([one.encoder_attn for one in base.get_decoder().layers]))
                stack.enter_context(objectives.with_forward(base, _to_log_probs(base)))
                stack.enter_context(self.states.installed(model))
            yield


def _to_log_probs(base: Any) -> Callable[..., Any]:
    """A forward pass that ends at the head where tokens are to be scored, and is the model's own elsewhere."""
    stock, ended = base.forward, objectives.padded_to_log_probs(base)

    def forward(*args: Any, places: Any = None, targets: Any = None, scored: bool = False, **inputs: Any) -> Any:
        if targets is None:
            return stock(*args, **inputs)
        return ended(places, targets, scored, **inputs)

    return forward


def _inside(model: Any) -> Any:
    """The model in whatever wraps it to train it in several processes."""
    return getattr(model, "module", model)


def _frozen(base: Any) -> bool:
    """Whether the encoder gives the same for the same clip all through a run."""
    encoder, config = base.get_encoder(), base.config
    random = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "apply_spec_augment")
    drops = any(isinstance(one, nn.Dropout) and one.p > 0 for one in encoder.modules())
    trains = any(one.requires_grad for one in encoder.parameters())
    return not trains and not drops and not any(getattr(config, name, 0) for name in random)


def foresee(model: PeftModel, wanted: SpeechObjective, *, fast: bool) -> SpeechObjective:
    """Pick the objective that :func:`choose` will pick unless its check finds a fault; computes nothing."""
    reason = "" if fast else "fast is off"
    reason = reason or objectives.obstacle(model)
    return replace(wanted, plain=bool(reason), reason=reason)


def choose(
    model: PeftModel, examples: Sequence[Any], device: torch.device, wanted: SpeechObjective, *, fast: bool
) -> SpeechObjective:
    """Pick the way around encoder and logits if it gives this model's losses and gradients, its own otherwise.

    Parameters
    ----------
    model : PeftModel
        The model with the adapter that will be trained.
    examples : sequence of Example
        Training examples, of which the first two are tried.
    device : torch.device
        Where the model is.
    wanted : SpeechObjective
        How tokens are padded.
    fast : bool
        Whether the user wants what is faster.

    Returns
    -------
    SpeechObjective
        Fast, or plain with the reason for it.
    """
    wanted = foresee(model, wanted, fast=fast)
    if wanted.plain:
        return wanted
    plain = replace(wanted, plain=True)
    most_loss, most_gradient = objectives.TOLERANCE[model.get_base_model().get_encoder().conv1.weight.dtype]
    try:
        loss, gradient = objectives.disagreement(model, wanted, plain, examples[:2], device)
    except Exception as error:
        reason = f"what is faster does not fit {type(model.get_base_model()).__name__}: {first_line(error)}"
        return replace(plain, reason=reason)
    if loss <= most_loss and gradient <= most_gradient:
        return wanted
    told = f"what is faster differed on a few clips, the loss by {loss:.1e} and gradients by {gradient:.1e}"
    return replace(plain, reason=told)
