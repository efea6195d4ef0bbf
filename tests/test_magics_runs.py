"""``%peft compare`` in a real IPython shell, on runs of a tiny base."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from peft_nb import Comparison, Run, RunSpec
from peft_nb.errors import CommandError, PeftNbError, RunError, StoreError
from peft_nb.magics.completion import complete
from peft_nb.runs.run import begin
from peft_nb.store import Store
from tests.shell import refused, run


@pytest.fixture(scope="module")
def runs(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> list[Run]:
    store = Store(tmp_path_factory.mktemp("magic"))
    return [begin(spec(name=name, max_steps=2), data=rows, store=store).wait() for name in ("first", "second")]


@pytest.fixture
def shell(shell: InteractiveShell, runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setenv("PEFT_NB_STORE", str(runs[0].folder.parents[1]))
    shell.user_ns |= {"a": runs[0], "asked": ["Hello", "Bye"], "number": 7}
    return shell


def test_variables_names_and_the_base_are_compared_shown_and_kept(shell: InteractiveShell, tmp_path: Path) -> None:
    with capture_output() as shown:
        found = run(shell, "%peft compare a second base --prompts asked --html page.html --out found")
    assert isinstance(found, Comparison)
    assert shell.user_ns["found"] is found
    assert found.names == ["a", "second", "base"]
    assert found.answers.index.tolist() == ["Hello", "Bye"]
    assert "eval loss" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "a, second, base on " in shown.stdout
    assert "  second: " in shown.stdout


def test_tags_are_put_on_taken_off_completed_and_found(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    id = shell.user_ns["a"].id
    run(shell, "%peft tag a baseline long")
    run(shell, "%peft tag second long")
    assert shell.user_ns["a"].tags == ("baseline", "long")
    assert run(shell, "%peft runs")["tags"].tolist() == ["long", "baseline, long"]
    assert complete("%peft tag a ba", 0, 14, shell.user_ns).matches == ["baseline"]
    assert "tags: baseline, long" in repr(run(shell, "%peft lineage a"))
    run(shell, "%peft show a")
    assert re.search("tags +baseline, long\n", capsys.readouterr().out)
    assert refused(shell, "%peft tag a spoken,word", StoreError) == (
        "'spoken,word' cannot be a tag; use up to 64 letters, digits, '.', '_' and '-'"
    )
    assert refused(shell, "%peft untag a long basline") == f"run {id} has no tag 'basline'; did you mean 'baseline'?"
    assert shell.user_ns["a"].tags == ("baseline", "long")
    run(shell, "%peft save a kept")
    assert "- baseline\n- long\n" in Path("kept/README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    run(shell, "%peft untag a long")
    run(shell, "%peft untag a baseline")
    assert capsys.readouterr().out == f"{id} has the tags baseline\n{id} has no tags\n"
    assert "something is missing" in refused(shell, "%peft tag a")


def test_without_prompts_the_held_out_rows_are_asked(shell: InteractiveShell) -> None:
    found = run(shell, "%peft compare a")
    assert found.names == ["a", "base"]
    assert list(found.answers.columns) == ["reference", "a", "base"]


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        (
            "",
            CommandError,
            "%peft compare: something is missing; write %peft compare RUN [RUN ...] [base] [--prompts VAR]",
        ),
        ("base", RunError, "a comparison needs a run"),
        ("secnd", StoreError, "did you mean 'second'?"),
        ("number", CommandError, "number is a int, not a run"),
        ("a --prompts askd", CommandError, "--prompts askd: there is no such variable; did you mean 'asked'?"),
        ("a --prompts number", PeftNbError, "prompts: a int is no list of texts"),
        ("a --html there.html", StoreError, "there.html is there already; choose another name"),
        ("a --epochs 3", CommandError, "--epochs: %peft compare has no such flag"),
    ],
)
def test_a_mistake_is_one_line(shell: InteractiveShell, tmp_path: Path, line: str, kind: type, said: str) -> None:
    (tmp_path / "there.html").touch()
    assert said in refused(shell, f"%peft compare {line}", kind)


def test_the_help_says_it(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%peft help compare")
    assert capsys.readouterr().out.startswith("%peft compare RUN [RUN ...] [base] [--prompts VAR] [--html FILE]")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%peft compare f", {"first"}),
        ("%peft compare a first ", {"second", "base"}),
        ("%peft compare a second b", {"base"}),
        ("%peft compare a --prompts ", {"asked"}),
        ("%peft compare a --h", {"--html"}),
    ],
)
def test_runs_the_base_and_variables_are_offered(shell: InteractiveShell, line: str, words: set[str]) -> None:
    from IPython.core.completer import provisionalcompleter

    with provisionalcompleter():
        assert {one.text for one in shell.Completer.completions(line, len(line))} == words
