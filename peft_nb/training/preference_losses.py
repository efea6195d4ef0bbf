"""What DPO, SimPO, ORPO and KTO make of the log-probabilities of whole answers: the loss and the reward of each.

Names and defaults are TRL's. Every loss is that of one pair, whatever else is in its batch, so that a batch may be cut
into micro-batches. Importing this needs no torch: tensors are asked for all that is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """What a model, and the reference that it started from, make of the two answers to each of ``n`` prompts.

    Attributes
    ----------
    chosen, rejected : torch.Tensor
        Log-probabilities of the answers, summed over their supervised tokens, in nats, shape ``(n,)``, float32.
    chosen_tokens, rejected_tokens : torch.Tensor
        How many tokens these are, shape ``(n,)``.
    reference_chosen, reference_rejected : torch.Tensor, optional
        The same log-probabilities under the reference, without gradient; None for what has no reference.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None


@dataclass(frozen=True)
class Rewards:
    """How good an objective takes the two answers to each prompt to be, shape ``(n,)`` each."""

    chosen: Tensor
    rejected: Tensor

    @property
    def margin(self) -> Tensor:
        """By how much the chosen answer is better."""
        return self.chosen - self.rejected

    @property
    def accuracy(self) -> Tensor:
        """1 where the chosen answer is the better one, half where neither is, as before the first step, else 0."""
        return (self.margin.sign() + 1) / 2


def rewards(answers: Answers, *, beta: float) -> Rewards:
    """Take the reward of each answer from its log-probability, as TRL logs it.

    Parameters
    ----------
    answers : Answers
        With a reference, a reward is ``beta`` times what the log-probability has risen by since then, which is DPO's;
        without one ``beta`` times the mean log-probability per token, which is that of SimPO and ORPO.
    beta : float
        As of the loss.

    Returns
    -------
    Rewards
        With the gradient of the log-probabilities, if they have one.
    """
    if answers.reference_chosen is None or answers.reference_rejected is None:
        return Rewards(beta * answers.chosen / answers.chosen_tokens, beta * answers.rejected / answers.rejected_tokens)
    return Rewards(
        beta * (answers.chosen - answers.reference_chosen), beta * (answers.rejected - answers.reference_rejected)
    )


@dataclass(frozen=True)
class Pairs(Rewards):
    """Rewards with all else that a type of DPO's loss may ask for."""

    answers: Answers
    beta: float
    label_smoothing: float

    @property
    def mean_margin(self) -> Tensor:
        """Margin of the rewards per token."""
        return self.chosen / self.answers.chosen_tokens - self.rejected / self.answers.rejected_tokens


@dataclass(frozen=True)
class Loss:
    """One type of DPO's loss: the paper it is from, the loss of each pair, and what it makes of ``label_smoothing``."""

    source: str
    of: Callable[[Pairs], Tensor]
    smoothing: Literal["ignored", "taken", "needed"] = "ignored"


def surprise(margin: Tensor) -> Tensor:
    """Minus the log of the sigmoid: what it costs to prefer the answer that is better by ``margin``."""
    return margin.new_zeros(()).logaddexp(-margin)


def _robust(it: Pairs) -> Tensor:
    """Unbiased if labels are flipped with the probability ``label_smoothing``."""
    flipped = it.label_smoothing
    return ((1 - flipped) * surprise(it.margin) - flipped * surprise(-it.margin)) / (1 - 2 * flipped)


def _exo_pair(it: Pairs) -> Tensor:
    """How far the preference of the policy is from one that is ``label_smoothing`` short of certain."""
    chosen = it.margin.sigmoid() * (-surprise(it.margin) - log(1 - it.label_smoothing))
    return chosen + (-it.margin).sigmoid() * (-surprise(-it.margin) - log(it.label_smoothing))


