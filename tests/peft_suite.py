"""PEFT's own generic tests, run on the tuners of this project with LoRA beside them as control: ``make peft-suite``.

As a script it fetches the source distribution of the installed PEFT with pip, keeps its tests in a folder that git
ignores, and runs them with pytest, which loads it again as a plugin that puts our cases in the place of PEFT's.
Further arguments go to pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import types
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".peft-suite"
MODULES = ("test_custom_models", "test_decoder_models")

# What cannot apply, as expressions over config, test and settings. Any other failure fails the run.
CANNOT = {
    r"BitFit.* test_merge_layers.*(Llama|Gemma3)": "a model without biases has no place for those that were added",
    r"Bottleneck.* test_\w*merg": "bottlenecks are not linear and do not merge",
    r"Bottleneck.* test_forward_b?float16": "ends with merging",
    r"Bottleneck.* test_unmerge": "begins with merging",
    r"Bottleneck.*OPT.*parallel": "OPT's layers have no feed-forward module to stand beside",
    r"Full.* test_merge_layers_multi": "one set of weights at a time",
    r"Full.* test_prepare_for_training": "asks that what the embedding puts out needs no gradient; full trains it",
}


def fetch() -> None:
    """Lay out PEFT's tests as the package ``peft_tests``, once a version."""
    archive = FOLDER / f"peft-{version('peft')}.tar.gz"
    if not archive.exists():
        wanted = ["--no-deps", "--no-binary", "peft", "--dest", str(FOLDER), f"peft=={version('peft')}"]
        subprocess.run([sys.executable, "-m", "pip", "download", *wanted], check=True)
    tests = FOLDER / "peft_tests"
    tests.mkdir(exist_ok=True)
    (tests / "__init__.py").touch()
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if re.fullmatch(r"[^/]+/tests/\w+\.py", member.name) and (file := tar.extractfile(member)):
                (tests / Path(member.name).name).write_bytes(file.read())
    (FOLDER / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n", encoding="utf-8")


def main() -> int:
    """Fetch the tests if need be, and run them."""
    FOLDER.mkdir(exist_ok=True)
    fetch()
    paths = os.pathsep.join([str(ROOT), str(FOLDER), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-c", str(FOLDER / "pytest.ini"), "-p", "tests.peft_suite"]
    command += ["-p", "no:nbval", "-q", "--disable-warnings", "-W", "ignore", *sys.argv[1:]]
    command += [str(FOLDER / "peft_tests" / f"{module}.py") for module in MODULES]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}).returncode


def cases() -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """Rows of PEFT's table of custom models: a name, a model, a config class and its settings."""
    bitfit, bottleneck, full, lora = configs()
    linear = [
        ("MLP", {"target_modules": "lin0"}),
        ("MLP", {"target_modules": ["lin0", "lin1"]}),
        ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ]
    conv1d = ("EmbConv1D", {"target_modules": ["conv1d"]})
    others = [
        ("EmbConv1D", {"target_modules": ["emb", "conv1d"]}),
        ("Conv1d", {"target_modules": ["conv1d"]}),
        ("Conv2d", {"target_modules": ["conv2d", "lin0"]}),
        ("Conv3d", {"target_modules": ["conv3d", "lin0"]}),
        ("MHA", {"target_modules": ["mha"]}),
    ]
    whole = [(model, {}) for model in ("MLP", "MLP_LayerNorm", "EmbConv1D", "Conv2dGroups", "MHA")]
    rows = {
        lora: [*linear, conv1d, *others],
        bitfit: [*linear, conv1d, ("MLP", {}), ("MLP_LayerNorm", {}), ("MLP2", {"add": "all"})],
        bottleneck: [
            *linear,
            (conv1d[0], {**conv1d[1], "non_linearity": "tanh"}),  # its one unit of ReLU would never fire
            ("MLP", {"target_modules": ["lin0"], "layer_norm": True, "non_linearity": "gelu", "reduction_factor": 2}),
        ],
        full: [*linear, conv1d, *others, *whole, ("MlpUsingParameters", {})],
    }
    for config, models in rows.items():
        for number, (model, settings) in enumerate(models):
            yield f"{config.__name__} {number}", model, config, settings


def several() -> Iterator[tuple[str, str, Any, dict[str, Any], dict[str, Any]]]:
    """Rows of PEFT's table of two adapters at once; full has one set of weights at a time."""
    bitfit, bottleneck, _, lora = configs()
    for config, other in ((lora, {"init_lora_weights": False}), (bitfit, RANDOM), (bottleneck, RANDOM)):
        first, second = {"target_modules": ["lin0"], **other}, {"target_modules": ["lin1"], **other}
        kind = str(config(**first).peft_type.value).lower()
        yield f"{config.__name__} same", kind, config, first, first
        yield f"{config.__name__} different", kind, config, first, second


def decoders() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Configs for PEFT's decoders."""
    bitfit, bottleneck, full, lora = configs()
    usual = {"task_type": "CAUSAL_LM"}
    yield lora, {**usual, "r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
    yield bitfit, usual
    yield bottleneck, usual
    yield bottleneck, {**usual, "placement": "houlsby"}
    yield bottleneck, {**usual, "placement": "parallel"}
    yield full, usual


RANDOM = {"init_weights": False}


def configs() -> tuple[Any, Any, Any, Any]:
    """Our config classes as PEFT's tests want them, and LoRA's."""
    from peft import LoraConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    found = (PEFT_TYPE_TO_CONFIG_MAPPING[kind] for kind in ("BITFIT", "BOTTLENECK", "FULL"))
    return (*found, LoraConfig)


def prepare() -> None:
    """Give our configs the switch by which PEFT's tests ask for random weights in place of an identity."""
    from dataclasses import field, make_dataclass

    import torch
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    from peft_nb.methods import REGISTRY

    for name in ("bitfit", "bottleneck", "full"):
        config, switch = REGISTRY[name].config_class(), ("init_weights", bool, field(default=True))
        PEFT_TYPE_TO_CONFIG_MAPPING[name.upper()] = make_dataclass(config.__name__, [switch], bases=(config,))
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[name.upper()]

        def inject(
            self: Any, model: Any, adapter_name: str, *args: Any, _inject: Any = tuner.inject_adapter, **kwargs: Any
        ) -> None:
            _inject(self, model, adapter_name, *args, **kwargs)
            if self.peft_config[adapter_name].init_weights:
                return
            for name, weight in model.named_parameters():
                if self.prefix in name and adapter_name in name.split("."):
                    weight.data += 0.1 * torch.randn_like(weight)

        tuner.inject_adapter = inject


class Tiny:
    """Stands in for ``AutoModelForCausalLM``: random models of the families that PEFT's tests fetch from the hub."""

    @staticmethod
    def from_pretrained(model_id: str, dtype: Any = None, **options: Any) -> Any:
        import torch
        import transformers

        if Path(model_id).is_dir():
            return transformers.AutoModelForCausalLM.from_pretrained(model_id, dtype=dtype, **options)
        family = re.sub(r".*/tiny-(random|dummy)-|ForCausalLM|LMHeadModel", "", model_id).lower()
        wide = {"vocab_size": 1024, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        flat = {"vocab_size": 1024, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
        more = {"intermediate_size": 48, "num_key_value_heads": 2}
        config = {
            "opt": lambda: transformers.OPTConfig(**wide, ffn_dim=48, word_embed_proj_dim=64),
            "gpt2": lambda: transformers.GPT2Config(**flat),
            "gptj": lambda: transformers.GPTJConfig(**flat, rotary_dim=4),
            "llama": lambda: transformers.LlamaConfig(**wide, **more),
            "qwen2": lambda: transformers.Qwen2Config(**wide, **more),
            "gemma3": lambda: transformers.Gemma3TextConfig(**wide, **more, head_dim=8),
        }[family]()
        torch.manual_seed(0)
        config._name_or_path = model_id
        model = transformers.AutoModelForCausalLM.from_config(config)
        return model.to(dtype or torch.float32).eval()  # as from_pretrained


def pytest_configure(config: pytest.Config) -> None:
    """Put our cases into PEFT's tables before their tests are collected."""
    if not find_spec("diffusers"):  # which tests of image models alone use
        sys.modules["diffusers"] = types.ModuleType("diffusers")
        vars(sys.modules["diffusers"])["StableDiffusionPipeline"] = type("StableDiffusionPipeline", (), {})
    prepare()
    from peft_tests import test_custom_models as custom
    from peft_tests import test_decoder_models as decoder
    from peft_tests import testing_common

    custom.TEST_CASES[:] = list(cases())
    custom.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = list(several())
    custom.ALL_PEFT_CONFIG_CLASSES[:] = list(configs())
    decoder.ALL_CONFIGS[:] = list(decoders())
    decoder.TestDecoderModels.transformers_class = Tiny
    # These leave out, or change the targets of, every method that PEFT does not name there.
    decoder.check_beft_config = lambda *_: None
    testing_common._skip_if_conv1d_not_supported = lambda *_: None


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave out tests of PEFT's own methods, and excuse what cannot apply."""
    ours = set(configs())
    kept = [one for one in items if getattr(one, "callspec", None) and one.callspec.params.get("config_cls") in ours]
    config.hook.pytest_deselected(items=[one for one in items if one not in set(kept)])
    items[:] = kept
    for one in kept:
        name = f"{one.callspec.params['config_cls'].__name__} {one.name} {one.callspec.params.get('config_kwargs')}"
        for pattern, reason in CANNOT.items():
            if re.search(pattern, name):
                one.add_marker(pytest.mark.xfail(reason=reason, strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
