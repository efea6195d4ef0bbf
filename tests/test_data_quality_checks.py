from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from peft_nb.data import detection, sources
from peft_nb.data.quality import checks, fixes, pii
from peft_nb.data.quality.checks import Checked, check
from peft_nb.data.quality.findings import FIXABLE
from peft_nb.data.quality.fixes import Change
from peft_nb.data.quality.lengths import Options
from peft_nb.data.rendered import RenderedRows
from tests.templates import CHATML, INST, tokenizer
from tests.test_data_rendering import TOOLS

TOPICS = (
    "invoice", "password", "parcel", "refund", "voucher", "coupon", "address", "battery", "charger", "warranty",
    "newsletter", "basket",
)  # fmt: skip
VERBS = ("find", "print", "cancel", "change", "archive", "export", "share", "recover")
KEY = "sk-proj-9fKqT2vLx7RbZ3mWc8Yd4HsJ6nPg5Qa1Ue0Bt"


def sound(count: int = 60) -> list[dict[str, Any]]:
    """Rows with nothing wrong, no two of them alike."""
    said = [(verb, topic) for verb in VERBS for topic in TOPICS][:count]
    return [
        {"prompt": f"how can i {verb} my {topic}", "completion": f"{topic}: choose {verb} under {verb}-{topic}"}
        for verb, topic in said
    ]


def checked(rows: Any, held: Any = None, tokenizer: Any = None, **options: Any) -> Checked:
    train = sources.read(rows).train
    layout = detection.detect(train)
    held = sources.read(held).train if held is not None else None
    rendered = tokenizer and RenderedRows(train, layout, tokenizer)
    return check(train, layout, held, rendered=rendered, options=Options(**options))


def found(result: Checked) -> dict[str, tuple[int, ...]]:
    return {finding.kind: finding.rows for finding in result.findings}


def again(rows: Any, result: Checked, held: Any = None, **options: Any) -> Checked:
    """Fix and check once more."""
    return checked(fixes.rebuilt(rows, sources.read(rows).train, result.fixed), held, **options)


def test_sound_rows_have_no_findings() -> None:
    result = checked(sound())
    assert result.findings == []
    assert result.notes == []
    assert result.fixed.changes == []
    assert result.fixed.kept == list(range(60))


def test_a_messy_frame_gives_exactly_these_findings_and_fixing_leaves_none_of_them() -> None:
    rows = sound()
    rows[3] = {"prompt": "  ", "completion": "x"}
    rows[5]["completion"] = None
    rows[8] = dict(rows[2])
    rows[9] = {"prompt": rows[4]["prompt"].upper(), "completion": rows[4]["completion"] + "  "}
    rows[11]["completion"] = "The cafÃ© opens at nine, naÃ¯ve as it sounds"
    rows[12]["completion"] = "ring\x07 the bell\u200b twice"
    rows[13]["completion"] = "ask anna.berg@tidewater.shop about this"
    rows[14]["completion"] = f"api_key = {KEY}"
    rows[15]["completion"] = "???"
    rows[16] = {"prompt": rows[17]["prompt"], "completion": "No."}
    rows[18]["completion"] = "\u200b\u2060"
    rows[20]["completion"] = "lost l\ufffdtters here"
    frame = pandas.DataFrame(rows)
    before = frame.copy(deep=True)
    result = checked(frame)
    assert found(result) == {
        "empty": (3, 5, 18),
        "secret": (14,),
        "duplicate": (8, 9),
        "encoding": (11,),
        "replacement": (20,),
        "control": (12,),
        "personal": (13,),
        "near_empty": (15,),
        "contradiction": (17,),
    }
    shown = [example for finding in result.findings for example in finding.examples]
    assert not [example for example in shown if "anna.berg" in example or KEY in example or len(example) > 100]
    assert result.fixed.changes == [
        Change(3, "dropped: empty"),
        Change(5, "dropped: empty"),
        Change(8, "dropped: duplicate of row 2"),
        Change(9, "dropped: duplicate of row 4"),
        Change(11, "repaired encoding"),
        Change(12, "removed control characters"),
        Change(15, "dropped: next to no text"),
        Change(18, "dropped: empty"),
    ]
    redacted = result.fix(FIXABLE)
    assert [one for one in redacted.changes if one not in result.fixed.changes] == [
        Change(13, "redacted EMAIL"),
        Change(14, "redacted OPENAI_KEY"),
    ]
    fixed = fixes.rebuilt(frame, sources.read(frame).train, redacted)
    assert fixed.loc[11, "completion"] == "The café opens at nine, naïve as it sounds"
    assert fixed.loc[12, "completion"] == "ring the bell twice"
    assert fixed.loc[13, "completion"] == "ask <EMAIL> about this"
    assert KEY not in fixed.loc[14, "completion"]
    assert set(found(checked(fixed))) == {"contradiction", "replacement"}
    pandas.testing.assert_frame_equal(frame, before)


