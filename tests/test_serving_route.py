"""Nearest rows that vote, over an encoder that knows its words by where they stand: no weights are needed for that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_nb.data.kept import kept
from peft_nb.data.rendering import Renderer
from peft_nb.documents.embedding import Embedder
from peft_nb.errors import RunError, StoreError
from peft_nb.runs.run import Run
from peft_nb.serving.route import BASE, NearestRows, Route, base_prompts, prompts_of, ruled, some, text_of

FRUIT, TOOLS = (
    ["apple pear", "pear plum", "apple plum", "plum fig"],
    ["saw drill", "drill nail", "saw nail", "nail axe"],
)


class Words(Embedder):
    """Embeds a text as the words that are in it."""

    places: dict[str, int]

    def __init__(self) -> None:
        super().__init__("words")
        self.places, self.embedded = {}, 0

    def load(self, *_: Any) -> Any:
        return self

    identity = "words"

    def embed(self, texts: Sequence[str], *_: Any) -> np.ndarray:
        self.embedded += len(texts)
        found = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                found[row, self.places.setdefault(word, len(self.places))] += 1
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def near_rows(words: Words) -> NearestRows:
    return NearestRows({"fruit": FRUIT, "tools": TOOLS}, words)


def test_the_nearest_rows_vote(near_rows: NearestRows) -> None:
    apple, drill = near_rows.routes(["apple fig", "a drill"])
    assert (apple.name, drill.name) == ("fruit", "tools")
    assert apple.why == "nearest rows"
    assert apple.confidence == pytest.approx(apple.votes["fruit"])
    assert sum(apple.votes.values()) == pytest.approx(1)
    assert list(apple.rows) == ["adapter", "prompt", "similarity"]
    assert list(apple.rows.similarity) == sorted(apple.rows.similarity, reverse=True)
    assert "apple" in apple.rows.prompt[0] or "fig" in apple.rows.prompt[0]
    assert repr(apple).startswith("<Route to fruit, ")


def test_the_base_is_a_choice_and_takes_what_is_far_from_all_rows(words: Words) -> None:
    choice = NearestRows({"fruit": FRUIT, "tools": TOOLS, BASE: ["what is the capital"]}, words)
    near, far, general = choice.routes(["apple pear", "the apple of my eye was gone for good", "the capital of France"])
    assert (near.name, far.name, general.name) == ("fruit", BASE, BASE)
    assert far.why == general.why == "no row near enough"
    assert far.confidence == 0.99
    assert far.rows.adapter[0] in ("fruit", BASE)
    # Each row of fruit shares a word with another one, whose cosine is 1/2.
    assert choice.least["fruit"] == pytest.approx(0.5)


def test_an_adapter_for_narrow_prompts_wants_them_nearer(words: Words) -> None:
    narrow = [f"spell out the number {one}" for one in ("one", "two", "three", "four")]
    wide = ["spell cat", "name a capital", "sum it up", "turn it round", "a word please", "say the number"]
    choice = NearestRows({"narrow": narrow, "wide": wide, BASE: ["hello there"]}, words)
    assert choice.least["narrow"] > 0.7 > 0.3 > choice.least["wide"]
    told, between = choice.routes([narrow[0], "the number of a cat"])
    assert told.name == "narrow"
    assert between.name == "wide"
    assert "narrow" not in between.votes


def test_without_the_base_somebody_always_answers(near_rows: NearestRows) -> None:
    assert near_rows.routes(["nothing of that"])[0].name in ("fruit", "tools")


def test_rows_are_embedded_once_and_kept_by_what_they_are(words: Words, tmp_path: Path) -> None:
    NearestRows({"fruit": FRUIT, "tools": TOOLS}, words, tmp_path)
    assert words.embedded == 8
    again = NearestRows({"tools": TOOLS, "fruit": FRUIT[:3]}, words, tmp_path)
    assert words.embedded == 11
    assert again.routes(["drill"])[0].name == "tools"


def test_what_is_written_down_routes_alike(near_rows: NearestRows, words: Words, tmp_path: Path) -> None:
    asked = ["apple fig", "nail"]
    near_rows.save(tmp_path / "router")
    near_rows.save(tmp_path / "router")
    again = NearestRows.load(tmp_path / "router")
    again.embedder = words
    assert again.routes(asked) == near_rows.routes(asked)
    (tmp_path / "router" / "rows.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        NearestRows.load(tmp_path / "router")


@given(st.lists(st.text(max_size=3), max_size=40), st.integers(1, 20))
def test_a_sample_is_different_rows_and_always_the_same(prompts: list[str], most: int) -> None:
    found = some(prompts, most)
    assert found == some(prompts, most)
    assert len(found) == len({*found}) == min(most, len({*prompts}))
    assert {*found} <= {*prompts}


def test_a_policy_vetoes_and_forces(near_rows: NearestRows) -> None:
    (route,) = near_rows.routes(["apple"])
    known = ["fruit", "tools", BASE]
    assert ruled(route, None, None, known) is route
    assert ruled(route, lambda prompt, user: None, None, known) is route
    forced = ruled(route, lambda prompt, user: "tools" if user == "ann" else None, "ann", known)
    assert (forced.name, forced.confidence, forced.why) == ("tools", 1.0, "policy")
    assert forced.rows.equals(route.rows)
    assert ruled(route, lambda prompt, user: BASE, None, known).name == BASE


def test_what_is_wrong_with_a_policy_is_one_line(near_rows: NearestRows) -> None:
    (route,) = near_rows.routes(["apple"])

    def fails(prompt: str, user: str | None) -> str:
        raise KeyError(user)

    with pytest.raises(RunError, match=r"the policy failed: KeyError: 'ann'; it is given \(prompt, user\)"):
        ruled(route, fails, "ann", ["fruit"])
    with pytest.raises(RunError, match="the policy named 'fruits'; did you mean 'fruit'"):
        ruled(route, lambda prompt, user: "fruits", None, ["fruit", "tools"])


def test_the_prompts_of_a_run_are_read_off_its_examples(finished: Run, near_rows: NearestRows) -> None:
    sides = kept(finished.folder)
    assert sides
    renderer = Renderer(finished.tokenizer)
    found = prompts_of(sides.train, renderer.tokenizer, None, chat=True)
    given = [row["question"] for row in finished.inputs.data]  # type: ignore[attr-defined]
    assert len(found) == 21
    assert {*found} <= {*given}
    assert len(prompts_of(sides.train, renderer.tokenizer, None, chat=True, most=5)) == 5
    plain = prompts_of(sides.train, renderer.tokenizer, None, chat=False)
    assert all(one.endswith("assistant") for one in plain)


def test_of_a_conversation_the_last_turn_counts() -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert text_of(said) == "c"
    assert text_of("a") == "a"
    assert text_of([{"role": "user", "content": [{"type": "text", "text": "in"}, {"type": "text", "text": "parts"}]}])
    assert text_of([{"role": "system", "content": "a"}]) == text_of([{"role": "user", "content": None}]) == ""


def test_the_base_has_general_rows() -> None:
    assert len(base_prompts()) > 50
    assert isinstance(Route("a", BASE, 1.0, {}, ()).rows.empty, bool | np.bool_)
