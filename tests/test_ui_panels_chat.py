"""Talking to runs of a tiny base, from Python, by ``%peft chat`` and in the panel."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb import Chat, Run, chat, load
from peft_nb.data.rendering import Renderer
from peft_nb.errors import CommandError
from peft_nb.store.votes import feedback
from peft_nb.system import frontend
from peft_nb.ui.chat import fitting
from peft_nb.ui.differences import clean
from peft_nb.ui.panels.chat import ChatPanel
from tests.shell import refused
from tests.test_runs_compare import Page
from tests.test_ui_panels_compare import outcome, press, settled
from tests.widgets import published

Rows = list[dict[str, str]]


@pytest.fixture
def panel(talkers: list[Run]) -> ChatPanel:
    panel = ChatPanel(chat(*talkers))
    panel.longest.value = 6
    return panel


def enter(panel: ChatPanel, text: str) -> None:
    """Do what the front end does: first it says that Enter was pressed, then what was written."""
    panel.message._handle_custom_msg({"event": "submit"}, [])
    panel.message.value = text


def test_the_oldest_turns_are_left_out_once_the_model_cannot_hold_them(
    talkers: list[Run], panel: ChatPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = talkers[0]
    monkeypatch.setattr(run.model.config, "max_position_embeddings", 90)
    turn = [{"role": "user", "content": "How do I pay?"}, {"role": "assistant", "content": "Open invoices."}]
    said = [*turn * 10, turn[0]]
    kept = fitting(run, said, 10)
    length = len(Renderer(run.tokenizer).render(kept, system="Be kind.", generation=True))
    more = len(Renderer(run.tokenizer).render([*turn, *kept], system="Be kind.", generation=True))
    assert length <= 80 < more
    assert said[-len(kept) :] == kept
    assert fitting(run, said[-1:], 10_000) == said[-1:]

    for _ in range(5):
        enter(panel, "How do I pay for a parcel that was lost?")
        settled(panel)
        if panel.talk.forgotten:
            break
    assert "no longer fit into the model" in outcome(panel)
    enter(panel, "Hello")
    settled(panel)
    assert "answered after" in outcome(panel)
    assert "no longer fit" not in outcome(panel)  # which has been said
    assert len(panel.talk.messages()) == 2 * len(panel.talk.turns)  # nothing is lost of what is kept


def test_enter_sends_and_the_answers_are_shown(panel: ChatPanel, talkers: list[Run]) -> None:
    assert repr(panel) == "<peft_nb chat panel>"
    assert "No messages yet" in panel._said.value
    enter(panel, "Hello <b>you</b>")
    assert "answered after" in settled(panel)
    assert panel.message.value == ""
    shown = Page(panel._said.value)
    assert shown.open == []
    assert "Hello <b>you</b>" in shown.text
    assert clean(talkers[0].generate("Hello <b>you</b>", max_new_tokens=6)) in shown.text
    panel.adapter.value, panel.temperature.value, panel.seed.value = "short", 1.0, 4
    panel.message.value = "And?"
    press(panel, "Send")
    settled(panel)
    turn = panel.talk.turns[-1]
    told = panel.talk.messages()[:-1]
    assert (turn.prompt, turn.run) == ("And?", "short")
    assert turn.answer == talkers[1].generate([told], max_new_tokens=6, temperature=1.0, seed=4)[0]
    assert Page(panel._said.value).text.count("base") == 2
    press(panel, "Clear")
    assert panel.talk.turns == []
    assert "No messages yet" in panel._said.value


def test_thumbs_below_the_last_answer_rate_it(panel: ChatPanel, talkers: list[Run]) -> None:
    assert panel.thumbs.layout.display == "none"
    enter(panel, "Hello")
    settled(panel)
    assert panel.thumbs.layout.display == "flex"
    press(panel, "👎 Bad answer")
    assert "the answer of calm is rated bad; peft_nb.votes(rated=True)" in outcome(panel)
    assert "calm (rated bad)" in Page(panel._said.value).text
    press(panel, "👍 Good answer")
    assert "calm (rated good)" in Page(panel._said.value).text
    (vote,) = [vote for vote in talkers[0].store.votes() if vote.answers == {talkers[0].id: panel.talk.turns[0].answer}]
    assert (vote.prompt, vote.best) == ("Hello", talkers[0].id)
    press(panel, "Clear")
    assert panel.thumbs.layout.display == "none"


def test_stop_ends_the_answer_and_only_one_is_written_at_a_time(panel: ChatPanel) -> None:
    panel.longest.value = 1500
    enter(panel, "Hello")
    until = time.monotonic() + 120
    while panel._turn is None or "Hello" not in panel._said.value:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert panel.message.value == ""
    panel.message.value = "Wait"
    press(panel, "Send")
    assert "something else is still running here" in outcome(panel)
    press(panel, "Stop")
    assert "stopped after" in settled(panel)
    assert [turn.prompt for turn in panel.talk.turns] == ["Hello"]
    assert panel.message.value == "Wait"


def test_what_went_wrong_is_shown_and_the_text_comes_back(panel: ChatPanel, talkers: list[Run]) -> None:
    enter(panel, "")
    assert 'role="alert"' in settled(panel)
    assert "nothing was said" in outcome(panel)
    broken = load(talkers[0].id, store=talkers[0].store)
    broken.record.folder = broken.record.folder / "gone"
    panel.talk.runs["calm"] = broken
    enter(panel, "Hello")
    assert "has written no adapter yet" in settled(panel)
    assert panel.message.value == "Hello"
    assert panel.talk.turns == []


@pytest.fixture
def shell(shell: InteractiveShell, talkers: list[Run], monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setenv("PEFT_NB_STORE", str(talkers[0].folder.parents[1]))
    shell.user_ns |= {"a": talkers[0]}
    return shell


def test_the_command_talks_and_keeps(
    shell: InteractiveShell, talkers: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = shell.run_cell("%peft chat a short --out talk").result
    assert isinstance(talk, Chat)
    assert shell.user_ns["talk"] is talk
    assert list(talk.runs) == ["a", "short"]
    assert "nobody" in refused(shell, "%peft chat a nobody")
    assert list(shell.display_formatter.format(talk)[0]) == ["text/plain", "text/html"]
    monkeypatch.setattr(frontend, "frontend", lambda: "vscode")
    with published() as bundles:
        shell.display_formatter.format(talk)
        talk.ask("Hello", max_new_tokens=3)
        press(talk.panel, "👍 Good answer")
    view, page = bundles
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert page["text/plain"] == repr(talk)
    assert "(rated good)" in page["text/plain"]

    talk.panel.variable.value = "so far"
    press(talk.panel, "Keep")
    assert f"{CommandError.__name__}" not in outcome(talk.panel)
    assert "no name for a variable" in outcome(talk.panel)
    talk.panel.variable.value = "kept"
    press(talk.panel, "Keep")
    assert "kept holds 2 messages" in outcome(talk.panel)
    assert shell.user_ns["kept"] == talk.messages()


def test_runs_are_offered_but_not_the_base(shell: InteractiveShell) -> None:
    from IPython.core.completer import provisionalcompleter

    with provisionalcompleter():
        line = "%peft chat a "
        words = {one.text for one in shell.Completer.completions(line, len(line))}
    assert {"calm", "short"} <= words
    assert "base" not in words


def test_a_better_answer_is_written_below_the_last_one(start: Callable[..., Run]) -> None:
    run = start(max_steps=1).wait()
    panel = ChatPanel(chat(run))
    panel.longest.value = 6
    enter(panel, "What now?")
    settled(panel)
    answer = panel.talk.turns[-1].answer
    assert panel.better.value == answer
    press(panel, "Keep better answer")
    assert "nothing was edited" in outcome(panel)
    panel.better.value = "Wait a day."
    press(panel, "👎 Bad answer")
    assert panel.better.value == "Wait a day."  # which is still being written
    press(panel, "Keep better answer")
    assert f"the better answer of {run.id} is kept" in outcome(panel)
    (row,) = feedback(run.store.votes())
    assert (row["prompt"], row["answer"], row["edited"], row["thumb"]) == ("What now?", answer, "Wait a day.", False)
    assert "rated bad, edited" in panel._said.value
