"""Talking to runs of a tiny base, from Python, by ``%peft chat`` and in the panel."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb import Chat, Run, RunSpec, chat, load
from peft_nb.data.rendering import Renderer
from peft_nb.errors import CommandError, RunError
from peft_nb.runs.run import begin
from peft_nb.store import Store
from peft_nb.system import frontend
from peft_nb.ui.chat import Turn, fitting, html
from peft_nb.ui.differences import clean
from peft_nb.ui.panels.chat import ChatPanel
from tests.shell import refused
from tests.test_runs_compare import HOSTILE, Page
from tests.test_ui_panels_compare import outcome, press, settled

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def runs(spec: Callable[..., RunSpec], rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    store = Store(tmp_path_factory.mktemp("talk"))
    kinds = [{"name": "calm", "max_steps": 12, "system": "Be kind."}, {"name": "short"}]
    return [begin(spec(**kind), data=rows, store=store).wait() for kind in kinds]


@pytest.fixture
def panel(runs: list[Run]) -> ChatPanel:
    panel = ChatPanel(chat(*runs))
    panel.longest.value = 6
    return panel


def enter(panel: ChatPanel, text: str) -> None:
    """Do what the front end does: first it says that Enter was pressed, then what was written."""
    panel.message._handle_custom_msg({"event": "submit"}, [])
    panel.message.value = text


def test_both_sides_answer_with_their_own_history(runs: list[Run]) -> None:
    talk = chat(*runs)
    first = talk.ask("Hello", max_new_tokens=5)
    assert first == Turn(
        "Hello",
        "calm",
        runs[0].generate("Hello", max_new_tokens=5),
        runs[0].generate("Hello", adapter=False, max_new_tokens=5),
    )
    second = talk.ask("Why?", run="short", max_new_tokens=5, temperature=1.0, seed=7)
    own = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": first.answer}]
    bare = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": first.base}]
    asked = {"role": "user", "content": "Why?"}
    drawn = {"max_new_tokens": 5, "temperature": 1.0, "seed": 7}
    assert second.answer == runs[1].generate([[*own, asked]], **drawn)[0]
    assert second.base == runs[1].generate([[*bare, asked]], adapter=False, **drawn)[0]
    assert talk.turns == [first, second]
    assert talk.messages() == [*own, asked, {"role": "assistant", "content": second.answer}]
    assert talk.messages(base=True)[1]["content"] == first.base
    assert f"  calm: {first.answer}" in repr(talk)
    talk.clear()
    assert talk.messages() == []


def test_the_oldest_turns_are_left_out_once_the_model_cannot_hold_them(
    runs: list[Run], panel: ChatPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs[0]
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


def test_what_grows_can_be_heard_and_ended(runs: list[Run]) -> None:
    heard: list[Turn] = []

    def listen(turn: Turn) -> bool:
        heard.append(turn)
        return len(heard) == 3

    talk = chat(runs[0])
    turn = talk.ask("Hello", max_new_tokens=30, listen=listen)
    assert len(heard) == 3
    assert turn == heard[-1]
    whole = runs[0].generate("Hello", max_new_tokens=30)
    assert whole.startswith(turn.answer)
    assert whole != turn.answer
    assert turn.base == ""
    assert len(talk.messages()) == 2
    assert talk.messages(base=True) == []


def test_several_answers_are_heard_in_the_order_of_the_prompts(runs: list[Run]) -> None:
    prompts, heard = ["How do I pay for a parcel that was lost?", "Hi"], list[list[str]]()
    answers = runs[0].generate(prompts, max_new_tokens=8, listen=heard.append)
    assert heard[-1] == answers == runs[0].generate(prompts, max_new_tokens=8)
    assert len(heard) == 8
    assert all(len(before[1]) <= len(after[1]) for before, after in itertools.pairwise(heard))


def test_a_call_waits_while_the_base_answers_another(runs: list[Run]) -> None:
    whole, found = runs[0].generate("Hello", max_new_tokens=12), list[str]()
    other = threading.Thread(target=lambda: found.append(runs[0].generate("Hello", max_new_tokens=12)))

    def listen(answers: list[str]) -> None:
        if not other.ident:
            other.start()
        time.sleep(0.01)

    base = runs[0].generate("Hello", adapter=False, max_new_tokens=12, listen=listen)
    other.join()
    assert found == [whole]
    assert base != whole


def test_who_cannot_talk_is_refused(
    runs: list[Run], encoder: str, labelled: Rows, spec: Callable[..., RunSpec]
) -> None:
    with pytest.raises(RunError, match="nobody to talk to"):
        chat()
    talk = chat(*runs)
    with pytest.raises(RunError, match="nothing was said"):
        talk.ask("  \n")
    with pytest.raises(RunError, match=r"^clam does not take part; did you mean 'calm'\?$"):
        talk.ask("Hello", run="clam")
    assert talk.turns == []
    fields = {"model": str(encoder), "data": "(in memory)", "task": "classification", "device": "cpu", "max_steps": 1}
    labels = begin(RunSpec(**fields), data=labelled[:60], store=runs[0].store).wait()
    with pytest.raises(RunError, match="gives texts labels and does not talk"):
        chat(labels)


def test_a_run_on_plain_texts_continues_what_is_said(runs: list[Run], spec: Callable[..., RunSpec]) -> None:
    texts = [{"text": f"We count {n}, {n + 1}, {n + 2} and go on."} for n in range(20)]
    plain = begin(spec(max_steps=1), data=texts, store=runs[0].store).wait()
    talk = chat(plain)
    for prompt in ("We count", "Then"):
        assert talk.ask(prompt, max_new_tokens=4).answer == plain.generate(prompt, max_new_tokens=4)


def test_enter_sends_and_the_answers_are_shown(panel: ChatPanel, runs: list[Run]) -> None:
    assert repr(panel) == "<peft_nb chat panel>"
    assert "Nothing was said yet" in panel._said.value
    enter(panel, "Hello <b>you</b>")
    assert "answered after" in settled(panel)
    assert panel.message.value == ""
    shown = Page(panel._said.value)
    assert shown.open == []
    assert "Hello <b>you</b>" in shown.text
    assert clean(runs[0].generate("Hello <b>you</b>", max_new_tokens=6)) in shown.text
    panel.adapter.value, panel.temperature.value, panel.seed.value = "short", 1.0, 4
    panel.message.value = "And?"
    press(panel, "Send")
    settled(panel)
    turn = panel.talk.turns[-1]
    told = panel.talk.messages()[:-1]
    assert (turn.prompt, turn.run) == ("And?", "short")
    assert turn.answer == runs[1].generate([told], max_new_tokens=6, temperature=1.0, seed=4)[0]
    assert Page(panel._said.value).text.count("base") == 2
    press(panel, "Clear")
    assert panel.talk.turns == []
    assert "Nothing was said yet" in panel._said.value


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
    assert "something else is still being done here" in outcome(panel)
    press(panel, "Stop")
    assert "stopped after" in settled(panel)
    assert [turn.prompt for turn in panel.talk.turns] == ["Hello"]
    assert panel.message.value == "Wait"


def test_what_went_wrong_is_shown_and_the_text_comes_back(panel: ChatPanel, runs: list[Run]) -> None:
    enter(panel, "")
    assert 'role="alert"' in settled(panel)
    assert "nothing was said" in outcome(panel)
    broken = load(runs[0].id, store=runs[0].store)
    broken.folder = broken.folder / "gone"
    panel.talk.runs["calm"] = broken
    enter(panel, "Hello")
    assert "has written no adapter yet" in settled(panel)
    assert panel.message.value == "Hello"
    assert panel.talk.turns == []


def test_hostile_text_stays_text() -> None:
    page = Page(html([Turn(HOSTILE, "<img src=x>", HOSTILE, "**bold**\n# title")]))
    assert page.open == []
    assert {"script", "img", "h1"}.isdisjoint(tag for tag, _ in page.elements)
    assert page.text.count('<script>alert("x")</script>') == 3  # the prompt is long: its beginning, all of it
    assert "**bold**\n# title" in page.text
    assert "\x1b" not in page.text


@pytest.fixture
def shell(shell: InteractiveShell, runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setenv("PEFT_NB_STORE", str(runs[0].folder.parents[1]))
    shell.user_ns |= {"a": runs[0]}
    return shell


def test_the_command_talks_and_keeps(shell: InteractiveShell, runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    talk = shell.run_cell("%peft chat a short --out talk").result
    assert isinstance(talk, Chat)
    assert shell.user_ns["talk"] is talk
    assert list(talk.runs) == ["a", "short"]
    assert "nobody" in refused(shell, "%peft chat a nobody")
    assert list(shell.display_formatter.format(talk)[0]) == ["text/plain", "text/html"]
    monkeypatch.setattr(frontend, "frontend", lambda: "vscode")
    assert "application/vnd.jupyter.widget-view+json" in shell.display_formatter.format(talk)[0]

    talk.ask("Hello", max_new_tokens=3)
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