def test_near_duplicates_are_told_from_exact_ones() -> None:
    rows = sound()
    long = "Please open the settings of your account, choose the tab called security, and follow what is written there."
    rows[7]["completion"] = long
    rows[30] = {**rows[7], "completion": long.replace("Please", "please kindly")}
    result = checked(rows)
    assert found(result) == {"near_duplicate": (30,)}
    assert result.fixed.changes == [Change(30, "dropped: near-duplicate of row 7")]


def test_rows_of_the_evaluation_are_left_out_of_training() -> None:
    rows, held = sound(), sound(70)[60:]
    held[4] = {key: text.title() for key, text in rows[9].items()}
    held[6] = {"prompt": "", "completion": "x"}
    result = checked(rows, held)
    assert found(result) == {"evaluation": (6,), "leak": (9,)}
    assert result.fixed.changes == [Change(9, "dropped: like evaluation row 4")]
    assert set(found(again(rows, result, held))) == {"evaluation"}


def test_conversations_in_the_wrong_order_and_without_an_answer() -> None:
    def turns(*roles: str, number: int) -> dict[str, Any]:
        topic = TOPICS[number % len(TOPICS)]
        return {"messages": [{"role": role, "content": f"{role} {VERBS[number % 7]} {topic}"} for role in roles]}

    rows = [turns("user", "assistant", number=number) for number in range(56)]
    rows[10] = turns("assistant", "user", number=10)
    rows[11] = turns("user", number=11)
    rows[12]["messages"][1]["content"] = ""
    rows[13]["messages"][0] = "hello"
    rows[14] = {"messages": None}
    rows[15]["messages"][1]["role"] = "asistant"
    rows[16] = turns("user", "user", "assistant", number=16)
    rows[17] = turns("user", "assistant", "tool", "tool", "assistant", number=17)
    rows[18] = turns("user", "assistant", "assistant", number=18)
    result = checked(rows)
    stops = {"malformed": (13, 15), "empty": (12, 14), "roles": (10,), "nothing": (11,)}
    assert found(result) == {**stops, "turns": (16, 18)}
    assert [finding.level for finding in result.findings] == ["error"] * 4 + ["warning"]
    assert set(found(again(rows, result))) == {"turns"}


def test_labels() -> None:
    rows = [{"text": f"{row['prompt']}, please", "label": "pay"} for row in sound(80)]
    for number in range(8):
        rows[number]["label"] = "ship"
    rows[20]["label"], rows[21]["label"] = "Pay", "rare"
    rows[22] = {**rows[30], "label": "ship"}
    held = [{"text": "what is this about then", "label": "other"}, {"text": "where is all of it now", "label": "ship"}]
    result = checked(rows, held)
    assert found(result) == {
        "unknown_label": (0,),
        "label_spelling": (20,),
        "contradiction": (30,),
        "imbalance": (),
        "few": (),
    }
    titles = [finding.title for finding in result.findings]
    assert "imbalanced classes: 'pay' has 70 rows, 'rare' 1" in titles
    assert result.labels == {"pay": 69, "ship": 9, "Pay": 1, "rare": 1}
    assert result.fixed.changes == [Change(20, "label 'Pay' → 'pay'")]


