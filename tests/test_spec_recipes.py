"""Every recipe is a valid spec that trains; ``%peft template`` writes it and ``%peft train`` takes its file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell

import peft_nb
from peft_nb.data import sources
from peft_nb.errors import CommandError, SpecError
from peft_nb.magics.completion import complete
from peft_nb.methods import complete as completed
from peft_nb.methods import problems
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.recipes import FOLDER, get, names, purpose, runs, text
from peft_nb.store import Store
from tests.conftest import few
from tests.shell import refused
from tests.speech import speech_model

NAMES = [
    "bottleneck-per-language",
    "classification",
    "code",
    "image-classification",
    "json-extraction",
    "method-shoot-out",
    "preferences",
    "prompt-tuning-many-tenants",
    "rated-answers",
    "speech-recognition",
    "style-tuning",
    "support-bot",
    "text-to-image",
    "tiny-memory-qlora",
]
ALL = [(name, place) for name in NAMES for place in range(len(runs(name)))]

every_recipe = pytest.mark.parametrize("name", NAMES)


def next_input(shell: InteractiveShell, line: str) -> str:
    shell.run_cell(line).raise_error()
    written: str = shell.rl_next_input
    return written


def test_these_are_the_recipes() -> None:
    assert names() == NAMES


@every_recipe
def test_its_comment_says_what_for_when_and_what_to_change(name: str) -> None:
    said = text(name).partition("\ndata:")[0]
    assert 20 < len(purpose(name)) <= 110
    assert "\n#\n# When: " in said
    assert "\n# Change: " in said
    assert max(map(len, text(name).splitlines())) <= 120


@every_recipe
def test_plain_yaml_reads_the_same(name: str) -> None:
    assert set(yaml.safe_load(text(name))) - {"runs"} <= set(get(name))


@pytest.mark.parametrize(("name", "place"), ALL)
def test_it_is_a_spec_that_its_method_can_serve_on_data_that_are_here(name: str, place: int) -> None:
    spec = RunSpec(**runs(name)[place])
    assert problems(spec) == []
    assert completed(spec).learning_rate
    assert spec.data in sources.BUILTIN
    assert spec.name


@pytest.mark.parametrize(("name", "place"), few(ALL, ("classification", 0), ("support-bot", 0)))
def test_it_trains(
    name: str, place: int, base: Path, encoder: Path, vision: Path, drawing: Path, store: Store, tmp_path: Path
) -> None:
    spec = RunSpec(**runs(name)[place])
    models = {"classification": encoder, "image-classification": vision, "text-to-image": drawing}
    model = models.get(spec.task, base)
    if spec.task == "speech-recognition":  # whose clips and texts are longer than those of other tests
        model = speech_model(tmp_path / "speech", frames=1000, tokens=256)
    spec = spec.model_copy(update={"method_options": {}} if model is vision else {})
    spec = spec.model_copy(update={"language": "en"} if spec.task == "speech-recognition" else {})
    small = {"model": str(model), "max_steps": 2, "warmup_steps": 0, "max_length": 256, "dtype": "float32"}
    quick = {"device": "cpu", "judge": "off", "accept": {}, "eval_fraction": 0, "load_best_model_at_end": False}
    run = begin(RunSpec(**spec.changed() | small | quick), store=store).wait()
    assert run.status == "finished"
    assert run.spec.name == spec.name
    assert len(run.history) >= 2


def test_the_list_says_what_each_is_for() -> None:
    listed = peft_nb.recipes()
    assert list(listed.index) == NAMES
    assert list(listed.columns) == ["what for", "method", "task", "data"]
    assert listed.loc["method-shoot-out", "method"] == "lora, bottleneck, ia3, prompt"
    assert listed.loc["classification", "task"] == "classification"


@pytest.mark.parametrize("name", [name for name in NAMES if len(runs(name)) == 1])
def test_the_cell_below_is_the_recipe_with_its_comment(shell: InteractiveShell, name: str) -> None:
    written = next_input(shell, f"%peft template {name}")
    assert written.startswith("%%peft --out run\n# ")
    read = notation.read_cell(written, RunSpec.describe())
    assert (RunSpec(**read.fields), read.out) == (RunSpec(**get(name)), "run")


def test_several_runs_become_one_cell_of_python(shell: InteractiveShell) -> None:
    written = next_input(shell, "%peft template method-shoot-out")
    shared, each, *_ = (node.value for node in ast.parse(written).body if isinstance(node, ast.Assign))
    scope = {name: eval(ast.unparse(node)) for name, node in (("shared", shared), ("each", each))}
    specs = [RunSpec(**scope["shared"], **one) for one in scope["each"]]
    assert specs == [RunSpec(**fields) for fields in runs("method-shoot-out")]
    assert len({spec.method for spec in specs}) == 4


def test_without_a_name_the_recipes_are_listed(shell: InteractiveShell) -> None:
    result = shell.run_cell("%peft template").result
    assert list(result.index) == NAMES
    assert "A language the base hardly speaks: small layers between the frozen ones, an adapter" in result._repr_html_()


def test_a_name_that_is_none_is_one_line(shell: InteractiveShell) -> None:
    told = refused(shell, "%peft template style-tunig", CommandError)
    assert told == "no recipe is called 'style-tunig'; did you mean 'style-tuning'?"
    assert "%peft template lists them" in refused(shell, "%peft template ../x", CommandError)


def test_tab_knows_the_recipes() -> None:
    line = "%peft template s"
    assert complete(line, 0, len(line), {}).matches == ["speech-recognition", "style-tuning", "support-bot"]


def test_train_takes_the_file_of_a_recipe_and_flags_override_it(shell: InteractiveShell, base: Path) -> None:
    flags = f"--model {base} --max-steps 2 --judge off --eval-fraction 0 --dtype float32 --out run"
    shell.run_cell(f"%peft train {FOLDER / 'style-tuning.yaml'} {flags}").raise_error()
    run = shell.user_ns["run"]
    assert (run.spec.name, run.spec.r, run.spec.max_steps) == ("style", 8, 2)


def test_train_takes_a_file_of_several_runs_one_after_the_other(
    shell: InteractiveShell, base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("data: support-desk\nlr: 1\nruns:\n- {method: lora, r: 2}\n- {method: ia3}\n")
    refused(shell, f"%peft train {file}", SpecError)
    file.write_text(file.read_text().replace("lr: 1", "judge: off\nlora_dropout: 0.5").replace("ia3", "lora"))
    flags = f"--model {base} --max-steps 2 --eval-fraction 0 --dtype float32 --dropout 0.0"
    shell.run_cell(f"%peft train {file} {flags}").raise_error()
    specs = [peft_nb.load(record.id).spec for record in reversed(Store().all())]
    assert [(spec.r, spec.dropout) for spec in specs] == [(2, 0.0), (16, 0.0)]


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("runs: lora", "", "runs: not a list of runs; write one '- {method: lora, r: 8}' a line"),
        ("runs: []", "", "runs: not a list of runs"),
        ("runs: [lora]", "", "runs: not a list of runs"),
        ("data: x\nruns: [{r: 1}, {r: 2}]", "--background", "the file describes 2 runs, which wait for each other"),
    ],
)
def test_what_is_wrong_with_several_runs_is_one_line(
    shell: InteractiveShell, tmp_path: Path, content: str, arguments: str, said: str
) -> None:
    (tmp_path / "runs.yaml").write_text(content)
    told = refused(shell, f"%peft train runs.yaml {arguments}")
    assert said in told
    assert "\n" not in told


def test_where_one_run_is_wanted_several_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="describes 4 runs where one is wanted"):
        notation.parse_train([str(FOLDER / "method-shoot-out.yaml")], RunSpec.describe())
