"""The README says what the code says; ``python tests/test_readme.py`` writes its table anew."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from peft_nb import RunSpec
from peft_nb.data import layouts
from peft_nb.magics.line import COMMANDS
from peft_nb.models import ALIASES
from peft_nb.spec import notation
from peft_nb.spec.place import FIELDS, Place
from peft_nb.spec.sweep import SweepSpec, described

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(TEXT)


def commands() -> str:
    rows = [(f"`{f'%peft {name} {one.usage}'.strip()}`", one.help) for name, one in COMMANDS.items()]
    return table(("command", "what it does"), rows)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def with_commands(text: str) -> str:
    begin, end = "<!-- commands, written by: python tests/test_readme.py -->", "<!-- end of commands -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"the README has lost its mark {begin} or {end}"
    return f"{before}{begin}\n\n{commands()}\n\n{end}{after}"


def blocks(language: str, containing: str = "") -> list[str]:
    return [body for kind, body in BLOCKS if kind == language and containing in body]


def test_the_commands_are_those_of_the_code() -> None:
    assert with_commands(TEXT) == TEXT, "python tests/test_readme.py writes it anew"


@pytest.mark.parametrize("name", [*layouts.LAYOUTS, *(n for n, a in ALIASES.items() if a.kind == "causal")])
def test_every_layout_and_model_is_documented(name: str) -> None:
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("entry", layouts.LAYOUTS.values(), ids=lambda entry: entry.name)
def test_every_column_name_that_is_recognised_is_documented(entry: layouts.LayoutType) -> None:
    (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{entry.name}` |")]
    names = {name for role in entry.roles if role.tells for name in (role.name, *role.others)}
    assert names <= set(re.findall(r"\w+", line))
    anywhere = {name for role in entry.roles if not role.tells for name in (role.name, *role.others)}
    assert anywhere <= set(re.findall(r"`(\w+)`", TEXT))


@pytest.mark.parametrize("cell", blocks("", "%%peft"))
def test_every_cell_is_a_valid_spec(cell: str) -> None:
    fields = notation.read_cell(cell, [*RunSpec.describe(), *SweepSpec.describe()]).fields
    assert described(fields) or RunSpec(**fields)


def test_every_command_of_the_shell_is_valid() -> None:
    lines = [line for block in blocks("shell", "peft_nb train") for line in block.splitlines()]
    assert lines
    for line in lines:
        words = line.partition("peft_nb train ")[2].split()
        file = [word for word in words[:1] if word == "spec.yaml"]
        fields = notation.parse_train(words[len(file) :], [*RunSpec.describe(), *FIELDS])
        assert Place.taken(fields)
        assert RunSpec(**{"data": "spec.yaml's", **fields})


def test_every_make_target_and_script_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"\bmake ([a-z]+)\b", TEXT)
    assert set(targets) >= {"demo", "lab", "test", "bench"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    scripts = re.findall(r"python (\S+\.py)", TEXT + measured)
    assert len(scripts) > 8
    assert all((ROOT / script).is_file() for script in scripts)
    assert all((ROOT / link).exists() for link in re.findall(r"\]\(([^)#:]+)\)", TEXT))


def test_the_spec_file_is_valid() -> None:
    (text,) = blocks("yaml", "# spec.yaml")
    assert RunSpec.from_yaml(text).data == "tickets.csv"


def test_accelerate_accepts_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    (text,) = blocks("yaml", "# fsdp.yaml")
    file = tmp_path / "fsdp.yaml"
    file.write_text(text)
    assert load_config_from_file(str(file)).num_processes == 2
    line = ["--config_file", str(file), "-m", "peft_nb", "train", "spec.yaml"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(line))
    assert arguments.use_fsdp
    assert arguments.module
    assert arguments.num_processes == 2


@pytest.mark.notebook
def test_the_tour_runs_as_it_is_written(base: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    import pandas

    pandas.DataFrame(rows).to_csv(tmp_path / "tickets.csv", index=False)
    tour = TEXT.partition("## Sixty seconds")[2].partition("\n## ")[0]
    sources = [body for kind, body in BLOCK.findall(tour) if kind in ("", "python")]
    for name in ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"):
        sources = [source.replace(name, str(base)) for source in sources]
    assert len(sources) > 6
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()


def test_every_other_python_block_parses() -> None:
    for block in blocks("python"):
        ast.parse(re.sub(r"^%", "# %", block, flags=re.MULTILINE))


if __name__ == "__main__":
    README.write_text(with_commands(TEXT), encoding="utf-8")