LOSSES = {
    "sigmoid": Loss("DPO: Rafailov et al., 2023, arXiv:2305.18290", lambda it: surprise(it.margin)),
    "hinge": Loss("SLiC-HF: Zhao et al., 2023, arXiv:2305.10425", lambda it: (1 - it.margin).relu()),
    # Per token, which the paper does not say; its authors have told TRL that its results are those of this form.
    "ipo": Loss("IPO: Azar et al., 2023, arXiv:2310.12036", lambda it: ((it.mean_margin - 0.5) / it.beta).square()),
    "robust": Loss("Robust DPO: Chowdhury et al., 2024, arXiv:2403.00409", _robust, "taken"),
    "exo_pair": Loss("EXO: Ji et al., 2024, arXiv:2402.00856", _exo_pair, "needed"),
    # As in TRL, 1 more than in the paper: 0 is the best there is.
    "apo_zero": Loss(
        "APO: D'Oosterlinck et al., 2024, arXiv:2408.06266", lambda it: (-it.chosen).sigmoid() + it.rejected.sigmoid()
    ),
    "apo_down": Loss(
        "APO: D'Oosterlinck et al., 2024, arXiv:2408.06266", lambda it: it.chosen.sigmoid() + (-it.margin).sigmoid()
    ),
    "sigmoid_norm": Loss("Tülu 3: Lambert et al., 2024, arXiv:2411.15124", lambda it: surprise(it.mean_margin)),
    "nca_pair": Loss(
        "NCA: Chen et al., 2024, arXiv:2402.05369",
        lambda it: surprise(it.chosen) + (surprise(-it.chosen) + surprise(-it.rejected)) / 2,
    ),
    "sppo_hard": Loss(
        "SPPO: Wu et al., 2024, arXiv:2405.00675",
        lambda it: ((it.chosen - 0.5) / it.beta).square() + ((it.rejected + 0.5) / it.beta).square(),
    ),
    # Keeps the chosen answers likely, beside another loss. Pairs count alike, as in the paper; in TRL tokens do.
    "sft": Loss("RPO: Pang et al., 2024, arXiv:2404.19733", lambda it: -it.answers.chosen / it.answers.chosen_tokens),
}
"""Types of DPO's loss; a new one is one entry.

Those of TRL that are missing here take an option of their own (``discopop``), sort what happens to be in one batch
(``aot``, ``aot_unpaired``), or leave out a part of their paper's (``bco_pair``, which has no reward shift).
"""


def problems(
    loss_type: str | Sequence[str], loss_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
) -> Iterator[str]:
    """Find what is wrong with DPO's options, one line each; parameters are those of :func:`dpo`."""
    types = _listed(loss_type)
    if not types:
        yield f"loss_type: names no loss; give one or several of {', '.join(LOSSES)}"
    for name in types:
        if name not in LOSSES:
            yield f"loss_type: {name} is not one of {', '.join(LOSSES)}"
    if len(set(types)) < len(types):
        yield "loss_type: names a loss twice; give each once, and its share in loss_weights"
    if loss_weights is not None and len(loss_weights) != len(types):
        yield f"loss_weights: {len(loss_weights)} for {len(types)} of loss_type; give one for each"
    if loss_weights is not None and not (all(one >= 0 for one in loss_weights) and any(loss_weights)):
        yield f"loss_weights: {list(loss_weights)} would not lower the loss; give numbers from 0, one of them above it"
    if not 0 <= label_smoothing < 0.5:
        yield f"label_smoothing: {label_smoothing:g} is no share of wrong labels; give one from 0 to below 0.5"
    smoothing = {LOSSES[name].smoothing for name in types if name in LOSSES}
    if "needed" in smoothing and not label_smoothing:
        yield "label_smoothing: loss_type exo_pair needs one above 0, such as 0.001"
    if label_smoothing and smoothing == {"ignored"}:
        heeding = " or ".join(name for name, one in LOSSES.items() if one.smoothing != "ignored")
        yield f"label_smoothing: changes nothing with loss_type {', '.join(types)}; take {heeding}, or leave it out"


