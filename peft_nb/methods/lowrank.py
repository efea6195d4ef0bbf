"""Other low-rank updates: with ranks that move, with shared random matrices, as Hadamard and Kronecker products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_nb.methods import Method, Stages, from_peft, register

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

ALL_LINEAR = {"target_modules": "all-linear"}


class MovingRanks(Stages):
    """Take ranks from layers that need few and give them to others, by PEFT (Zhang et al., 2023)."""

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
        model.base_model.update_and_allocate(step)


register(
    Method(
        name="adalora",
        help="LoRA in the form of singular values, whose ranks move to the layers that need them while it trains.",
        when="a small budget of parameters is to be spent where it counts; many steps",
        source="Zhang et al., 2023, arXiv:2303.10512",
        config_class=from_peft("AdaLoraConfig"),
        fields={"r": "target_r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"},
        # Begin at half as much rank again as is kept, and a higher learning rate: section 4 of the paper.
        defaults={"r": 8, "alpha": 32.0, "learning_rate": 1e-3, **ALL_LINEAR},
        options={"init_r": 12},
        # A tenth of the steps before ranks move, a third after they have: between those of the paper's tables 8 to 10.
        fitted=lambda model_config, steps: {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 3},
        stages=lambda spec: MovingRanks(),
    )
)
register(
    Method(
        name="vera",
        help="Vectors that scale one pair of random matrices shared by all layers: a tenth of LoRA's parameters.",
        when="very many adapters have to be kept",
        source="Kopiczko et al., 2023, arXiv:2310.11454",
        config_class=from_peft("VeraConfig"),
        fields={"r": "r", "dropout": "vera_dropout", "target_modules": "target_modules"},
        # Rank 256 and 4e-3: tables 5 and 6 of the paper. PEFT needs layers of one shape: the attention's.
        defaults={"r": 256, "learning_rate": 4e-3, **ALL_LINEAR},
    )
)
register(
    Method(
        name="loha",
        help="The Hadamard product of two low-rank updates: a higher rank for the same parameters.",
        when="LoRA of a low rank is not expressive enough",
        source="Hyeon-Woo et al., 2021, arXiv:2108.06098",
        config_class=from_peft("LoHaConfig"),
        fields={"r": "r", "alpha": "alpha", "dropout": "module_dropout", "target_modules": "target_modules"},
        defaults={"r": 8, "alpha": 8.0, "learning_rate": 1e-3, **ALL_LINEAR},  # PEFT's rank and scale
    )
)
register(
    Method(
        name="lokr",
        help="A Kronecker product as the update: few parameters, full rank.",
        when="the smallest adapter that still reaches every weight",
        source="Yeh et al., 2023, arXiv:2309.14859",
        config_class=from_peft("LoKrConfig"),
        fields={"r": "r", "alpha": "alpha", "dropout": "module_dropout", "target_modules": "target_modules"},
        defaults={"r": 8, "alpha": 8.0, "learning_rate": 1e-3, **ALL_LINEAR},  # PEFT's rank and scale
    )
)
