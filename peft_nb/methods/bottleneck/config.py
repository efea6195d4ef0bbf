"""The settings of bottleneck adapters, as PEFT keeps them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real

from peft import PeftConfig

from peft_nb.errors import MethodError, nearest
from peft_nb.methods.bottleneck.layer import ACTIVATIONS
from peft_nb.methods.bottleneck.placement import PLACEMENTS
from peft_nb.methods.peft_registration import tuner_type

PEFT_TYPE = tuner_type("BOTTLENECK")


@dataclass
class BottleneckConfig(PeftConfig):
    """Settings of bottleneck adapters: ``h + scaling * W_up f(W_down x)``.

    Parameters
    ----------
    placement : str, default "pfeiffer"
        ``houlsby`` puts an adapter behind attention and one behind the feed-forward (Houlsby et al., 2019,
        arXiv:1902.00751), ``pfeiffer`` one behind the feed-forward (Pfeiffer et al., 2020, arXiv:2005.00247),
        ``parallel`` one beside the feed-forward (He et al., 2021, arXiv:2110.04366). Behind means: on the output of
        the sublayer's last linear layer, before any norm and before the residual is added. (AdapterHub's Pfeiffer
        adapters in BERT read what comes after both.)
    reduction_factor : float, default 16
        The hidden size over the width of the bottleneck, which is rounded down and at least 1. AdapterHub's default
        for the first two placements; for the third it takes 2, with eight times as many parameters.
    non_linearity : str, default "relu"
        A name of ``ACTIVATIONS``. He et al. and AdapterHub's Pfeiffer adapters use relu, Houlsby et al. use gelu.
    layer_norm : bool, default False
        Whether a trained LayerNorm stands before the down projection.
    scaling : float, optional
        What the adapter's output is multiplied by: 4 for ``parallel`` (He et al., 2021), else 1.
    dropout : float, default 0
        Share of the adapter's inputs zeroed at random in training.
    target_modules : list of str or str, optional
        Names of the modules to adapt, or a regular expression over full names, in place of those that the placement
        finds: linear layers, or for ``parallel`` whole modules that take and return hidden states.
    exclude_modules : list of str or str, optional
        Modules to leave as they are, named likewise; none by default.
    modules_to_save : list of str, optional
        Other modules to train in full and save with the adapter, such as a classifier's head.

    Raises
    ------
    MethodError
        If a setting is unknown or out of bounds.
    """

    placement: str = field(default="pfeiffer", metadata={"help": "pfeiffer, houlsby or parallel: where adapters stand"})
    reduction_factor: float = field(default=16, metadata={"help": "The hidden size over the width of the bottleneck"})
    non_linearity: str = field(default="relu", metadata={"help": "The activation between the two projections"})
    layer_norm: bool = field(default=False, metadata={"help": "Whether a LayerNorm stands before the down projection"})
    scaling: float | None = field(default=None, metadata={"help": "Factor of the output; null: 4 for parallel, else 1"})
    dropout: float = field(default=0.0, metadata={"help": "Share of the inputs zeroed at random in training"})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Only these modules; null: the placement's"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Not these modules"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Parts to train in full"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        for name, known in (("placement", PLACEMENTS), ("non_linearity", ACTIVATIONS)):
            word = getattr(self, name)
            self._demand(name, word in tuple(known), f"one of {', '.join(known)}{nearest(str(word), known)}")
        if self.scaling is None:
            self.scaling = PLACEMENTS[self.placement].scaling
        self._demand("scaling", _number(self.scaling) and 0 < self.scaling < math.inf, "a number above 0")
        factor = self.reduction_factor
        self._demand("reduction_factor", _number(factor) and 1 <= factor < math.inf, "a number of 1 or more")
        self._demand("layer_norm", isinstance(self.layer_norm, bool), "true or false")
        self._demand("dropout", _number(self.dropout) and 0 <= self.dropout < 1, "a number from 0 to below 1")

    def _demand(self, name: str, fits: bool, wanted: str) -> None:
        if not fits:
            raise MethodError(f"{name}: {getattr(self, name)!r} is not {wanted}")


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
