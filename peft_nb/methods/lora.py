"""LoRA and its variants: low-rank updates beside the frozen linear layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.registry import Method, register
from peft_nb.training.hooks import Hooks

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from peft_nb.spec import RunSpec

FINITE_ITERATIONS = 16  # of the randomised SVD; the paper on PiSSA finds 4 to 16 close to the exact one


class Principal(Hooks):
    """Begin with the part of the weights that a factorisation picks, and leave plain LoRA of twice the rank.

    PEFT's own way changes the base's weights for good, which other runs share and which a saved adapter would need.
    Here the layers get weights of their own while they are trained. Afterwards the update, the trained product minus
    the first one, is a LoRA of rank 2r on the weights as they were (Meng et al., 2024, section 5 and appendix C).
    """

    fresh = "it begins with a part of the weights, and saves a LoRA; write method: lora to train that on"

    def __init__(self, spec: RunSpec) -> None:
        self.factorise = {"pissa": _singular, "olora": _orthonormal}[spec.method]
        self.kept: dict[Any, tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]] = {}

    def begin(self, model: PeftModel, batches: Iterable[dict[str, Any]]) -> None:
        """Take the factors from the weights, and what is left as the weights."""
        import torch

        for layer in _layers(model):
            base, scale = layer.get_base_layer(), layer.scaling["default"]
            weight = base.weight.detach().float()
            left, right = self.factorise(weight.T if layer.fan_in_fan_out else weight, layer.r["default"], scale)
            product = scale * left @ right
            rest = (weight - (product.T if layer.fan_in_fan_out else product)).to(base.weight.dtype)
            self.kept[layer] = base.weight, right.clone(), left.clone()
            layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = right, left
            base.weight = torch.nn.Parameter(rest, requires_grad=False)

    def end(self, model: PeftModel) -> None:
        """Put the weights back and the difference into the adapter."""
        import torch

        for layer, (weight, right, left) in self.kept.items():
            layer.get_base_layer().weight = weight
            a, b = layer.lora_A["default"], layer.lora_B["default"]
            a.weight = torch.nn.Parameter(torch.cat([a.weight.data, right]))
            b.weight = torch.nn.Parameter(torch.cat([b.weight.data, -left], dim=1))
            a.out_features = b.in_features = layer.r["default"] = 2 * layer.r["default"]
            layer.lora_alpha["default"] *= 2
        config = model.peft_config["default"]
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha


def _layers(model: PeftModel) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _singular(weight: torch.Tensor, r: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest singular values, their roots on either side (Meng et al., 2024, equations 2 and 3)."""
    import torch

    u, s, v = torch.svd_lowrank(weight, r, niter=FINITE_ITERATIONS)
    root = (s / scale).sqrt()
    return u * root, (v * root).T.contiguous()


def _orthonormal(weight: torch.Tensor, r: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The first columns and rows of a QR decomposition (Büyükakyüz, 2024, algorithm 1)."""
    import torch

    q, triangle = torch.linalg.qr(weight)
    return q[:, :r].contiguous(), triangle[:r].contiguous()


class Explained(Hooks):
    """Begin with the directions in which the layers' inputs vary most, by PEFT (Paischer et al., 2024)."""

    fresh = "it begins with directions of the data, and saves a LoRA; write method: lora to train that on"

    def begin(self, model: PeftModel, batches: Iterable[dict[str, Any]]) -> None:
        """Let PEFT decompose what reaches every layer in a few batches."""
        from peft import initialize_lora_eva_weights

        initialize_lora_eva_weights(model, list(batches), show_progress_bar=False)


class Plus(Hooks):
    """Train the second matrix with a higher learning rate (Hayou et al., 2024)."""

    def __init__(self, spec: RunSpec) -> None:
        self.ratio = LORA_PLUS.own_options(spec)["lr_ratio"]

    def faster(self, name: str) -> float:
        """`lr_ratio` for B, 1 for everything else."""
        return self.ratio if ".lora_B." in name else 1.0


LORA = Method(
    name="lora",
    help="Low-rank updates beside every linear layer; the safe first choice.",
    when="start here, usually enough: style, format, a domain's vocabulary",
    source="Hu et al., 2021, arXiv:2106.09685",
    config_class=ConfigClass("LoraConfig"),
    fields={"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"},
    # Rank 16 on all linear layers, alpha twice the rank and 2e-4: Dettmers et al., 2023, section 4.
    defaults={"r": 16, "alpha": 32.0, "target_modules": "all-linear", "learning_rate": 2e-4},
    quantizations=("none", "4bit", "8bit"),
    swappable=True,
)
register(LORA)
register(
    replace(
        LORA,
        name="qlora",
        help="LoRA over a base held in 4 bits (NF4, double quantization) or 8; for models that barely fit into memory.",
        when="the base in its own dtype does not fit into memory",
        source="Dettmers et al., 2023, arXiv:2305.14314",
        quantizations=("4bit", "8bit"),
    )
)
register(
    replace(
        LORA,
        name="rslora",
        help="LoRA scaled by alpha over the root of r, so that high ranks learn as fast as low ones.",
        when="ranks of 64 and more",
        source="Kalajdzievski, 2023, arXiv:2312.03732",
        options={"use_rslora": True},
    )
)
register(
    replace(
        LORA,
        name="dora",
        help="LoRA for the direction of the weights, with their magnitude trained separately.",
        when="when accuracy matters most and the rank has to stay low; slower than LoRA",
        source="Liu et al., 2024, arXiv:2402.09353",
        options={"use_dora": True},
        quantizations=("none", "4bit"),  # PEFT cannot read the weights of 8-bit layers before they have run
        swappable=False,
    )
)
register(
    replace(
        LORA,
        name="pissa",
        help="LoRA that begins with the largest singular values of the weights; saved as LoRA of rank 2r.",
        when="few training steps: it learns faster than LoRA at first",
        source="Meng et al., 2024, arXiv:2404.02948",
        # Alpha as large as r, as in the paper: the factors themselves have the right size.
        defaults={**LORA.defaults, "alpha": 16.0},
        quantizations=("none",),
        hooks=Principal,
    )
)
register(
    replace(
        LORA,
        name="olora",
        help="LoRA that begins with an orthonormal part of the weights (QR); saved as LoRA of rank 2r.",
        when="few training steps, like PiSSA; faster to initialize",
        source="Büyükakyüz, 2024, arXiv:2406.01775",
        # Alpha as large as r: the product taken out of the weights is then exactly the decomposition's.
        defaults={**LORA.defaults, "alpha": 16.0},
        quantizations=("none",),
        hooks=Principal,
    )
)
register(
    replace(
        LORA,
        name="eva",
        help="LoRA that begins with the directions in which the layers' inputs vary most on your data.",
        when="few trainable parameters: ranks are allocated where the data need them",
        source="Paischer et al., 2024, arXiv:2410.07170",
        options={"init_lora_weights": "eva"},
        swappable=False,  # each adapter has ranks and scales of its own
        peft_types=("CAUSAL_LM",),  # PEFT masks by labels of tokens
        hooks=lambda spec: Explained(),
    )
)
LORA_PLUS = replace(
    LORA,
    name="lora-plus",
    help="LoRA whose second matrix learns faster than the first.",
    when="LoRA learns too slowly on a wide model",
    source="Hayou et al., 2024, arXiv:2402.12354",
    own={"lr_ratio": 16.0},  # the paper's, section 5
    defaults={**LORA.defaults, "learning_rate": 1e-4},  # half of LoRA's, as PEFT's documentation advises
    hooks=Plus,
)
register(LORA_PLUS)
