from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import peft_nb
from peft_nb import Run, RunSpec, chat
from peft_nb.errors import RunError
from peft_nb.runs.run import begin
from peft_nb.ui.chat import Turn, html
from peft_nb.ui.trial import Trial
from tests.test_runs_compare import HOSTILE, Page

Rows = list[dict[str, str]]


def test_both_sides_answer_with_their_own_history(talkers: list[Run]) -> None:
    talk = chat(*talkers)
    first = talk.ask("Hello", max_new_tokens=5)
    assert first == Turn(
        "Hello",
        "calm",
        talkers[0].generate("Hello", max_new_tokens=5),
        talkers[0].generate("Hello", adapter=False, max_new_tokens=5),
    )
    second = talk.ask("Why?", run="short", max_new_tokens=5, temperature=1.0, seed=7)
    own = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": first.answer}]
    bare = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": first.base}]
    asked = {"role": "user", "content": "Why?"}
    drawn = {"max_new_tokens": 5, "temperature": 1.0, "seed": 7}
    assert second.answer == talkers[1].generate([[*own, asked]], **drawn)[0]
    assert second.base == talkers[1].generate([[*bare, asked]], adapter=False, **drawn)[0]
    assert talk.turns == [first, second]
    assert talk.messages() == [*own, asked, {"role": "assistant", "content": second.answer}]
    assert talk.messages(base=True)[1]["content"] == first.base
    assert f"  calm: {first.answer}" in repr(talk)
    talk.clear()
    assert talk.messages() == []


def test_the_last_answer_is_rated_with_what_was_said_before(talkers: list[Run]) -> None:
    talk, store = chat(*talkers), talkers[0].store
    with pytest.raises(RunError, match="^there is no answer to rate yet; say something first$"):
        talk.rate(True)
    first = talk.ask("Hello", max_new_tokens=4)
    talk.rate(False)
    assert talk.rate(True).good is True  # a vote can be changed
    talk.ask("Why?", run="short", max_new_tokens=5)
    asked = [*talk.messages()[:2], {"role": "user", "content": "Why?"}]
    with pytest.raises(RunError, match="nothing was said"):
        talk.ask(" ")
    turn = talk.rate(False)
    rows = peft_nb.votes(rated=True, store=store)
    assert rows[["prompt", "completion", "label", "run"]].values.tolist() == [
        ["Hello", first.answer, True, talkers[0].id],
        [asked, turn.answer, False, talkers[1].id],
    ]
    assert f"  calm (rated good): {first.answer}" in repr(talk)
    assert "short (rated bad)" in Page(talk._repr_html_()).text
    assert peft_nb.votes(store=store).empty


def test_what_grows_can_be_heard_and_ended(talkers: list[Run]) -> None:
    heard: list[Turn] = []

    def listen(turn: Turn) -> bool:
        heard.append(turn)
        return len(heard) == 3

    talk = chat(talkers[0])
    turn = talk.ask("Hello", max_new_tokens=30, listen=listen)
    assert len(heard) == 3
    assert turn == heard[-1]
    whole = talkers[0].generate("Hello", max_new_tokens=30)
    assert whole.startswith(turn.answer)
    assert whole != turn.answer
    assert turn.base == ""
    assert len(talk.messages()) == 2
    assert talk.messages(base=True) == []


def test_several_answers_are_heard_in_the_order_of_the_prompts(talkers: list[Run]) -> None:
    prompts, heard = ["How do I pay for a parcel that was lost?", "Hi"], list[list[str]]()
    answers = talkers[0].generate(prompts, max_new_tokens=8, listen=heard.append)
    assert heard[-1] == answers == talkers[0].generate(prompts, max_new_tokens=8)
    assert len(heard) == 8
    assert all(len(before[1]) <= len(after[1]) for before, after in itertools.pairwise(heard))


def test_a_call_waits_while_the_base_answers_another(talkers: list[Run]) -> None:
    whole, found = talkers[0].generate("Hello", max_new_tokens=12), list[str]()
    other = threading.Thread(target=lambda: found.append(talkers[0].generate("Hello", max_new_tokens=12)))

    def listen(answers: list[str]) -> None:
        if not other.ident:
            other.start()
        time.sleep(0.01)

    base = talkers[0].generate("Hello", adapter=False, max_new_tokens=12, listen=listen)
    other.join()
    assert found == [whole]
    assert base != whole


