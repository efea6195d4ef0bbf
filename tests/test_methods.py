"""Every method on real runs: what it trains, what it leaves alone, and that its adapter is the same everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas
import pytest

from peft_nb.errors import MethodError
from peft_nb.methods import REGISTRY, attach, complete
from peft_nb.models.share import share
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.spec.paths import local
from peft_nb.store import Store
from tests.conftest import Python, in_turn, stop_at
from tests.every_method import DEEP, HIDDEN, KEYS, LAYERS, LINEAR, NAMES, NEEDED, RATES, WORDS, forms, logits

pytestmark = pytest.mark.exhaustive


NEAREST_TO_ROOT = {32: (4, 8), 64: (8, 8), 128: (8, 16)}
LORA = sum(16 * (i + o) for i, o in LINEAR)
PROMPT = 20 * HIDDEN

TRAINABLE = {
    **dict.fromkeys(["lora", "qlora", "rslora", "pissa", "olora", "lora-plus"], LORA),
    "dora": LORA + sum(o for _, o in LINEAR),
    "adalora": sum(12 * (i + 1 + o) for i, o in LINEAR),
    "vera": sum(256 + o for _, o in LINEAR),
    "loha": sum(2 * 8 * (i + o) for i, o in LINEAR),
    "lokr": sum(sum(a * b for a, b in zip(NEAREST_TO_ROOT[i], NEAREST_TO_ROOT[o], strict=True)) for i, o in LINEAR),
    "oft": sum(i // 32 * (32 * 31 // 2) for i, _ in LINEAR),
    "boft": sum(i // 8 * 8 * 8 + o for i, o in LINEAR),
    "ia3": LAYERS * (KEYS + KEYS + DEEP),
    "ln-tuning": (2 * LAYERS + 1) * HIDDEN,
    "prompt": PROMPT,
    "p-tuning": PROMPT + (HIDDEN + 1) * 128 + (128 + 1) * 128 + (128 + 1) * HIDDEN,
    "prefix": 20 * LAYERS * 2 * KEYS,
    "adaption-prompt": 10 * HIDDEN + 1,
    "trainable-tokens": len(WORDS) * HIDDEN,
}


# Loads adapters in a process of its own, by the store and by PEFT alone.
CHILD = """
import json, sys
from pathlib import Path
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from peft_nb.runs.run import load
from peft_nb.store import Store

store, base, file, *ids = sys.argv[1:]
text, found = torch.tensor([[1, 60, 7, 2, 9]]), {}
with torch.inference_mode():
    for id in ids:
        run = load(id, store=Store(Path(store)))
        found[f"store/{id}"] = run.model(input_ids=text).logits
        if run.spec.method != "qlora":
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run.adapter_dir).eval()
            found[f"peft/{id}"] = model(input_ids=text).logits
save_file(found, file)
"""


@pytest.fixture(scope="module")
def interrupted(learn: Callable[..., Run]) -> Callable[[str], Run]:
    """The same, stopped after two steps and resumed."""

    @cache
    def interrupted(method: str) -> Run:
        run = learn(method, stop_at(2))
        assert run.status == "stopped"
        return run.resume()

    return interrupted


@pytest.fixture(scope="module")
def usual(learn: Callable[..., Run]) -> Callable[[str], Run]:
    """A short run at the method's own learning rate, on the same base."""
    return cache(lambda method: learn(method, learning_rate=None, max_steps=3))