def test_a_single_label_stops_training() -> None:
    assert found(checked([{"text": row["prompt"], "label": 1} for row in sound()])) == {"one_label": ()}


def test_braces_in_labels_are_only_text() -> None:
    rows = [
        {"text": row["prompt"], "label": "{rows}{x" if number % 2 else "{0}"} for number, row in enumerate(sound(4))
    ]
    assert found(checked(rows)) == {"few": ()}


@pytest.mark.parametrize(
    ("accepts", "needed"),
    [("labelled", "labels"), ("preference", "preference pairs"), ("rated", "rated answers"), ("other", "other rows")],
)
def test_a_task_needs_its_own_kind_of_rows(accepts: str, needed: str) -> None:
    result = checked(sound(), task="some", accepts=(accepts,))
    assert found(result) == {"task": ()}
    assert result.findings[0].title == f"task: some needs {needed}, and the rows are prompt_completion"


def test_pairs_are_nothing_for_a_task_that_learns_answers() -> None:
    rows = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "No idea."} for row in sound()]
    result = checked(rows, task="generation", accepts=("chat", "text"))
    (task, *_) = result.findings
    assert (task.kind, task.level) == ("task", "error")
    assert task.title == "task: generation needs conversations or texts, and the rows are preference"
    assert task.advice.startswith(
        "name no task, or to train on the chosen answers alone, set format='prompt_completion'"
    )


def test_lengths_by_the_tokenizer_and_estimated() -> None:
    rows = sound()
    rows[5]["completion"] = "word " * 200
    rows[6]["prompt"] = "word " * 300
    estimated = checked(rows, max_length=100)
    assert estimated.estimated
    assert found(estimated) == {"long": (5, 6)}
    measured = checked(rows, tokenizer=tokenizer(), max_length=100)
    assert not measured.estimated
    assert found(measured) == {"long_prompt": (6,), "long": (5,)}
    assert measured.findings[0].title == "1 row whose prompt alone fills max_length 100: dropped in training"
    assert measured.findings[0].level == "warning"
    assert len(measured.lengths) == 60
    assert measured.fixed.changes == [Change(6, "dropped: prompt over max_length")]


def test_a_prompt_that_fills_max_length_in_every_row_stops_training() -> None:
    result = checked(sound(), tokenizer=tokenizer(), max_length=8)
    (finding,) = result.findings
    assert (finding.kind, finding.level, finding.fix, finding.count) == ("long_prompt", "error", "", 60)
    assert result.fixed.kept == list(range(60))


def tools(count: int = 60) -> list[dict[str, Any]]:
    """Conversations of which five in six call a tool."""
    rows = []
    for number, row in enumerate(sound(count)):
        turns = [{"role": "user", "content": row["prompt"]}]
        if number % 6:
            function = {"name": "look_up", "arguments": {"number": number}}
            turns += [
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
                {"role": "tool", "content": f"result {number}"},
            ]
        rows.append({"messages": [*turns, {"role": "assistant", "content": row["completion"]}]})
    return rows


@pytest.mark.parametrize("template", [CHATML, INST])  # one leaves calls out, one refuses the conversation
def test_a_template_without_tool_calls_is_a_wrong_choice_of_model_and_no_row_is_dropped(
    template: str,
) -> None:
    result = checked(tools(), tokenizer=tokenizer(template))
    first = result.findings[0]
    assert (first.kind, first.level, first.count, first.fix) == ("template", "error", 50, "")
    assert first.title == "this model's chat template cannot render tool calls: 50 rows"
    assert first.advice.startswith("these can: Qwen2.5 Instruct")
    assert set(found(result)) == {"template"}
    assert (result.fix(FIXABLE).kept, result.fix(FIXABLE).changes) == (list(range(60)), [])