def test_who_cannot_talk_is_refused(
    talkers: list[Run], encoder: str, labelled: Rows, spec: Callable[..., RunSpec]
) -> None:
    with pytest.raises(RunError, match="nobody to talk to"):
        chat()
    talk = chat(*talkers)
    with pytest.raises(RunError, match="nothing was said"):
        talk.ask("  \n")
    with pytest.raises(RunError, match=r"^clam does not take part; did you mean 'calm'\?$"):
        talk.ask("Hello", run="clam")
    assert talk.turns == []
    fields = {"model": str(encoder), "data": "(in memory)", "task": "classification", "device": "cpu", "max_steps": 1}
    labels = begin(RunSpec(**fields), data=labelled[:60], store=talkers[0].store).wait()
    with pytest.raises(RunError, match="gives texts labels and writes none; call predict"):
        chat(talkers[0], labels)
    trial = chat(labels)
    assert isinstance(trial, Trial)
    tried = trial.ask(labelled[0]["text"])
    found = labels.predict(labelled[0]["text"])
    assert next(iter(tried.probabilities)) == found["label"][0]
    assert list(tried.probabilities.values()) == sorted(tried.probabilities.values(), reverse=True)
    assert sum(tried.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert set(tried.probabilities) == {one["label"] for one in labelled[:60]}


def test_a_run_on_plain_texts_continues_what_is_said(talkers: list[Run], spec: Callable[..., RunSpec]) -> None:
    texts = [{"text": f"We count {n}, {n + 1}, {n + 2} and go on."} for n in range(20)]
    plain = begin(spec(max_steps=1), data=texts, store=talkers[0].store).wait()
    talk = chat(plain)
    for prompt in ("We count", "Then"):
        assert talk.ask(prompt, max_new_tokens=4).answer == plain.generate(prompt, max_new_tokens=4)


def test_hostile_text_stays_text() -> None:
    page = Page(html([Turn(HOSTILE, "<img src=x>", HOSTILE, "**bold**\n# title")]))
    assert page.open == []
    assert {"script", "img", "h1"}.isdisjoint(tag for tag, _ in page.elements)
    assert page.text.count('<script>alert("x")</script>') == 3  # the prompt is long: its beginning, all of it
    assert "**bold**\n# title" in page.text
    assert "\x1b" not in page.text


def test_a_router_finds_who_answers(kinds: dict[str, Run], encoder: Path) -> None:
    router = peft_nb.route(*kinds.values(), "base", encoder=str(encoder), policy=lambda prompt, user: said[prompt])
    said = {"a": "fruit", "b": "tool", "c": "base"}
    talk = chat(router)
    assert talk.names == ["router", "fruit", "tool"]
    turn = talk.ask("a", max_new_tokens=3)
    assert (turn.run, turn.routed, turn.note) == ("fruit", "by router, 100%", "by router, 100%")
    assert turn.answer == kinds["fruit"].generate("a", max_new_tokens=3)
    assert talk.rate(True).note == "by router, 100%, rated good"
    talk.clear()
    assert talk.ask("b", run="fruit", max_new_tokens=3).routed == ""
    talk.clear()
    bare = talk.ask("c", max_new_tokens=3)
    assert bare.answer == bare.base == kinds["fruit"].generate("c", adapter=False, max_new_tokens=3)
    with pytest.raises(RunError, match="the base model answered alone"):
        talk.rate(True)
    with pytest.raises(RunError, match="a router takes part alone"):
        chat(router, kinds["fruit"])


def test_a_better_answer_is_kept_beside_the_one_that_was_given(start: Callable[..., Run]) -> None:
    run = start(max_steps=1, name="calm").wait()
    talk = chat(run)
    with pytest.raises(RunError, match="^there is no answer to rate yet; say something first$"):
        talk.edit("Better.")
    turn = talk.ask("Can it be better?", max_new_tokens=4)
    with pytest.raises(RunError, match="nothing was edited"):
        talk.edit(f" {turn.answer} ")
    talk.edit("A bit.")
    assert talk.edit("Much better.").edited == "Much better."
    talk.rate(False)
    (row,) = peft_nb.feedback(run).to_dict("records")
    told = ("Can it be better?", turn.answer, False, "Much better.", "calm v1")
    assert tuple(row[name] for name in ("prompt", "answer", "thumb", "edited", "version")) == told
    assert "(rated bad, edited)" in repr(talk)