def dpo(
    answers: Answers,
    *,
    beta: float = 0.1,
    loss_type: str | Sequence[str] = "sigmoid",
    loss_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute the loss of direct preference optimization, or of a relative that takes the same numbers.

    Parameters
    ----------
    answers : Answers
        With a reference.
    beta : float, default 0.1
        How dear it is to move away from the reference, above 0.
    loss_type : str or sequence of str, default "sigmoid"
        One or several of :data:`LOSSES`, which add up.
    loss_weights : sequence of float, optional
        What each of them is multiplied by; 1 by default.
    label_smoothing : float, default 0.0
        The share of pairs whose labels are taken to be wrong, for those losses that heed it.

    Returns
    -------
    torch.Tensor
        Of each pair, shape ``(n,)``.
    """
    found = rewards(answers, beta=beta)
    it = Pairs(found.chosen, found.rejected, answers, beta, label_smoothing)
    types = _listed(loss_type)
    weighed = [
        weight * LOSSES[name].of(it) for name, weight in zip(types, loss_weights or [1.0] * len(types), strict=True)
    ]
    return sum(weighed[1:], weighed[0])


def simpo(answers: Answers, *, beta: float = 2.0, simpo_gamma: float = 1.0, label_smoothing: float = 0.0) -> Tensor:
    """Compute the loss of SimPO (Meng et al., 2024, arXiv:2405.14734): no reference, and means per token.

    Parameters
    ----------
    answers : Answers
        A reference in it has no effect.
    beta : float, default 2.0
        Scale of the rewards, as in the paper. TRL's default of 0.1 is made for sums of log-probabilities.
    simpo_gamma : float, default 1.0
        Margin that the rewards are to have, half of ``beta``, as in the paper.
    label_smoothing : float, default 0.0
        The share of pairs that are taken to be labelled the wrong way round.

    Returns
    -------
    torch.Tensor
        Of each pair, shape ``(n,)``; that of TRL's CPOTrainer with ``loss_type="simpo"`` and ``cpo_alpha=0``. Its
        default of 1 adds the loss of supervised training, which the paper does not have.
    """
    margin = rewards(replace(answers, reference_chosen=None), beta=beta).margin - simpo_gamma
    return (1 - label_smoothing) * surprise(margin) + label_smoothing * surprise(-margin)


def orpo(answers: Answers, *, beta: float = 0.1) -> Tensor:
    """Compute the loss of ORPO (Hong et al., 2024, arXiv:2403.07691): supervised training and an odds ratio.

    Parameters
    ----------
    answers : Answers
        A reference in it has no effect.
    beta : float, default 0.1
        Weight of the odds ratio, the paper's lambda.

    Returns
    -------
    torch.Tensor
        Of each pair, shape ``(n,)``. The supervised part is the mean over the tokens of the chosen answer, as in the
        paper. TRL's is over those of the prompt too, which would be trained on, and of all pairs of a batch together.
    """
    chosen, rejected = -answers.chosen / answers.chosen_tokens, -answers.rejected / answers.rejected_tokens
    return chosen + beta * surprise(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(surprisal: Tensor) -> Tensor:
    """Of what has the log-probability ``-surprisal``; finite where float32 has rounded that to 0."""
    surprisal = surprisal.clamp(min=1e-7)
    return -surprisal - (-(-surprisal).expm1()).log()


def kto(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    kl: float,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Compute the loss of KTO (Ethayarajh et al., 2024, arXiv:2402.01306).

    Parameters
    ----------
    policy, reference : torch.Tensor
        Log-probability of each rated answer under the model and under its reference, in nats, shape ``(n,)``.
    desirable : torch.Tensor
        Which are, boolean, shape ``(n,)``.
    kl : float
        Estimate of how far the model is from its reference, in nats: the mean of ``policy`` minus ``reference`` of
        answers to other prompts than their own. Less than 0 counts as 0.
    beta : float, default 0.1
        How dear it is to move away from the reference, above 0.
    desirable_weight, undesirable_weight : float, default 1.0
        What losses are multiplied by, to make up for unequal numbers.

    Returns
    -------
    torch.Tensor
        Of each answer, shape ``(n,)``. Its reward is ``beta * (policy - reference)``.
    """
    gain = beta * (policy - reference - max(kl, 0.0))
    return desirable_weight * (-gain).sigmoid() * desirable + undesirable_weight * gain.sigmoid() * ~desirable


def _listed(loss_type: str | Sequence[str]) -> Sequence[str]:
    return [loss_type] if isinstance(loss_type, str) else loss_type