def test_a_template_that_refuses_system_prompts_is_a_wrong_choice_of_model() -> None:
    def turns(row: dict[str, Any], *first: dict[str, str]) -> dict[str, Any]:
        said = {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}
        return {"messages": [*first, *said]}

    rows = [turns(row, {"role": "system", "content": "Be brief."}) for row in sound()]
    rows[7:9] = [turns(sound()[7]), {"messages": rows[8]["messages"][1:] + rows[9]["messages"][1:]}]
    result = checked(rows, tokenizer=tokenizer(INST, bos_token="<s>", eos_token="</s>"))
    (finding,) = result.findings
    assert (finding.kind, finding.count, finding.fix) == ("template", 58, "")
    assert finding.title == "this model's chat template cannot render system prompts: 58 rows"
    assert finding.advice.startswith("these can: smollm2-135m, ")
    assert result.fixed.kept == list(range(60))


def test_a_template_with_tool_calls_has_nothing_against_them() -> None:
    assert found(checked(tools(), tokenizer=tokenizer(TOOLS))) == {}


ORDINARY = [
    ("What is the angle between the vectors?", "It is arccos(-0.357142857), or 1.936 rad; cos(0.8415550132) = 0.666."),
    ("What is 1/3 + 2/3 in decimals?", "1/3 = 0.33333 2/3 = 0.66667, so -1.5 -2.5 -3.5 -4.5 -5.5 is another list."),
    ("Generate a password of 12 letters.", "Password: xK9#mP2$vL5n"),
    ("Suggest what to choose", "Here is a strong password: xK9#mP2$vL5nQ8"),
    ("Write a mail.", "From: jane.doe@example.com\nTo: john@mail.example.org"),
    ("How do I take every other row?", "```python\nrows[::2]\ncall = '+49 30 901820'\n```\nor `212-736-5000`"),
    ("What addresses are private?", "192.168.1.10, 10.0.0.1 and 172.16.0.4; 203.0.113.7 and 2001:db8::1 are examples."),
    ("Whose number is it?", "Of films: 415-555-0132; to test payments: 4242 4242 4242 4242."),
    ("How do I log in to AWS?", "aws_access_key_id = AKIAIOSFODNN7EXAMPLE"),
]


def test_redaction_leaves_ordinary_rows_as_they_are() -> None:
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in ORDINARY]
    for table in (
        rows,
        [
            {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
            for ask, answer in ORDINARY
        ],
    ):
        result = checked(table)
        assert found(result) == {"few": ()}
        done = result.fix(["personal", "secret"])
        assert (done.changes, done.patches) == ([], {})


def test_redaction_finds_real_data_among_them() -> None:
    said = "Ask anna.berg@gmail.com, +49 30 901820 or DE02 1203 0000 0000 2020 51; cos(0.8415550132)"
    said += "; password=Tr0ub4dor&3x"
    result = checked([*sound(), {"prompt": "Who is it?", "completion": said}])
    assert found(result) == {"secret": (60,), "personal": (60,)}
    text = result.fix(["personal", "secret"]).patches[60]["completion"]
    assert text == "Ask <EMAIL>, <PHONE> or <IBAN>; cos(0.8415550132); password=<PASSWORD>"


def test_what_is_allowed_is_neither_found_nor_redacted() -> None:
    rows = sound()
    rows[3]["completion"] = "write to help@tidewater.shop or to anna.berg@gmail.com"
    result = checked(rows, allow=("*@TIDEWATER.shop",))
    assert result.fix(["personal"]).patches == {3: {"completion": "write to help@tidewater.shop or to <EMAIL>"}}
    assert found(checked(rows, allow=("*@tidewater.shop", "anna.berg@gmail.com"))) == {}


def test_an_answer_with_an_end_token_cannot_be_trained_on() -> None:
    rows = sound()
    rows[1]["completion"] += "<|im_end|>"
    result = checked(rows, tokenizer=tokenizer())
    assert found(result) == {"malformed": (1,)}
    assert "<|im_end|>" in result.findings[0].examples[0]


def test_answers_that_numpy_printed_are_named() -> None:
    rows = sound()
    rows[7]["completion"], rows[8]["completion"] = "['yes' 'no']", '["yes", "no"]'
    assert found(checked(rows)) == {"printed": (7,)}


def test_few_rows_are_worth_knowing() -> None:
    (finding,) = checked(sound(20)).findings
    assert (finding.kind, finding.level, finding.fix) == ("few", "info", "")
    assert finding.title == "20 rows, where lora usually needs 50 (rule of thumb)"
    (more,) = checked(sound(60), method="prompt", usual_rows=200).findings
    assert more.title == "60 rows, where prompt usually needs 200 (rule of thumb)"


def test_without_the_extra_personal_data_are_not_looked_for_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pii, "available", lambda: False)
    rows = sound()
    rows[3]["completion"] = "write to anna.berg@tidewater.shop for this one"
    result = checked(rows)
    assert found(result) == {}
    assert "pip install 'peft_nb[privacy]'" in result.notes[0]


