"""Rotations of the weights, in blocks."""

from __future__ import annotations

from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.registry import Method, register

register(
    Method(
        name="oft",
        help="Rotates the weights in blocks, which keeps the angles between neurons.",
        when="keeping what the base model knows comes first",
        source="Qiu et al., 2023, arXiv:2306.07280",
        config_class=ConfigClass("OFTConfig"),
        fields={"dropout": "module_dropout", "target_modules": "target_modules"},
        defaults={"target_modules": "all-linear", "learning_rate": 1e-3},
        options={"oft_block_size": 32},  # PEFT's
        quantizations=("none", "4bit", "8bit"),
    )
)
register(
    Method(
        name="boft",
        help="Rotates the weights in small blocks and scales what comes out of each neuron; slower than OFT.",
        when="OFT is not expressive enough and training time does not matter",
        source="Liu et al., 2023, arXiv:2311.06243",
        config_class=ConfigClass("BOFTConfig"),
        fields={"dropout": "boft_dropout", "target_modules": "target_modules"},
        defaults={"target_modules": "all-linear", "learning_rate": 1e-3},
        # Without a CUDA kernel that it has to compile, PEFT takes one factor whatever the config says: one everywhere,
        # so that an adapter fits on every machine.
        options={"boft_block_size": 8, "boft_n_butterfly_factor": 1},
        quantizations=("none", "4bit", "8bit"),
    )
)
