"""Other low-rank updates: with ranks that move, with shared random matrices, as Hadamard and Kronecker products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.errors import MethodError
from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.registry import Method, register
from peft_nb.training.hooks import Hooks

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from peft_nb.spec import RunSpec

MEANS = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what PEFT's allocator remembers from step to step
# The products of LoHa and LoKr take their shapes from the weights, which those in 4 bits do not show.
QUANTIZED = ("none", "8bit")
ALL_LINEAR = {"target_modules": "all-linear"}


class MovingRanks(Hooks):
    """Take ranks from layers that need few and give them to others, by PEFT (Zhang et al., 2023)."""

    fresh = "it takes ranks away, and what it saves is smaller than what it begins with; train without init_adapter"

    def __init__(self) -> None:
        self.pattern: dict[str, list[bool]] | None = None  # the ranks that are left, once they have settled

    def penalty(self, model: PeftModel) -> torch.Tensor | None:
        """Keep the factors near to orthonormal (equation 4, with the norm as PEFT has it)."""
        import torch

        factors = [
            parameter if "lora_A" in name else parameter.T
            for name, parameter in model.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        off = [torch.linalg.norm(one @ one.T - torch.eye(len(one), device=one.device)) for one in factors]
        weight: float = model.peft_config["default"].orth_reg_weight
        return weight * torch.stack(off).mean()

    def stepped(self, model: PeftModel, step: int) -> None:
        """Let PEFT look at the gradients and move ranks."""
        config = model.peft_config["default"]
        config.rank_pattern = self.pattern
        model.base_model.update_and_allocate(step)
        # With a pattern in its config PEFT saves what is left of the factors, which the optimizer does not fit.
        settled = step >= config.total_step - config.tfinal
        self.pattern, config.rank_pattern = config.rank_pattern if settled else None, None

    def end(self, model: PeftModel) -> None:
        """Let PEFT save the ranks that are left, once they have settled."""
        model.peft_config["default"].rank_pattern = self.pattern

    def state(self, model: PeftModel) -> dict[str, torch.Tensor]:
        """The running means by which PEFT scores the ranks, and the ranks that are left."""
        import torch

        allocator = model.base_model.rankallocator
        means = {f"{mean}/{name}": one for mean in MEANS for name, one in getattr(allocator, mean).items()}
        return means | {f"pattern/{name}": torch.tensor(kept) for name, kept in (self.pattern or {}).items()}

    def restore(self, model: PeftModel, state: dict[str, torch.Tensor]) -> None:
        """Set them again."""
        allocator = model.base_model.rankallocator
        for key, tensor in state.items():
            kind, name = key.split("/")
            if kind == "pattern":
                self.pattern = {**(self.pattern or {}), name: tensor.tolist()}
            else:
                getattr(allocator, kind)[name] = tensor


def budget(spec: RunSpec, model_config: Any, steps: int) -> dict[str, int]:
    """How many ranks there are at first, and when they move.

    Half as much rank again at first as is kept, as in section 4 of the paper. A tenth of the steps before ranks move
    and a third after they have: between those of its tables 8 to 10.
    """
    assert spec.r
    first = spec.method_options.get("init_r", max(spec.r + 1, 3 * spec.r // 2))
    if first <= spec.r:
        raise MethodError(f"method_options: init_r {first} leaves no rank to take away; take more than r, {spec.r}")
    # PEFT settles the ranks by what earlier steps have told of them; a single step leaves them as they are.
    return {"init_r": first, "total_step": max(2, steps), "tinit": steps // 10, "tfinal": steps // 3}


register(
    Method(
        name="adalora",
        help="LoRA in the form of singular values, whose ranks move during training to the layers that need them.",
        when="a small budget of trainable parameters, spent on the layers that need it; many steps",
        source="Zhang et al., 2023, arXiv:2303.10512",
        config_class=ConfigClass("AdaLoraConfig"),
        fields={"r": "target_r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"},
        # A higher learning rate than LoRA's: section 4 of the paper.
        defaults={"r": 8, "alpha": 32.0, "learning_rate": 1e-3, **ALL_LINEAR},
        fitted=budget,
        quantizations=("none", "4bit", "8bit"),
        hooks=lambda spec: MovingRanks(),
    )
)
register(
    Method(
        name="vera",
        help="Vectors that scale one pair of random matrices shared by all layers: a tenth of LoRA's parameters.",
        when="very many adapters have to be stored",
        source="Kopiczko et al., 2023, arXiv:2310.11454",
        config_class=ConfigClass("VeraConfig"),
        fields={"r": "r", "dropout": "vera_dropout", "target_modules": "target_modules"},
        # Rank 256 and 4e-3: tables 5 and 6 of the paper.
        defaults={"r": 256, "learning_rate": 4e-3, **ALL_LINEAR},
        quantizations=("none", "4bit", "8bit"),
    )
)
register(
    Method(
        name="loha",
        help="The Hadamard product of two low-rank updates: a higher rank for the same parameters.",
        when="LoRA of a low rank is not expressive enough",
        source="Hyeon-Woo et al., 2021, arXiv:2108.06098",
        config_class=ConfigClass("LoHaConfig"),
        fields={"r": "r", "alpha": "alpha", "dropout": "module_dropout", "target_modules": "target_modules"},
        defaults={"r": 8, "alpha": 8.0, "learning_rate": 1e-3, **ALL_LINEAR},  # PEFT's rank and scale
        quantizations=QUANTIZED,
    )
)
register(
    Method(
        name="lokr",
        help="A Kronecker product as the update: few parameters, full rank.",
        when="the smallest adapter that still reaches every weight",
        source="Yeh et al., 2023, arXiv:2309.14859",
        config_class=ConfigClass("LoKrConfig"),
        fields={"r": "r", "alpha": "alpha", "dropout": "module_dropout", "target_modules": "target_modules"},
        defaults={"r": 8, "alpha": 8.0, "learning_rate": 1e-3, **ALL_LINEAR},  # PEFT's rank and scale
        quantizations=QUANTIZED,
    )
)
