from __future__ import annotations

import copy
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import AWKWARD, specs, texts

import peft_nb
from peft_nb.errors import PeftNbError, SpecError
from peft_nb.spec import ALIASES, RunSpec
from peft_nb.spec.field_info import FieldInfo

pytestmark = pytest.mark.usefixtures("any_method")

fields = RunSpec.describe()
numeric = [field for field in fields if field.type in ("integer", "number")]


def problems(**values: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        RunSpec(**values)
    return caught.value.problems


def by_name(field: FieldInfo) -> str:
    return field.name


# ---- round trips


@given(specs)
def test_keyword_arguments_lose_nothing(spec: RunSpec) -> None:
    assert RunSpec(**spec.to_kwargs()) == RunSpec(**spec.to_dict()) == spec
    assert hash(RunSpec(**spec.to_dict())) == hash(spec)
    assert list(RunSpec(**spec.to_kwargs()).columns) == list(spec.columns)


@given(specs)
def test_yaml_loses_nothing(spec: RunSpec) -> None:
    text = spec.to_yaml()
    assert RunSpec.from_yaml(text) == spec
    assert RunSpec.from_yaml(text.rstrip("\n")) == spec
    assert list(RunSpec.from_yaml(text).columns) == list(spec.columns)


@given(specs)
def test_any_other_yaml_reader_understands_the_yaml(spec: RunSpec) -> None:
    assert RunSpec(**yaml.safe_load(spec.to_yaml())) == spec


@given(specs)
def test_magic_text_loses_nothing(spec: RunSpec) -> None:
    text = spec.to_magic()
    assert RunSpec.from_magic(text) == spec
    assert RunSpec.from_magic("\n" + text.rstrip("\n")) == spec


@example(RunSpec(data="x", target_modules="[a]"))
@example(RunSpec(data="x", target_modules="'a'"))
@example(RunSpec(data="x", target_modules="'\n0"))
@example(RunSpec(data="x", target_modules="{\x7f\ufeff😀"))
@given(specs)
def test_argv_loses_nothing(spec: RunSpec) -> None:
    assert RunSpec.from_argv(spec.to_argv()) == spec


@settings(max_examples=40)
@given(specs)
def test_a_file_loses_nothing(tmp_path_factory: pytest.TempPathFactory, spec: RunSpec) -> None:
    file = tmp_path_factory.getbasetemp() / "spec.yaml"
    file.write_text(spec.to_yaml(), encoding="utf-8")
    assert RunSpec.from_argv([str(file)]) == spec


def test_argv_survives_a_real_process() -> None:
    spec = RunSpec(
        data="-{x} $y 'z'",
        system="".join(AWKWARD),
        columns={"prompt": "a=b,c", "ü": "a\n"},
        target_modules="[qv]_proj",
        fast=False,
    )
    code = "import sys; from peft_nb.spec import RunSpec; print(ascii(RunSpec.from_argv(sys.argv[1:]).to_yaml()))"
    ran = subprocess.run(
        [sys.executable, "-c", code, *spec.to_argv()],
        cwd=Path(peft_nb.__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip() == ascii(spec.to_yaml())


@given(specs)
def test_copies_equal_the_original(spec: RunSpec) -> None:
    assert copy.deepcopy(spec) == pickle.loads(pickle.dumps(spec)) == spec


# ---- whatever is thrown at it

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary() | st.just(np.array([1, 2])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from([field.name for field in fields] + list(ALIASES) + ["self", "r ", "a\nb", ""])


def refusal(read: Callable[[], RunSpec]) -> list[str]:
    try:
        read()
    except PeftNbError as error:
        return getattr(error, "problems", [str(error)])
    return []


@given(st.dictionaries(names, anything, max_size=6))
@example({"accept": {"\\" * 60: "< 1"}})
def test_any_values_give_a_spec_or_one_line_each(values: dict[str, Any]) -> None:
    lines = refusal(lambda: RunSpec(**values))
    assert not any("\n" in line or len(line) > 300 for line in lines)


yaml_like = st.lists(st.sampled_from([*AWKWARD, *(f.name for f in fields), ": ", "\n", "  ", "- "])).map("".join)


@given(st.text() | yaml_like)
def test_any_text_gives_a_spec_or_one_line_each(text: str) -> None:
    for start in ("", "data: x\n", "%%peft ", "%%peft lora\n", "--r ", "--columns={"):
        for read in (RunSpec.from_yaml, RunSpec.from_magic):
            assert not any("\n" in line for line in refusal(partial(read, start + text)))
        argv = (start + text).split(" ")
        assert not any("\n" in line for line in refusal(partial(RunSpec.from_argv, argv)))


# ---- what is refused


def test_all_problems_are_reported_at_once() -> None:
    assert problems(r=0, learnin_rate=1e-3, epochs="two", lora_alpha=8, alpha=9) == [
        "lora_alpha: stands for alpha, which is given too; keep one",
        "data: missing; give training rows: a notebook variable, a built-in set such as support-desk, a csv, tsv, "
        "json, jsonl, ndjson, parquet, txt or md file, a folder or zip of images, a folder of clips, or a "
        "set on the hub.",
        "r: 0 is below the smallest allowed value 1",
        "epochs: 'two' is not a finite number; write digits, such as 3 or 2e-4",
        "learnin_rate: no such field; did you mean 'learning_rate'?",
    ]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("learnin_rate", "learning_rate"),
        ("Learning-Rate", "learning_rate"),
        ("epoch", "epochs"),
        ("lora_alfa", "lora_alpha"),
        ("maxlength", "max_length"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(name: str, right: str) -> None:
    assert problems(data="x", **{name: 1}) == [f"{name}: no such field; did you mean {right!r}?"]


def test_a_name_like_no_other_is_refused_without_a_guess() -> None:
    assert problems(data="x", **{"qqqq\nzzzz": 1}) == [r"'qqqq\nzzzz': no such field"]


@pytest.mark.parametrize("field", numeric, ids=by_name)
def test_bounds_hold(field: FieldInfo) -> None:
    step = 1 if field.type == "integer" else 1e-6
    assert field.minimum is not None
    assert field.maximum is not None
    for bound, outside, is_open in (
        (field.minimum, field.minimum - step, "above" in field.bounds),
        (field.maximum, field.maximum + step, "below" in field.bounds),
    ):
        assert problems(data="x", **{field.name: outside})[0].startswith(f"{field.name}: {outside}")
        if is_open:
            assert problems(data="x", **{field.name: bound})
        else:
            assert getattr(RunSpec(data="x", **{field.name: bound}), field.name) == bound


@pytest.mark.parametrize("field", numeric, ids=by_name)
@pytest.mark.parametrize(
    "value", [True, "two", "", [], {}, math.nan, math.inf, -math.inf, "nan", "inf", "1e999", 10**400, 1j]
)
def test_what_is_no_number_is_refused(field: FieldInfo, value: Any) -> None:
    (problem,) = problems(data="x", **{field.name: value})
    assert problem.startswith(f"{field.name}: ")
    assert problem.endswith("is not a finite number; write digits, such as 3 or 2e-4")


@pytest.mark.parametrize("value", [16.5, "16.5", np.float32(16.5)])
def test_a_fraction_is_no_whole_number(value: Any) -> None:
    assert problems(data="x", r=value)[0].endswith("is not a whole number; the nearest is 16")


@pytest.mark.parametrize("value", [16, "16", 16.0, "16.0", "1.6e1", np.int64(16), np.float64(16)])
def test_a_whole_number_may_be_written_in_many_ways(value: Any) -> None:
    spec = RunSpec(data="x", seed=value)
    assert spec.seed == 16
    assert type(spec.seed) is int


@pytest.mark.parametrize("value", ["2e-4", "0.0002", " 2E-4 ", 0.0002, np.float64(2e-4)])
def test_a_number_may_be_written_in_many_ways(value: Any) -> None:
    assert RunSpec(data="x", learning_rate=value).learning_rate == 2e-4


@pytest.mark.parametrize("text", ["2e-4", "'2e-4'", "0.0002", "2.0e-4"])
def test_yaml_reads_an_exponent_as_a_number(text: str) -> None:
    assert RunSpec.from_yaml(f"data: x\nlearning_rate: {text}").learning_rate == 2e-4


@pytest.mark.parametrize("text", ["2e-4", "on", "null ", "0123", "2024-01-01", "1:30", "yes", "0x10", "1_000"])
def test_yaml_keeps_a_name_as_written(text: str) -> None:
    assert RunSpec.from_yaml(f"data: {text}x\nrevision: '{text}'").revision == text
    if text != "null ":
        assert RunSpec.from_yaml(f"data: {text}").data == text


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_yaml_null_is_none(text: str) -> None:
    assert RunSpec.from_yaml(f"data: x\neval_steps: {text}\nsystem: {text}") == RunSpec(data="x")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("Yes", True), ("on", True), ("no", False), ("OFF", False)]
)
def test_switches_read_yaml_words(text: str, value: bool) -> None:
    assert RunSpec.from_yaml(f"data: x\nfast: {text}").fast is value


@pytest.mark.parametrize("value", [1, 0, "1", "maybe", None])
def test_switches_take_nothing_else(value: Any) -> None:
    assert problems(data="x", fast=value) == [f"fast: {value!r} is neither true nor false"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"data": 3}, "data: 3 is not text; give a name, or text in quotes"),
        ({"data": " "}, "data: ' ' is empty; write a name or leave the field out"),
        ({"data": "a\0b"}, r"data: 'a\x00b' holds a character that no file can keep; remove it"),
        ({"system": "\ud800"}, r"system: '\ud800' holds a character that no file can keep; remove it"),
        ({"format": "message"}, "format: no format is called 'message'; did you mean 'messages'?"),
        ({"format": "xxxx"}, "format: no format is called 'xxxx'; known are auto, prompt_completion, instruction"),
        ({"task": "clasification"}, "task: no task is called 'clasification'; did you mean 'classification'?"),
        ({"quantization": 4}, "quantization: 4 is not one of none, 4bit, 8bit"),
        (
            {"dtype": "bf16"},
            "dtype: 'bf16' is not one of auto, float32, bfloat16; did you mean 'bfloat16'?",
        ),
        ({"device": []}, "device: [] is not one of auto, cpu, cuda, mps"),
        ({"columns": "prompt"}, "columns: 'prompt' is no mapping; write role: column"),
        ({"columns": "a=b,a=c"}, "columns: 'a=b,a=c' is no mapping"),
        ({"columns": {"prompt": 1}}, "columns: 1 is not text"),
        (
            {"target_modules": []},
            "target_modules: the list is empty; name at least one layer, or write all-linear",
        ),
        ({"target_modules": ["q", 1]}, "target_modules: 1 is not text"),
        ({"method": "no such"}, "method: 'no such' is not the name of a method"),
        ({"max_steps": 10, "warmup_steps": 11}, "warmup_steps: 11 is more than max_steps, 10; lower it"),
        (
            {"lr_scheduler_type": "constant", "warmup_steps": 5},
            "warmup_steps: 5 has no effect on a constant schedule; use constant_with_warmup",
        ),
        (
            {"lr_scheduler_type": "constant", "warmup_ratio": 0.1},
            "warmup_ratio: 0.1 has no effect on a constant schedule; use constant_with_warmup",
        ),
        (
            {"warmup_steps": 5, "warmup_ratio": 0.1},
            "warmup_ratio: 0.1 and warmup_steps, 5, are both given; keep one",
        ),
        ({"optim": "galore_adamw"}, "optim: galore_adamw is of the package galore-torch, which is not supported; "),
        ({"optim": "adamw"}, "optim: 'adamw' is another tool's word: write optim: adamw_torch"),
        ({"neftune_noise_alpha": 0}, "neftune_noise_alpha: 0 is too low; it must be above 0"),
        (
            {"report_to": "all"},
            "report_to: nothing is reported to 'all'; known are trackio, wandb, mlflow, tensorboard",
        ),
        ({"init_adapter": ""}, "init_adapter: '' is empty; write a name or leave the field out"),
    ],
)
def test_each_refusal_says_field_value_and_fix(values: dict[str, Any], problem: str) -> None:
    (found,) = problems(**{"data": "x"} | values)
    assert found.startswith(problem)


