"""Pairs of answers and rated ones: what they cannot teach, and what they teach besides."""

from __future__ import annotations

from typing import Any

import pytest

from peft_nb.data import detection, sources
from peft_nb.data.quality import fixes
from peft_nb.data.quality.checks import Checked, check
from peft_nb.data.quality.findings import Finding
from peft_nb.data.quality.fixes import Change
from peft_nb.data.quality.lengths import Options
from peft_nb.data.rendered import RenderedRows
from tests.templates import tokenizer

VERBS = ("find", "print", "cancel", "change", "archive", "export", "share", "recover")
TOPICS = ("invoice", "parcel", "refund", "voucher", "address", "battery", "warranty", "basket")
LONG = "Please open the settings of your account, choose the tab called security, and follow what is written there."


def pairs(count: int = 60) -> list[dict[str, Any]]:
    """Pairs with nothing wrong; every other time the longer answer is chosen."""
    rows = []
    for number, (verb, topic) in enumerate([(verb, topic) for verb in VERBS for topic in TOPICS][:count]):
        good, bad = f"Choose {verb} beside the {topic}.", f"No idea how one would {verb} any {topic} whatsoever."
        if number % 2:
            good, bad = f"Open the {topic}, then {verb} it with the second button.", f"Just {verb} that {topic}."
        rows.append({"prompt": f"how can i {verb} my {topic}", "chosen": good, "rejected": bad})
    return rows


