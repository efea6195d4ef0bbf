"""Where in a transformer layer the adapters attach."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from peft_nb.errors import MethodError

# Names below a numbered layer, one family or more each; a new family is a new name.
ATTENTION_OUTPUT = (
    "self_attn.o_proj",  # Llama, Qwen, Mistral, Gemma
    "self_attn.dense",  # Phi
    "self_attn.out_proj",  # OPT
    "attn.out_proj",  # GPT-J
    "attn.c_proj",  # GPT-2
    "attention.dense",  # GPT-NeoX
    "attention.output.dense",  # BERT, RoBERTa, ELECTRA
    "attention.out_lin",  # DistilBERT
)
FEED_FORWARD_OUTPUT = (
    "mlp.down_proj",  # Llama, Qwen, Mistral, Gemma
    "mlp.fc2",  # Phi
    "mlp.fc_out",  # GPT-J
    "fc2",  # OPT
    "mlp.c_proj",  # GPT-2
    "mlp.dense_4h_to_h",  # GPT-NeoX
    "output.dense",  # BERT, RoBERTa, ELECTRA
    "ffn.lin2",  # DistilBERT
)
FEED_FORWARD = (
    "mlp",  # Llama, Qwen, Mistral, Gemma, Phi, GPT-2, GPT-J, GPT-NeoX
    "output",  # BERT, RoBERTa, ELECTRA
    "ffn",  # DistilBERT
)


@dataclass(frozen=True)
class Placement:
    """One way to put adapters into a layer.

    Attributes
    ----------
    sublayers : tuple of tuple of str
        Each holds the names that one kind of sublayer has in different families.
    parallel : bool
        Whether adapters read what their sublayer reads, rather than what it puts out.
    scaling : float
        What an adapter's output is multiplied by unless told otherwise.
    """

    sublayers: tuple[tuple[str, ...], ...]
    parallel: bool
    scaling: float


PLACEMENTS = {
    # Houlsby et al., 2019, arXiv:1902.00751
    "houlsby": Placement((ATTENTION_OUTPUT, FEED_FORWARD_OUTPUT), parallel=False, scaling=1.0),
    # Pfeiffer et al., 2020, arXiv:2005.00247
    "pfeiffer": Placement((FEED_FORWARD_OUTPUT,), parallel=False, scaling=1.0),
    # He et al., 2021, arXiv:2110.04366, who settle on 4
    "parallel": Placement((FEED_FORWARD,), parallel=True, scaling=4.0),
}


def find(placement: str, modules: Iterable[str], model: str) -> str:
    """Find the modules that get an adapter.

    Parameters
    ----------
    placement : str
        A name of :data:`PLACEMENTS`.
    modules : iterable of str
        Full names of a model's modules.
    model : str
        What to call the model in an error.

    Returns
    -------
    str
        A regular expression that matches the full names of those modules and no other.

    Raises
    ------
    MethodError
        If a sublayer is not found in every layer of the model: adapters in some layers only would train, but not
        what was asked for.
    """
    modules = set(modules)
    names: list[str] = []
    for known in PLACEMENTS[placement].sublayers:
        found = {
            name: layers
            for name in known
            if (layers := {key.removesuffix(f".{name}") for key in modules if re.fullmatch(_below_layer([name]), key)})
        }
        reached = set().union(*found.values())
        stacks = {_split(layer)[0] for layer in reached}
        missed = {key for key in modules - reached if _split(key)[0] in stacks and _split(key)[1].isdigit()}
        if not reached or missed:
            where = f"{len(missed)} of {len(missed | reached)} layers of {model} have" if reached else f"{model} has"
            raise MethodError(
                f"target_modules: {where} no module known to the {placement} placement ({', '.join(known)}); "
                f"name the {'feed-forward modules' if PLACEMENTS[placement].parallel else 'linear layers'} to adapt"
            )
        names += found
    return _below_layer(names)


def _below_layer(names: Iterable[str]) -> str:
    return rf"(?:.*\.)?\d+\.(?:{'|'.join(map(re.escape, names))})"


def _split(name: str) -> tuple[str, str]:
    parent, _, own = name.rpartition(".")
    return parent, own