def test_objects_are_shown_short_and_on_one_line() -> None:
    (problem,) = problems(data=np.zeros((1000, 1000)))
    assert "\n" not in problem
    assert len(problem) < 150


def test_checks_between_fields_come_with_all_others() -> None:
    found = problems(data="x", max_steps=10, warmup_steps=11, r=0)
    assert [line.split(":")[0] for line in found] == ["r", "warmup_steps"]


@pytest.mark.parametrize("name", [".", "..", "a/b", "a\\b", "-a", ".a", "a.", "a b", "ü", "x" * 65, "a\n"])
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    assert re.match(r"name: .* cannot name a folder; use up to 64", problems(data="x", name=name)[0])


@pytest.mark.parametrize("name", ["a", "_a", "Run-1.2_b", "7", "x" * 64, None])
def test_a_plain_name_is_accepted(name: str | None) -> None:
    assert RunSpec(data="x", name=name).name == name


# ---- what is accepted


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_aliases_stand_for_their_fields(alias: str, name: str) -> None:
    value = 0.5 if name == "dropout" else 9
    assert RunSpec(data="x", **{alias: value}) == RunSpec(data="x", **{name: value})


def test_the_aliases_are_those_of_peft_transformers_and_trl() -> None:
    assert set(ALIASES) == {
        *("lora_alpha", "lora_dropout", "num_train_epochs", "per_device_train_batch_size", "max_seq_length")
    }


