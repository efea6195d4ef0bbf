from __future__ import annotations

import random
import subprocess
import sys
import time
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_nb.data.quality import duplicates
from peft_nb.data.quality.duplicates import groups, shared
from peft_nb.data.support_desk import load

DESK = [f"{row['question']}\n{row['answer']}" for split in load().values() for row in split]
LONG = "Could you tell me, before we leave the harbour tomorrow morning, how much fuel the small boat still has?"


@pytest.mark.parametrize(
    "other",
    [
        LONG.upper(),
        f"  {LONG.replace(' ', chr(0xA0))}\n",
        LONG.replace("fuel", "ｆｕｅｌ"),
        LONG.replace(",", ""),
        f"Please, {LONG[0].lower()}{LONG[1:]}",
        f"{LONG} Thanks!",
        LONG.replace("leave", "leav"),
    ],
)
def test_the_same_or_nearly(other: str) -> None:
    assert groups([LONG, "Something else.", other]) == [0, 1, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What does shipping to Norway cost?", "What does shipping to Sweden cost?"),
        ("what does shipping to norway cost?", "what does shipping to sweden cost?"),
        (f"{LONG} Ask Anna about it.", f"{LONG} Ask Bob about it."),
        (f"{LONG} It was 17 litres.", f"{LONG} It was 18 litres."),
        (f"{LONG} Compute 3 + 4.", f"{LONG} Compute 3 * 4."),
        (f"{LONG} We sail from Oslo to Bergen.", f"{LONG} We sail from Bergen to Oslo."),
        ("Good 👍", "Good 👎"),
        ("东京是日本的首都吗？", "京都是日本的古都吗？"),
        ("...", "???"),
        ("", "a"),
    ],
)
def test_other_facts_are_other_rows(one: str, other: str) -> None:
    assert groups([one, other]) == [0, 1]


def test_scripts_without_spaces() -> None:
    one = "请问从这里到最近的港口需要走多长时间才能到达呢"
    assert groups([one, one.replace("请问", "")]) == [0, 0]


def test_all_rows_of_a_group_carry_the_number_of_its_first() -> None:
    assert groups(["b", LONG, "b", f"{LONG} Thanks!", "B ", LONG]) == [0, 1, 0, 1, 0, 1]


def test_threshold() -> None:
    other = LONG.replace("leave the harbour", "start from there")
    assert groups([LONG, other]) == [0, 1]
    assert groups([LONG, other], threshold=0.4) == [0, 0]


def test_support_desk_holds_no_duplicates() -> None:
    assert groups(DESK) == list(range(len(DESK)))


def test_no_pair_at_the_threshold_is_missed() -> None:
    rng = random.Random(1)
    words = [f"w{'abcdefghij'[rng.randrange(10)]}{'klmnopqrst'[rng.randrange(10)]}" for _ in range(30)]
    texts = []
    for _ in range(150):
        changed = list(words)
        for place in rng.sample(range(30), rng.randrange(4)):
            changed[place] = rng.choice("abcdefgh") * 3
        texts.append(" ".join(changed))
    found = groups(texts)
    sets = [set(duplicates._shingles(text).tolist()) for text in texts]
    close = [(i, j) for i, j in combinations(range(150), 2) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.8]
    assert len(close) > 100
    assert [pair for pair in close if found[pair[0]] != found[pair[1]]] == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(), max_size=12))
def test_any_text(texts: list[str]) -> None:
    found = groups(texts)
    assert all(first <= row and found[first] == first for row, first in enumerate(found))
    assert groups(texts + texts) == found + found


def test_the_same_on_every_run() -> None:
    script = (
        "from peft_nb.data.quality.duplicates import groups; import sys; print(groups(sys.stdin.read().split('|')))"
    )
    texts = [*DESK[:20], LONG, f"{LONG} Thanks!"]
    other = subprocess.run(  # with another seed of hashes than this process, which has drawn one
        [sys.executable, "-c", script],
        input="|".join(texts), text=True, capture_output=True, check=True, env={"PYTHONHASHSEED": "1"},
    )  # fmt: skip
    assert other.stdout == f"{groups(texts)}\n"


def test_above_the_limit_only_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "NEAR_ROWS", 2)
    assert groups([LONG, f"{LONG} Thanks!", LONG.upper()]) == [0, 1, 0]


def test_thousands_of_rows_of_one_pattern_stay_cheap() -> None:
    rng = random.Random(2)
    texts = [f"please tell me what it costs to ship {rng.getrandbits(40):x} boats" for _ in range(600)]
    texts += [f"{LONG} {' '.join(rng.choices(['yes', 'no', 'well', 'so'], k=2))}" for _ in range(600)]
    began = time.perf_counter()
    found = groups(texts)
    assert time.perf_counter() - began < 15
    assert len(set(found[:600])) == 600
    assert len(set(found[600:])) == 1


def test_progress() -> None:
    seen: list[float] = []
    groups([LONG, "b"], progress=lambda share, _: seen.append(share))
    assert seen[0] == 0.0
    assert seen[-1] == 1.0


def test_shared() -> None:
    assert shared(["a b c", LONG, LONG], ["new", f"{LONG} Thanks!", "A b  C"]) == [(1, 1), (0, 2)]
    assert shared([], ["a", "a"]) == []


def test_two_texts_are_compared_as_groups_are_made() -> None:
    text = "please open the settings of your account and choose the tab called security"
    assert duplicates.alike(text, f"{text.upper()}!")
    assert duplicates.alike(f"{text} then", text)
    assert not duplicates.alike(f"{text} 4", f"{text} 5")
    assert not duplicates.alike(text, f"{text} {text} {text}")
    assert not duplicates.alike("!", "?")
    assert duplicates.alike("?", " ?")