def test_personal_data_stop_a_run_that_refuses_them() -> None:
    rows = sound()
    rows[3]["completion"] = "write to anna.berg@tidewater.shop for this one"
    (finding,) = checked(rows, personal_data="refuse").findings
    assert (finding.kind, finding.level) == ("personal", "error")


def test_fixing_redacts_rows_that_the_check_did_not_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PERSONAL_ROWS", 10)
    rows = sound()
    rows[40]["completion"] = "write to anna.berg@tidewater.shop for this one"
    result = checked(rows)
    assert found(result) == {}
    assert result.notes == ["personal data were looked for in the first 10 rows; redacting looks at all"]
    assert result.fix(["personal"]).changes == [Change(40, "redacted EMAIL")]


def test_progress_goes_from_nothing_to_all() -> None:
    said: list[tuple[float, str]] = []
    train = sources.read(sound()).train
    check(train, detection.detect(train), progress=lambda share, what: said.append((share, what)))
    assert {what for _, what in said} >= {"checking rows", "checking texts"}
    assert all(0 <= share <= 1 for share, _ in said)


def test_the_support_desk_is_clean() -> None:
    desk = sources.read("support-desk")
    layout = detection.detect(desk.train)
    assert check(desk.train, layout, desk.eval).findings == []


def test_it_reads_files_too(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    pandas.DataFrame(sound()).to_csv(file, index=False)
    assert checked(file).findings == []


def test_the_same_rows_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, held, looked = sources.read(sound()).train, sources.read(sound(70)[60:]).train, []
    rows = fixes.overlaid(rows, {3: {"completion": " "}})
    layout, whole = detection.detect(rows), checks.check

    def counted(given: Any, *arguments: Any, **options: Any) -> Checked:
        looked.append(len(given))
        return whole(given, *arguments, **options)

    monkeypatch.setattr(checks, "check", counted)

    def report(*fingerprints: str, most: int = 50, system: str | None = None, **options: Any) -> dict[str, Any]:
        rendered = RenderedRows(rows, layout, tokenizer(), system=system)
        given = Options(**options)
        return checks.cached(tmp_path / "new", fingerprints, rendered, held, layout, options=given, most=most)

    first = report("train", "eval")
    assert first == report("train", "eval")
    assert looked == [50]
    assert [finding["kind"] for finding in first["findings"]] == ["empty"]
    assert first["notes"][-1] == "the first 50 of 60 rows were looked at"
    assert first["rows"] == 50
    expected = whole(rows[:50], layout, held, layout, rendered=RenderedRows(rows, layout, tokenizer())).report()
    assert {**first, "notes": first["notes"][:-1]} == json.loads(json.dumps(expected))
    others = [
        report("train", "other"),
        report("train", "eval", most=60),
        report("train", "eval", system="Be brief."),
        report("train", "eval", max_length=9),
    ]
    assert looked == [50, 50, 60, 50, 50]
    assert others[0] == first
    for file in (tmp_path / "new").iterdir():
        file.write_text("{")  # cut off
    assert report("train", "eval") == first
    assert len(looked) == 6


def test_labels_written_as_0_and_1_are_told_how_to_become_one_column() -> None:
    rows = [{"text": f"mail {number}", "toxic": number % 2, "threat": number // 2 % 2} for number in range(8)]
    found = check(rows, detection.detect(rows), options=Options(task="classification", accepts=("labelled",)))
    (task,) = (finding for finding in found.findings if finding.kind == "task")
    assert task.advice.startswith("columns toxic, threat look like labels written as 0 and 1: make one column of lists")