def test_plain_layer_names_become_a_list_and_patterns_stay() -> None:
    assert RunSpec(data="x", target_modules="q_proj, v_proj").target_modules == ["q_proj", "v_proj"]
    assert RunSpec(data="x", target_modules="q_proj").target_modules == ["q_proj"]
    assert RunSpec(data="x", target_modules=("a", "b")).target_modules == ["a", "b"]
    for text in ("all-linear", r".*\.[qv]_proj", "layers.(1|2),x"):
        assert RunSpec(data="x", target_modules=text).target_modules == text


def test_columns_may_be_pairs() -> None:
    assert RunSpec(data="x", columns="prompt=ask, completion = a=b").columns == {
        "prompt": "ask",
        "completion": "a=b",
    }


def test_a_path_object_is_a_path() -> None:
    assert RunSpec(data=Path("a") / "b.csv").data == str(Path("a") / "b.csv")


# ---- the object itself


def test_a_spec_never_changes() -> None:
    spec = RunSpec(data="x")
    with pytest.raises(SpecError, match="r: a spec never changes"):
        spec.r = 8  # type: ignore[misc]
    given = {"prompt": "ask"}
    kept = RunSpec(data="x", columns=given)
    given["prompt"] = kept.to_dict()["columns"]["prompt"] = kept.changed()["columns"]["prompt"] = "other"
    assert kept.columns == {"prompt": "ask"}
    spec.columns["prompt"] = "ask"
    assert RunSpec(data="x").columns == {}