def answers(count: int = 60, good: int = 30) -> list[dict[str, Any]]:
    """Rated answers with nothing wrong, the first `good` of them desirable."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": number < good}
        for number, row in enumerate(pairs(count))
    ]


def checked(rows: list[dict[str, Any]], held: list[dict[str, Any]] | None = None, **options: Any) -> Checked:
    train, layout = sources.read(rows).train, detection.detect(rows, "rated" if "label" in rows[0] else "auto")
    accepts = (layout.kind,)
    rendered = RenderedRows(train, layout, tokenizer()) if "max_length" in options else None
    return check(train, layout, held, layout, rendered=rendered, options=Options(accepts=accepts, **options))


def found(result: Checked) -> dict[str, tuple[int, ...]]:
    return {finding.kind: finding.rows for finding in result.findings}


def the(result: Checked, kind: str) -> Finding:
    (finding,) = (finding for finding in result.findings if finding.kind == kind)
    return finding


def test_sound_pairs_tell_how_often_the_longer_answer_is_chosen_and_no_more() -> None:
    result = checked(pairs(), max_length=256)
    assert found(result) == {"length_bias": ()}
    assert the(result, "length_bias").title == "the longer answer is chosen in 50% of the pairs (length bias)"
    assert the(result, "length_bias").level == "info"
    assert result.fixed.changes == []


@pytest.mark.parametrize(("longer", "level"), [(0, "info"), (53, "info"), (54, "warning"), (60, "warning")])
def test_a_longer_answer_that_is_nearly_always_chosen_is_a_warning(longer: int, level: str) -> None:
    rows = pairs()
    for number, row in enumerate(rows):
        row["chosen"], row["rejected"] = sorted((row["chosen"], row["rejected"]), key=len, reverse=number < longer)
    finding = the(checked(rows), "length_bias")
    assert (finding.level, finding.title.split(" in ")[1]) == (level, f"{longer / 60:.0%} of the pairs (length bias)")
    assert "length_bias" not in found(checked(rows[:19]))


def test_what_pairs_cannot_teach() -> None:
    rows = pairs()
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[5] |= {"chosen": LONG, "rejected": LONG.replace("Please", "please kindly")}
    rows[7]["rejected"] = "  "
    rows[9]["chosen"] = rows[9]["prompt"].title()
    rows[12] = rows[11] | {"chosen": rows[11]["rejected"], "rejected": rows[11]["chosen"].upper()}
    rows[15] = dict(rows[14])
    rows[21]["rejected"] = "\u200b"
    result = checked(rows)
    assert found(result) == {
        "empty": (7, 21),
        "identical": (2,),
        "echo": (9,),
        "alike": (5,),
        "contradiction": (12,),
        "duplicate": (15,),
        "length_bias": (),
    }
    titles = {finding.kind: finding.title for finding in result.findings}
    assert titles["identical"] == "1 row whose chosen and rejected answers are identical"
    assert titles["alike"] == "1 row whose chosen and rejected answers are near-duplicates"
    assert titles["contradiction"] == "1 row with the same pair both ways (conflicting answers)"
    assert result.fixed.changes == [
        Change(2, "dropped: chosen and rejected are identical"),
        Change(7, "dropped: empty"),
        Change(9, "dropped: the chosen answer repeats the prompt"),
        Change(15, "dropped: duplicate of row 14"),
        Change(21, "dropped: empty"),
    ]
    left = fixes.rebuilt(rows, sources.read(rows).train, result.fixed)
    assert set(found(checked(left))) == {"alike", "contradiction", "length_bias"}


def test_answers_that_differ_in_a_number_or_a_name_are_not_alike() -> None:
    rows = pairs()
    rows[3] |= {"chosen": f"{LONG} It costs 12 euros.", "rejected": f"{LONG} It costs 13 euros."}
    assert found(checked(rows)) == {"length_bias": ()}


def test_a_prompt_with_several_pairs_has_no_conflicting_answers() -> None:
    rows = pairs()
    prompt = " ".join([LONG] * 4)
    said = ["Yes.", "No, never.", "Ask me tomorrow.", "Whatever you like."]
    rows[:6] = [
        {"prompt": prompt, "chosen": one, "rejected": other}
        for place, one in enumerate(said)
        for other in said[place + 1 :]
    ]
    assert found(checked(rows)) == {"length_bias": ()}
    rows[8] = {**rows[0], "rejected": "no,  NEVER."}
    assert found(checked(rows)) == {"duplicate": (8,), "length_bias": ()}


def test_ties_of_ranked_answers_are_told() -> None:
    said, given = ["One.", "Perhaps two.", "Not more than three."], [(3, 2, 1), (3, 3, 1), (1, 1, 1), (3, 2, 2)]
    rows = [
        {"prompt": f"{row['prompt']}?", "responses": said, "scores": list(scores)}
        for row, scores in zip(pairs(), given, strict=False)
    ]

    def ranked(**options: Any) -> Checked:
        layout = detection.detect(rows, **options)
        return check(sources.read(rows).train, layout, options=Options(accepts=("preference",), usual_rows=0))

    result = ranked()
    assert found(result) == {"tied": (2,), "ties": (1, 3)}
    assert (the(result, "tied").level, the(result, "ties").level) == ("error", "info")
    assert the(result, "tied").title == "1 row whose answers all have the same score (ties)"
    assert the(result, "ties").title == "2 rows with several best or worst answers (ties), of which the first is used"
    assert the(result, "ties").examples[0].startswith("row 1: scores 3, 3, 1: how can i find my parcel?")
    assert result.fixed.changes == [Change(2, "dropped: all answers have the same score")]
    assert found(ranked(format="ranked_all")) == {"tied": (2,)}


def test_near_duplicate_pairs_are_so_on_both_sides() -> None:
    rows = pairs()
    rows[4] = {"prompt": "how do i log in", "chosen": LONG, "rejected": f"I am afraid that {LONG.lower()}"}
    rows[6] = {**rows[4], "chosen": LONG.replace("Please", "please kindly")}
    rows[8] = {**rows[4], "chosen": f"Sorry, {LONG} But look at the first page of the manual, or ask somebody else."}
    result = checked(rows)
    assert found(result) == {"near_duplicate": (6,), "alike": (4,), "length_bias": ()}


def test_a_prompt_of_the_evaluation_set_leaks_whatever_its_answers() -> None:
    rows, held = pairs(), pairs(64)[60:]
    held[1] = {"prompt": rows[9]["prompt"].upper(), "chosen": "Not at all.", "rejected": "Ask somebody."}
    held[2] = {"prompt": "how can i find it", "chosen": " ", "rejected": "Ask."}
    result = checked(rows, held)
    assert found(result) == {"evaluation": (2,), "leak": (9,), "length_bias": ()}
    assert result.fixed.changes == [Change(9, "dropped: the prompt of evaluation row 1")]


def test_all_three_texts_are_looked_at() -> None:
    rows = pairs()
    rows[3]["rejected"] += " Ask anna.berg@tidewater.shop about it."
    rows[6]["rejected"] = "The cafÃ© opens at nine, naÃ¯ve as it sounds"
    rows[8]["prompt"] += ", my password is Tr0ub4dor&3x"
    result = checked(rows)
    assert found(result) == {"secret": (8,), "personal": (3,), "encoding": (6,), "length_bias": ()}
    patches = result.fix(["personal", "encoding"]).patches
    assert patches[3]["rejected"].endswith("Ask <EMAIL> about it.")
    assert patches[6]["rejected"] == "The café opens at nine, naïve as it sounds"


def test_truncation_that_leaves_no_difference() -> None:
    rows = pairs()
    rows[1] |= {"chosen": "word " * 100 + "yes", "rejected": "word " * 100 + "no, or rather perhaps"}
    rows[2]["prompt"] = "word " * 100
    rows[3]["rejected"] = "word " * 100
    result = checked(rows, max_length=150)
    assert found(result) == {
        "long_prompt": (2,), "cut_alike": (1,), "long": (3,), "length_bias": (),
    }  # fmt: skip
    assert the(result, "cut_alike").title.startswith("1 row whose answers differ only after max_length 150: dropped")
    assert [change.what for change in result.fixed.changes] == [
        "dropped: answers differ only after max_length",
        "dropped: prompt over max_length",
    ]
    longest = max(len(tokenizer()(rows[3][side])["input_ids"]) for side in ("chosen", "rejected"))
    assert result.lengths[3] > longest
    assert found(checked(rows, max_length=150, too_long="split")) == found(result)
    assert found(checked(rows, max_length=150, too_long="drop"))["long"] == (1, 2, 3)


def test_sound_rated_answers_have_no_findings() -> None:
    result = checked(answers())
    assert (result.findings, result.labels) == ([], {"desirable": 30, "undesirable": 30})


@pytest.mark.parametrize(("shortest", "level"), [(0, "info"), (30, "warning"), (15, None)])
def test_rated_answers_that_differ_in_length_alone_are_told(shortest: int, level: str | None) -> None:
    rows = sorted(answers(), key=lambda row: len(row["completion"]))
    for number, row in enumerate(rows):
        row["label"] = shortest <= number < shortest + 30
    told = [one.level for one in checked(rows).findings if one.kind == "length_bias"]
    assert told == ([level] if level else [])


@pytest.mark.parametrize(
    ("good", "weights", "level", "advice"),
    [
        (34, {}, None, ""),
        (29, {}, "info", "set desirable_weight: 1.2; the weighted counts should lie between 1:1 and 4:3"),
        (40, {}, "info", "set undesirable_weight: 1.7; the weighted counts should lie between 1:1 and 4:3"),
        (40, {"undesirable_weight": 1.7}, None, ""),
        (56, {}, "warning", "set undesirable_weight: 12; the weighted counts should lie between 1:1 and 4:3"),
        (56, {"undesirable_weight": 12}, None, ""),
        (
            30,
            {"desirable_weight": 0},
            "info",
            "set desirable_weight: 1.2; the weighted counts should lie between 1:1 and 4:3",
        ),
        (60, {}, "warning", "add answers of the other rating"),
        (0, {}, "warning", "add answers of the other rating"),
    ],
)
def test_ratings_of_mostly_one_kind(good: int, weights: dict[str, float], level: str | None, advice: str) -> None:
    result = checked(answers(good=good), **weights)
    assert [(one.kind, one.level, one.advice) for one in result.findings] == (
        [("imbalance", level, advice)] if level else []
    )


def test_what_rated_answers_cannot_teach() -> None:
    rows = answers()
    rows[40] = rows[2] | {"label": False, "completion": rows[2]["completion"].upper()}
    rows[41] = {**rows[2], "completion": "Another answer that is not as good."}
    rows[5] = dict(rows[4])
    rows[7]["completion"] = rows[7]["prompt"]
    rows[50]["completion"] = rows[50]["prompt"]
    held = [{"prompt": rows[9]["prompt"], "completion": "Just look.", "label": True}]
    result = checked(rows, held)
    assert found(result) == {"leak": (9,), "echo": (7,), "contradiction": (40,), "duplicate": (5,)}
    assert the(result, "contradiction").title == "1 row with the same answer rated both ways (conflicting answers)"
    assert the(result, "echo").title == "1 row whose desirable answer repeats the prompt"


def test_near_duplicate_rated_answers_are_so_in_the_answer() -> None:
    prompt = " ".join([LONG] * 4)
    rows = answers()
    rows[3] |= {"prompt": prompt, "completion": "Yes, that is right."}
    rows[4] |= {"prompt": prompt, "completion": "Ask me tomorrow."}
    assert found(checked(rows)) == {}


def test_the_projects_own_pairs_differ_in_length_alone() -> None:
    data = sources.read("brief-answers")
    layout = detection.detect(data.train)
    result = check(data.train, layout, data.eval, layout, options=Options(accepts=("preference",)))
    assert [(one.kind, one.level) for one in result.findings] == [("length_bias", "info")]
    assert result.findings[0].title.startswith("the longer answer is chosen in 0% ")
    data = sources.read("brief-answers-rated")
    layout = detection.detect(data.train)
    (length,) = check(data.train, layout, options=Options(accepts=("rated",))).findings
    assert (layout.kind, length.kind, length.level) == ("rated", "length_bias", "info")
    assert length.title.startswith("a desirable answer is longer than an undesirable one in 0% ")
