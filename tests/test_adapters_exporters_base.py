from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from peft_nb.adapters.exporters import EXPORTERS, Exportable, Exported, Exporter, Side, export
from peft_nb.adapters.exporters.base import LONGEST, PROMPTS
from peft_nb.data.examples import gather
from peft_nb.errors import RunError
from peft_nb.events import silent
from peft_nb.magics.line import COMMANDS
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec


def written(run: Exportable, path: Path) -> Path:
    path.write_text(run.id)
    return path


@pytest.fixture
def run() -> Exportable:
    """A run whose parts nobody asks for."""
    return Exportable("lora-1", RunSpec(data="a"), {}, Path, Path, pytest.fail)


def test_nothing_is_in_the_way_unless_a_format_says_so(run: Exportable) -> None:
    assert Exporter("note", "one line", ".txt", written).obstacle(run) == ""


@pytest.mark.parametrize("why", ["", "lora-1 is too short for a note"])
def test_a_format_writes_what_it_sees_no_obstacle_to(
    run: Exportable, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def obstacle(run: Exportable) -> str:
        seen.append(run.id)
        return why

    monkeypatch.setitem(EXPORTERS, "note", Exporter("note", "one line", ".txt", written, obstacle))
    if why:
        with pytest.raises(RunError, match=f"^{why}$"):
            export(run, tmp_path / "out", "note")
    else:
        assert export(run, tmp_path / "out", "note").read_text() == "lora-1"
    assert (tmp_path / "out").exists() == (not why)
    assert seen == ["lora-1"]


def test_rows_that_are_gone_leave_their_examples() -> None:
    side = Side(gather([]))
    assert (len(side.examples), side.rows, side.layout) == (0, None, None)


def test_what_a_format_is_given_stays_as_it_is(run: Exportable) -> None:
    for one, name in ((run, "id"), (EXPORTERS["yaml"], "name"), (Side(gather([])), "rows")):
        with pytest.raises(FrozenInstanceError):
            setattr(one, name, "another")


def counted(run: Exportable, path: Path, *, times: str = "1", loud: bool = False) -> Path:
    path.write_text(f"{run.id} {times} {loud}")
    return path


COUNTED = Exporter("note", "one line", ".txt", counted, options={"times": "how often", "loud": "in capitals"})


def test_options_reach_the_format_and_unknown_ones_are_refused(
    run: Exportable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPORTERS, "note", COUNTED)
    assert export(run, tmp_path / "out", "note", times="3", loud=True).read_text() == "lora-1 3 True"
    with pytest.raises(RunError, match=r"^tims: no option of note; its options are times, loud; did you mean 'times'"):
        export(run, tmp_path / "other", "note", tims="3")
    with pytest.raises(RunError, match=r"^times: no option of yaml; it has none$"):
        export(run, tmp_path / "other", "yaml", times="3")
    assert not (tmp_path / "other").exists()


def test_options_are_flags_and_one_that_is_off_is_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPORTERS, "note", COUNTED)
    assert "[--times TIMES] [--loud]" in COMMANDS["export"].usage
    assert COMMANDS["export"].flags["--times"].help == "Of note: how often."
    given = COMMANDS["export"].parse(["run", "--as", "note", "--times", "3", "--loud"])
    assert given == {"run": "run", "as_": "note", "times": "3", "loud": True}


def test_what_is_told_of_a_file_is_shown_and_escaped(tmp_path: Path) -> None:
    import pandas

    table = pandas.DataFrame({"KL": [0.5], "of": ["<b>"]})
    one = Exported(tmp_path, "written to <there>\nrun <it>", table)
    assert Path(one) == tmp_path
    assert repr(one).splitlines()[:2] == ["written to <there>", "run <it>"]
    assert "0.5" in repr(one)
    html = one._repr_html_()
    assert html.startswith("<p>written to &lt;there&gt;</p><pre>run &lt;it&gt;</pre><table")
    assert "&lt;b&gt;" in html
    assert repr(Exported(tmp_path, "written")) == "written"
    assert Exported(tmp_path, "written")._repr_html_() == "<p>written</p>"


def test_a_real_run_lends_its_model_and_what_to_compare_it_on(finished: Run, tmp_path: Path) -> None:
    def compared(run: Exportable, path: Path) -> Exported:
        with run.live() as live:
            assert live.model is finished.model
            assert live.tokenizer is finished.tokenizer
            assert live.facts.chat
            return Exported(path, f"{len(live.examples)}: {live.compared_on}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPORTERS, "note", Exporter("note", "one line", ".txt", compared))
        assert repr(finished.export(tmp_path / "out", "note")) == "2: 2 evaluation rows"


def test_prompts_are_the_beginnings_of_examples(finished: Run) -> None:
    with finished.adapter.live(silent) as live:
        examples = list(live.examples) * 2
        found = replace(live, examples=examples).prompts
    assert len(found) == PROMPTS
    for prompt, one in zip(found, examples, strict=True):
        assert prompt == list(one.ids[: len(prompt)])
        assert 0 < len(prompt) <= LONGEST
        assert len(prompt) == LONGEST or one.supervised[len(prompt)]
