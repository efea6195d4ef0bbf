from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import ModelError
from peft_nb.methods import REGISTRY, attach, complete, methods, options
from peft_nb.models.resolve import ModelSource
from peft_nb.planning.table import COLUMNS, _base, counted_bases, fitted, table
from peft_nb.spec import METHODS, RunSpec
from peft_nb.training.hooks import Hooks

SOURCE = ModelSource("one", "folder")
LAYERS, HIDDEN, INNER, KEYS = 2, 64, 128, 32  # of the tiny Llama; its keys and values are half as wide as its queries
SHAPES = [(HIDDEN, HIDDEN), (HIDDEN, KEYS), (HIDDEN, KEYS), (HIDDEN, HIDDEN)]
SHAPES += [(HIDDEN, INNER), (HIDDEN, INNER), (INNER, HIDDEN)]
SIDES, OUT = sum(map(sum, SHAPES)), sum(out for _, out in SHAPES)

CLOSED_FORMS = {
    "lora": LAYERS * 16 * SIDES,
    "qlora": LAYERS * 16 * SIDES,
    "lora-plus": LAYERS * 16 * SIDES,
    "pissa": LAYERS * 16 * SIDES,
    "dora": LAYERS * (16 * SIDES + OUT),
    "adalora": LAYERS * 12 * (SIDES + len(SHAPES)),
    "ia3": LAYERS * (KEYS + KEYS + INNER),
    "ln-tuning": (2 * LAYERS + 1) * HIDDEN,
    "oft": LAYERS * sum(side // 32 for side, _ in SHAPES) * 32 * 31 // 2,
    "prompt": 20 * HIDDEN,
    "prefix": 20 * LAYERS * 2 * KEYS,
    "adaption-prompt": 10 * HIDDEN + 1,
}


def bare_config(folder: Path, config: Any) -> Path:
    """Write a folder with a model's config.json and nothing else."""
    folder.mkdir()
    config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> pandas.DataFrame:
    """The table of the tiny Llama, whose weights are not there."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "config.json").write_text((base / "config.json").read_text())
    told: list[tuple[float, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFT_NB_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = table(folder, progress=lambda share, what: told.append((share, what)))
        again = table(folder, progress=lambda share, what: pytest.fail(f"{what} is known"))
    assert again.equals(found)
    assert [what for _, what in told if "import" not in what] == list(METHODS)
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    return found


@pytest.mark.parametrize(("name", "parameters"), CLOSED_FORMS.items())
def test_parameters_are_those_of_the_closed_form(made: pandas.DataFrame, name: str, parameters: int) -> None:
    assert made["trainable parameters"][name] == parameters


def test_every_listed_method_has_a_row_and_fits_or_says_why(made: pandas.DataFrame) -> None:
    assert list(made.index) == list(METHODS)
    assert list(made.columns) == list(COLUMNS)
    without = made[made["trainable parameters"].isna()]
    assert list(without.index) == [name for name in METHODS if REGISTRY[name].required]
    assert without["adapter MB"].isna().all()
    assert "needs token_indices" in without["trained layers"]["trainable-tokens"]
    assert made["trained layers"]["lora"] == "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj (14)"
    assert (made["batching"] == "padded").sum() == sum(not REGISTRY[name].padding_free for name in METHODS)


@pytest.mark.parametrize("name", [name for name in METHODS if not REGISTRY[name].required and name != "eva"])
def test_numbers_are_those_of_a_model_really_attached_and_saved(
    made: pandas.DataFrame, base: Path, tmp_path: Path, name: str
) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    spec = complete(RunSpec(data="rows", method=name))
    model = attach(AutoModelForCausalLM.from_pretrained(base).requires_grad_(False), spec, str(base))
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    total = sum(one.numel() for one in model.parameters())
    hooks = REGISTRY[name].hooks(spec)
    if type(hooks).end is not Hooks.end:
        hooks.begin(model, ())
        hooks.end(model)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    (file,) = tmp_path.glob("*.safetensors")
    with safe_open(file, "np") as saved:
        size = sum(saved.get_tensor(key).nbytes for key in saved.keys())  # noqa: SIM118
    row = made.loc[name]
    assert row["trainable parameters"] == trained
    assert row["% of the model"] == pytest.approx(100 * trained / total, abs=1e-4)
    assert row["adapter MB"] == pytest.approx(size / 1e6, abs=1e-3)


def test_encoders_are_counted_with_their_classifier(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    for name in ("config.json", "1_Pooling/config.json"):
        (tmp_path / name).write_text((encoder / name).read_text())
    found = table(str(tmp_path))
    width, inner, layers = 32, 48, 2
    lora = layers * 16 * (4 * (width + width) + 2 * (width + inner))
    assert found["trainable parameters"]["lora"] == lora + 2 * width + 2
    assert "not classification" in found["trained layers"]["prompt"]


def test_a_method_that_does_not_fit_the_model_says_why(tmp_path: Path) -> None:
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1)
    found = table(bare_config(tmp_path / "gpt2", config))
    assert pandas.isna(found["trainable parameters"]["loha"])
    assert found["trained layers"]["loha"].startswith("loha does not fit GPT2LMHeadModel: ")
    assert found["trainable parameters"]["lora"] == 2 * 16 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_a_model_of_many_layers_is_counted_exactly_on_few(kind: str) -> None:
    from transformers import AutoConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 96}
    config = AutoConfig.for_model(kind, **sizes, **({} if kind == "gpt2" else {"intermediate_size": 64}))
    bases, whole = counted_bases(SOURCE, config), [_base(SOURCE, config)]
    assert [base.model.config.num_hidden_layers for base in bases] == [3, 4]
    for name in ("lora", "pissa", "adalora", "vera", "boft", "ln-tuning", "prefix", "adaption-prompt", "full"):
        few, all_of_it = (fitted(REGISTRY[name], some, config) for some in (bases, whole))
        assert few == all_of_it


def test_a_model_whose_layers_differ_is_counted_whole() -> None:
    from transformers import Qwen2MoeConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = Qwen2MoeConfig(**sizes, mlp_only_layers=[5], num_experts=2, vocab_size=96, intermediate_size=64)
    assert [base.model.config.num_hidden_layers for base in counted_bases(SOURCE, config)] == [6]


@pytest.mark.parametrize("name", ["nobody/nothing", "no/such/folder", "smollm2-13b"])
def test_a_model_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match=name) as error:
        table(name)
    assert "\n" not in str(error.value)


def test_a_config_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    with pytest.raises(ModelError, match="config.json") as error:
        table(tmp_path)
    assert "\n" not in str(error.value)


def test_the_magic_shows_whole_texts(shell: InteractiveShell, base: Path, made: pandas.DataFrame) -> None:
    assert "..." not in shell.run_cell("%peft methods").result._repr_html_()
    found = shell.run_cell(f"%peft methods {base}").result
    varying = "memory MB"  # with what this process has just now
    pandas.testing.assert_frame_equal(pandas.DataFrame(found).drop(columns=varying), made.drop(columns=varying))
    assert found[varying].min() > 100
    assert REGISTRY["lora"].when in found._repr_html_()


@pytest.mark.parametrize("name", ["lora", "trainable-tokens", "lora-plus", "prefix"])
def test_help_shows_all_of_a_method(shell: InteractiveShell, capsys: pytest.CaptureFixture[str], name: str) -> None:
    method = REGISTRY[name]
    assert shell.run_cell(f"%peft help {name}").success
    shown = capsys.readouterr().out
    assert all(text in shown for text in (method.help, method.when, method.source))
    assert not [field for field in method.defaults if f"\n  {field}: " not in shown]
    assert not [option for option in options(method) if f"\n  {option}: " not in shown]
    assert not [option for option in method.required if f"\n  {option}: required" not in shown]


def test_the_plain_list_is_complete() -> None:
    assert list(methods().index) == list(METHODS)


def test_a_pipeline_is_counted_by_its_denoiser(drawing: Path) -> None:
    from peft_nb.models.load import load
    from peft_nb.models.resolve import resolve
    from peft_nb.models.share import share

    found = table(str(drawing))
    model = share(load(resolve(drawing), kind="diffusion").model)
    real = attach(model, complete(RunSpec(data="x", model=str(drawing), task="text-to-image")), "", peft_type="")
    assert found.loc["lora", "trainable parameters"] == real.get_nb_trainable_parameters()[0]
    assert found.loc["dora", "memory MB"] > 0
    assert found.loc["bitfit", "trained layers"] == (
        "bitfit: pipelines of diffusers take adapters of LoRA alone; choose lora or dora"
    )