@pytest.fixture(scope="module")
def fresh(base: Path) -> Any:
    """The base as it is on disk."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base).eval()


@pytest.fixture(scope="module")
def elsewhere(
    trained: Callable[[str], Run], base: Path, runs: Store, tmp_path_factory: pytest.TempPathFactory, python: Python
) -> dict[str, Any]:
    """What each adapter gives in another process."""
    from safetensors.torch import load_file

    file = tmp_path_factory.mktemp("elsewhere") / "logits.safetensors"
    process = python("-c", CHILD, runs.folder, base, file, *(trained(name).id for name in NAMES))
    process.communicate()
    assert process.returncode == 0
    return load_file(file)


def losses(run: Run) -> list[float]:
    return run.history.loss.dropna().tolist()


def test_the_table_of_sizes_is_complete() -> None:
    assert {*TRAINABLE, "eva"} == {*NAMES}


@pytest.mark.parametrize("name", TRAINABLE)
def test_as_many_parameters_are_trained_as_the_method_says(trained: Callable[[str], Run], name: str) -> None:
    assert trained(name).metrics["trainable_parameters"] == TRAINABLE[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(trained: Callable[[str], Run], usual: Callable[[str], Run], name: str) -> None:
    learned, begun = trained(name).metrics, usual(name).metrics
    assert learned["eval_loss"] < 0.99 * learned["base_eval_loss"]
    assert begun["eval_loss"] < begun["base_eval_loss"]
    assert usual(name).spec.learning_rate == REGISTRY[name].defaults["learning_rate"]


@pytest.mark.parametrize("name", NAMES)
def test_the_base_is_left_as_it_was(trained: Callable[[str], Run], fresh: Any, name: str) -> None:
    import torch

    run = trained(name)
    with run.model.disable_adapter():
        bare = logits(run.model)
    assert (logits(run.model) - bare).abs().max() > 1e-3
    if name == "qlora":
        return
    assert torch.equal(bare, logits(fresh))
    held = {id(tensor): tensor for tensor in run.model.state_dict(keep_vars=True).values()}
    for tensor in fresh.state_dict().values():
        assert any(tensor.shape == one.shape and torch.equal(tensor, one) for one in held.values())
    prompt = "How do I return a parcel?"
    ids = torch.tensor(
        [
            run.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=True, add_generation_prompt=True, return_dict=False
            )
        ]
    )
    made = fresh.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    said = run.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert run.generate(prompt, adapter=False, max_new_tokens=4) == said


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_is_the_same_in_another_process(
    trained: Callable[[str], Run], elsewhere: dict[str, Any], name: str
) -> None:
    import torch

    run = trained(name)
    for found in (value for key, value in elsewhere.items() if key.endswith("/" + run.id)):
        torch.testing.assert_close(found[:, -5:], logits(run.model), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_stopped_and_resumed_a_run_goes_on_as_if_nothing_had_been(
    trained: Callable[[str], Run], interrupted: Callable[[str], Run], name: str
) -> None:
    import torch

    assert losses(interrupted(name)) == losses(trained(name))
    assert torch.equal(logits(interrupted(name).model), logits(trained(name).model))


@pytest.mark.parametrize("name", NAMES)
def test_runs_on_one_base_do_not_touch_each_other(
    trained: Callable[[str], Run], usual: Callable[[str], Run], elsewhere: dict[str, Any], name: str
) -> None:
    mine, other = logits(trained(name).model), logits(usual(name).model)
    assert (mine - other).abs().max() > 1e-4
    # What was saved before the other run began is still what the model gives.
    assert (elsewhere[f"store/{trained(name).id}"][:, -5:] - mine).abs().max() < 1e-4


@pytest.mark.parametrize("name", [name for name in NAMES if name != "qlora"])
def test_merged_equals_unmerged_and_the_base_stays(
    trained: Callable[[str], Run], runs: Store, fresh: Any, name: str
) -> None:
    import torch

    run = trained(name)
    copy = load(run.id, store=runs).model
    if not REGISTRY[name].mergeable:
        with pytest.raises((AttributeError, NotImplementedError, ValueError)):
            copy.merge_and_unload()
        return
    merged = copy.merge_and_unload(safe_merge=True)  # otherwise the sum is written into the memory that all share
    torch.testing.assert_close(logits(merged), logits(run.model), atol=1e-4, rtol=1e-4)
    with run.model.disable_adapter():
        assert torch.equal(logits(run.model), logits(fresh))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "qlora"])
def test_an_adapter_swaps_in_place_where_the_registry_says_so(
    trained: Callable[[str], Run], usual: Callable[[str], Run], runs: Store, name: str
) -> None:
    import torch
    from peft.utils.hotswap import hotswap_adapter

    model, other = load(usual(name).id, store=runs).model, trained(name)
    try:
        hotswap_adapter(model, str(other.adapter_dir), "default", torch_device="cpu")
    except (KeyError, RuntimeError, ValueError):
        assert not REGISTRY[name].swappable
    else:
        assert REGISTRY[name].swappable
        torch.testing.assert_close(logits(model), logits(other.model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_rows_lie_end_to_end_where_that_is_exact(trained: Callable[[str], Run], name: str) -> None:
    path = trained(name).metrics["path"]
    assert path.startswith("padding-free" if REGISTRY[name].padding_free else "padded (the method adds virtual")


# EVA takes seconds to begin, and is LoRA from there on.
QUANTIZED = [(*form, "float32") for form in forms(listed=True) if form[1] != "none" and form[0] != "eva"]
FORMS = [*QUANTIZED, *((name, "4bit" if name == "qlora" else "none", "bfloat16") for name in NAMES)]
# LoRA begun otherwise, or with a tuner much like one that is not among these.
ALIKE = ("rslora", "pissa", "olora", "loha", "boft")
IN_TURN = [form for form in FORMS if form[0] not in ALIKE and form[2] == "bfloat16"]
IN_TURN += [next(form for form in FORMS if form[0] == name) for name in ALIKE]


@pytest.fixture(scope="module")
def quantized(base: Path) -> Callable[[Any], Any]:
    """The base in every quantization."""
    from peft_nb.models.load import load as load_base
    from peft_nb.models.resolve import resolve

    return cache(lambda quantization: load_base(resolve(str(base)), quantization=quantization).model)


@pytest.mark.parametrize(("name", "quantization"), [form[:2] for form in QUANTIZED])
def test_a_quantized_base_is_trained_where_the_registry_says_so(
    quantized: Callable[[Any], Any], name: str, quantization: str
) -> None:
    import torch

    from peft_nb.training import objectives
    from tests import tiny

    examples, cpu = tiny.examples(), torch.device("cpu")
    needed = {**NEEDED, "trainable-tokens": {"method_options": {"token_indices": list(examples[0].ids[:4])}}}
    spec = RunSpec(data="none", method=name, quantization=quantization, **needed.get(name, {}))
    model = attach(share(quantized(quantization)), spec, "base", steps=3)
    way = objectives.choose(model, examples, 0, cpu, fast=True, supported=REGISTRY[name].padding_free)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=RATES.get(name, 1e-2)), list[float]()
    with way.installed(model):
        for _ in range(4):
            optimizer.zero_grad()
            loss = way.loss(model, examples, cpu)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {one.dtype for one in trained} == {torch.float32}


@pytest.mark.parametrize(("name", "quantization", "dtype"), in_turn(FORMS, IN_TURN))
def test_a_run_trains_a_base_in_16_bits_or_quantized(
    learn: Callable[..., Run], runs: Store, name: str, quantization: str, dtype: str
) -> None:
    import torch

    run = learn(name, quantization=quantization, dtype=dtype, max_steps=3)
    assert run.metrics["eval_loss"] < run.metrics["base_eval_loss"]
    assert "float32" in {str(one.dtype).split(".")[1] for one in run.model.parameters() if one.requires_grad}
    assert run.model.get_output_embeddings().weight.dtype == logits(run.model).dtype == getattr(torch, dtype)
    if dtype == "float32":
        torch.testing.assert_close(logits(load(run.id, store=runs).model), logits(run.model), atol=1e-4, rtol=1e-4)


CLASSIFYING = [name for name in NAMES if REGISTRY[name].serves("SEQ_CLS")]


@pytest.mark.parametrize("name", in_turn(CLASSIFYING, {*CLASSIFYING}.difference(ALIKE)))
def test_a_classifier_is_trained_where_the_registry_says_so(
    encoder: Path, labelled: list[Any], runs: Store, name: str
) -> None:
    names = {"learned": labelled[:120], "asked": labelled[120:150]}
    sets = {"data": "learned", "eval_data": "asked", "task": "classification", "model": str(encoder)}
    small = {"dtype": "float32", "device": "cpu", "batch_size": 20, "max_steps": 6}
    rate = 1e-3 if name == "lora-plus" else 1e-2
    run = begin(
        RunSpec(method=name, learning_rate=rate, **sets, **small, **NEEDED.get(name, {})), namespace=names, store=runs
    ).wait()
    assert run.metrics["eval_loss"] < run.metrics["base_eval_loss"]
    head = 32 * 3 + 3
    assert run.metrics["trainable_parameters"] > head
    texts = ["the fig in the yard", "a red owl"]
    pandas.testing.assert_frame_equal(load(run.id, store=runs).predict(texts), run.predict(texts), atol=1e-5)


# Which methods PEFT cannot put into which families, of the listed ones.
UNFIT = {
    **{family: {"adaption-prompt"} for family in ("qwen3", "gemma2", "gpt-neox", "phi")},
    "gpt2": {"loha", "lokr", "oft", "boft"},
}


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2", "gpt2", "gpt-neox", "phi"])
def test_a_method_fits_a_model_or_says_in_a_line_that_it_does_not(family: str) -> None:
    import torch

    from tests.tiny import base

    unfit, told, ids = set(), [], torch.tensor([[4, 5, 6, 7, 8]])
    for name in NAMES:
        spec = RunSpec(data="none", method=name, **NEEDED.get(name, {}))
        try:
            model = attach(base(family), spec, "base", steps=3)
        except MethodError as error:
            unfit.add(name)
            told.append(str(error))
            continue
        model(input_ids=ids).logits[0, -5:-1].logsumexp(-1).sum().backward()
        assert all(one.grad is not None for one in model.parameters() if one.requires_grad), name
    assert unfit == UNFIT.get(family, set())
    assert all(
        re.fullmatch(r"method: [\w-]+ does not fit \w+: .*; (lora does|look at its method_options)", one)
        for one in told
    )


def test_a_saved_spec_says_what_was_used(trained: Callable[[str], Run]) -> None:
    run = trained("loha")
    assert (run.spec.r, run.spec.alpha, run.spec.target_modules) == (8, 8.0, "all-linear")
    written = RunSpec.from_yaml((run.adapter_dir / "spec.yaml").read_text())
    assert written == run.spec.model_copy(update={"model": local(run.spec.model)})
    assert run.spec == complete(run.spec)
    assert json.loads((run.adapter_dir / "adapter_config.json").read_text())["peft_type"] == "LOHA"
