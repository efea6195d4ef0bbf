from __future__ import annotations

import pytest

from peft_nb import RunSpec
from peft_nb.errors import SpecError
from peft_nb.spec.criteria import Verdict, criterion, verdict


@pytest.mark.parametrize(
    ("comparison", "value", "met"),
    [
        ("< 1.2", 1.19, True),
        ("<1.2", 1.2, False),
        ("<= 1.2", 1.2, True),
        ("> -1", -1, False),
        (">=0.8", 0.8, True),
        ("< 1", float("nan"), False),
        ("> 1", float("nan"), False),
        ("< 1e3", float("inf"), False),
    ],
)
def test_a_value_is_compared_with_the_bound(comparison: str, value: float, met: bool) -> None:
    assert criterion("eval_loss", comparison).met(value) is met


@pytest.mark.parametrize(
    ("metric", "comparison", "told"),
    [
        ("evalloss", "< 1", "no metric is called evalloss; did you mean 'eval_loss'?"),
        ("qqqq", "< 1", "no metric is called qqqq; known are accuracy, adapter_mb, "),
        (
            "score",
            "0.8",
            'score takes a comparison, not \'0.8\'; write one such as "< 1.2" or ">= 0.8"',
        ),
        ("score", "=> 0.8", "score takes a comparison, not '=> 0.8'"),
        ("score", "> high", "score takes a comparison, not '> high'"),
        ("score", "> nan", "score takes a comparison, not '> nan'"),
        ("score", "> 1 or 2", "score takes a comparison, not '> 1 or 2'"),
    ],
)
def test_a_bad_criterion_is_refused_in_one_line_that_names_the_field(metric: str, comparison: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec(data="x", accept={metric: comparison})
    (line,) = caught.value.problems
    assert line.startswith(f"accept: {told}")


def test_flags_yaml_and_python_say_the_same() -> None:
    spec = RunSpec(data="x", accept={"forgetting": "<0.05", "score": ">=  0.80"})
    assert spec.accept == {"forgetting": "< 0.05", "score": ">= 0.8"}
    assert spec == RunSpec.from_argv(["--data=x", "--accept=forgetting=< 0.05,score=>= 0.8"])
    assert spec == RunSpec.from_yaml('data: x\naccept:\n  forgetting: < 0.05\n  score: ">= 0.8"\n')
    assert spec == RunSpec.from_magic("%%peft lora --data x --accept 'forgetting=< 0.05,score=>= 0.8'\n")
    for written, read in (
        (spec.to_yaml(), RunSpec.from_yaml),
        (spec.to_magic(), RunSpec.from_magic),
        (spec.to_argv(), RunSpec.from_argv),
    ):
        assert read(written) == spec  # type: ignore[operator]


def test_a_comparison_that_yaml_takes_for_a_block_is_refused_with_the_fix() -> None:
    with pytest.raises(SpecError, match=r"^line 3: not YAML, .* quote text that begins with '>'"):
        RunSpec.from_yaml("data: x\naccept:\n  score: >= 0.8\n")


def test_a_run_passes_when_every_criterion_is_met() -> None:
    accept = {"eval_loss": "< 1.2", "forgetting": "< 0.05"}
    found = verdict(accept, {"eval_loss": 0.5, "forgetting": 0.01}, {})
    assert found.passed
    assert str(found) == "passed: eval_loss 0.5, wanted < 1.2; forgetting 0.01, wanted < 0.05"


def test_a_run_fails_by_what_it_did_not_reach_and_by_what_nobody_measured() -> None:
    accept = {"eval_loss": "< 1.2", "forgetting": "< 0.05", "score": ">= 0.8", "micro_f1": "> 0"}
    found = verdict(accept, {"eval_loss": 0.5, "forgetting": 0.12, "score": None}, {"score": "no row is held out"})
    assert not found.passed
    assert [line.passed for line in found.lines] == [True, False, False, False]
    assert str(found) == (
        "failed: forgetting 0.12, wanted < 0.05; score was not measured (no row is held out), wanted >= 0.8; "
        "micro_f1 was not measured (this run has none), wanted > 0"
    )


def test_who_demands_nothing_gets_it() -> None:
    assert verdict({}, {}, {}) == Verdict(True, ())