def test_changed_lists_what_differs_in_order() -> None:
    spec = RunSpec(name="a", dropout=0, epochs=1, data="x", eval_steps=None, model="m")
    assert list(spec.changed().items()) == [("model", "m"), ("data", "x"), ("epochs", 1.0), ("name", "a")]
    assert repr(spec) == "RunSpec(model='m', data='x', epochs=1.0, name='a')"
    assert RunSpec(data="x") == RunSpec(data="x", r=None, weight_decay=-0.0)
    assert hash(RunSpec(data="x")) == hash(RunSpec(data="x", r=None, weight_decay=-0.0))
    assert RunSpec(data="x") != RunSpec(data="y")
    one, other = RunSpec(data="x", columns="a=1,b=2"), RunSpec(data="x", columns="b=2,a=1")
    assert one == other
    assert hash(one) == hash(other)


def test_yaml_reads_well() -> None:
    spec = RunSpec(
        data="tickets.csv",
        columns={"prompt": "ask"},
        system="Be kind.\nBe brief.",
        target_modules="q_proj,v_proj",
        learning_rate=1e-3,
        max_steps=30,
        fast=False,
    )
    assert spec.to_yaml() == (
        "data: tickets.csv\ncolumns:\n  prompt: ask\nsystem: |-\n  Be kind.\n  Be brief.\n\n"
        "target_modules: [q_proj, v_proj]\n\nmax_steps: 30\nlearning_rate: 0.001\n\nfast: false\n"
    )


LATER = ("performance", "evaluation", "logging")


def test_every_field_says_everything_about_itself() -> None:
    sections = list(dict.fromkeys(field.section for field in fields))
    assert sections == ["model", "data", "method", "training", "preferences", "images", "speech", "documents", *LATER]
    assert [field.section for field in fields] == sorted((f.section for f in fields), key=sections.index)
    assert [field.name for field in fields if field.required] == ["data"]
    for field in fields:
        assert field.help[0].isupper()
        assert field.help.endswith(".")
        assert 20 < len(field.help) < 200
        if field.type == "integer" or field.unit:
            assert field.bounds
        if not field.required:
            assert getattr(RunSpec(data="x"), field.name) == field.default
            assert getattr(RunSpec(data="x", **{field.name: field.default}), field.name) == field.default
    r = next(field for field in fields if field.name == "dropout")
    assert (r.flag, r.minimum, r.maximum, r.bounds, r.unit) == (
        "--dropout",
        0,
        1,
        "at least 0, below 1",
        "share of inputs",
    )
