"""Runs that learn with documents, on the tiny base and a random encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from peft_nb.data import prompts
from peft_nb.documents.passages import Passage
from peft_nb.documents.retriever import Retriever, build, folder_of
from peft_nb.errors import DataError, SpecError, StoreError
from peft_nb.evaluation.documents import WAYS
from peft_nb.events import Notice
from peft_nb.runs import rows as run_rows
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.store import Store
from peft_nb.ui.chat import Chat, Turn, html
from peft_nb.ui.compare import compare
from peft_nb.ui.index import Index
from tests.conftest import stop_at
from tests.serving import TOKENS, post, said, serve

THINGS = ("parcels", "anchors", "lanterns", "ropes", "sails", "oars", "buoys", "compasses", "flags", "nets")
HANDBOOK = {one: f"Our {one} are kept in shed {10 + number}." for number, one in enumerate(THINGS)}
ROWS = [
    {"question": f"Where are the {one}?", "answer": f"Shed {10 + number}.", "note": one}
    for number, one in enumerate(THINGS)
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Store:
    store = Store(tmp_path_factory.mktemp("documents"))
    build(HANDBOOK, folder_of("sheds", store.folder), model=str(encoder), size=100)
    return store


@pytest.fixture(scope="module")
def start(spec: Callable[..., RunSpec], kept: Store) -> Callable[..., Run]:
    def start(**fields: Any) -> Run:
        given: dict[str, Any] = {"documents": "sheds", "distractors": 2, "eval_fraction": 0.2, "max_steps": 2, **fields}
        listeners = given.pop("listeners", ())
        return begin(spec(**given), data=ROWS, store=kept, listeners=listeners).wait()

    return start


@pytest.fixture(scope="module")
def taught(start: Callable[..., Run]) -> Run:
    return start()


def notices(run: Run) -> list[str]:
    return [one.text for one in run.events() if isinstance(one, Notice)]


def written(run: Run) -> tuple[list[str], list[str]]:
    """Training and evaluation examples as texts."""
    sides = run_rows.kept(run.folder)
    assert sides
    return tuple([run.tokenizer.decode(list(one.ids)) for one in side] for side in sides[:2])  # type: ignore[return-value]


def test_each_epoch_reads_the_documents_in_its_own_order(start: Callable[..., Run]) -> None:
    run = start(max_steps=None, epochs=3, batch_size=4)
    sides = run_rows.kept(run.folder)
    assert sides
    assert len(sides.again) == 2
    epochs = [[run.tokenizer.decode(list(one.ids)) for one in examples] for examples in (sides.train, *sides.again)]
    assert all(len(epoch) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for texts in zip(*epochs, strict=True):  # the same words in another order, but for the numbers
        assert len({tuple(sorted(text.split())) for text in texts}) == 1


def test_rows_are_learned_behind_documents(taught: Run) -> None:
    train, held_out = written(taught)
    assert (len(train), len(held_out)) == (8, 2)
    for text in train + held_out:
        assert all(f"[{number}] Our" in text for number in (1, 2, 3))
        assert "[4]" not in text

    assert sum(text.count("[1]") for text in train) == 8
    assert any("the golden one is among them in 6 of 8" in one for one in notices(taught))
    asked = [next(one for one in THINGS if f"Where are the {one}?" in text) for text in held_out]
    found = [f"Our {one} are kept" in text for one, text in zip(asked, held_out, strict=True)]
    assert taught.metrics["recall_at_k"] == sum(found) / 2  # a random encoder finds one or both
    assert "[1] What a document says." in (taught.adapter_dir / "README.md").read_text(encoding="utf-8")
    assert taught.facts.documents == {"index": "sheds", "fingerprint": index_of(taught).fingerprint}


def index_of(run: Run) -> Retriever:
    return Retriever(folder_of("sheds", run.store.folder))


def test_only_answers_are_learned(taught: Run) -> None:
    sides = run_rows.kept(taught.folder)
    assert sides
    for one in sides.train:
        learned = [id for id, on in zip(one.ids, one.supervised, strict=True) if on]
        assert taught.tokenizer.decode(learned).startswith("Shed ")


def test_questions_are_answered_behind_documents_unless_told_otherwise(taught: Run) -> None:
    question = "Where are the ropes?"
    shown = taught.retrieve(question)
    assert shown.index.tolist() == [1, 2, 3]
    assert shown.source.tolist() == index_of(taught).search(question, 3).source.tolist()
    laid = "".join(f"[{n}] {text}\n\n" for n, text in shown.text.items()) + question
    behind = taught.generate(question, max_new_tokens=6)
    assert behind == taught.generate(laid, documents=False, max_new_tokens=6)
    assert behind == taught.generate(question, documents=index_of(taught), max_new_tokens=6)
    assert behind != taught.generate(question, documents=False, max_new_tokens=6)
    with pytest.raises(DataError, match="a int is no"):
        taught.generate(question, documents=3)


def test_prompts_are_kept_without_documents(taught: Run) -> None:
    for one in prompts.load(taught.folder):
        assert str(one.prompt).startswith("Where are the ")


def test_a_run_without_documents_takes_an_index(start: Callable[..., Run], taught: Run) -> None:
    plain = start(documents=None, distractors=3)
    question = "Where are the nets?"
    with pytest.raises(DataError, match="the run learned with none"):
        plain.generate(question, documents=True)
    assert plain.generate(question, documents=index_of(taught)) != plain.generate(question)


def test_a_changed_index_is_told(start: Callable[..., Run], kept: Store, encoder: Path) -> None:
    run = start(max_steps=4, listeners=[stop_at(2)])
    assert run.status == "stopped"
    before = written(run)
    folder = folder_of("sheds", kept.folder)
    build({**HANDBOOK, "news": "All sheds were moved."}, folder, model=str(encoder), size=100)
    try:
        assert run.resume().status == "finished"
        assert written(run) == before
        assert any("sheds has changed since the run began" in one for one in notices(run))
    finally:
        build(HANDBOOK, folder, model=str(encoder), size=100)


def test_documents_are_measured(start: Callable[..., Run]) -> None:
    run = start(judge="off", accept={"closed_book_score": ">= 0", "recall_at_k": ">= 0.5"}, eval_fraction=0.5)
    table = {row["way"]: row for row in run.judgement["documents"]}
    assert list(table) == list(WAYS)
    assert run.metrics["closed_book_score"] == table["adapter, closed book"]["score"]
    assert str(run.metrics["verdict"]).startswith("passed")


def test_what_cannot_be_is_refused(start: Callable[..., Run], spec: Callable[..., RunSpec], kept: Store) -> None:
    with pytest.raises(StoreError, match="there is no index 'shed'; did you mean 'sheds'"):
        start(documents="shed")
    with pytest.raises(DataError, match="golden: no column is named 'chunk'; there are question, answer, note"):
        start(golden="chunk")
    with pytest.raises(SpecError, match="loss_on: all would learn the documents by heart"):
        start(loss_on="all")
    with pytest.raises(SpecError, match="documents: the index is on this machine alone"):
        begin(spec(documents="sheds"), data=ROWS, store=kept, place=Place.of(on="ray"))
    with pytest.raises(SpecError, match="distractors: has no effect without documents"):
        start(documents=None, distractors=5)
    with pytest.raises(SpecError, match="documents: task kto has no use for it"):
        start(task="kto")


def test_an_index_of_the_notebook_is_named(spec: Callable[..., RunSpec], kept: Store) -> None:
    variable = Index(Retriever(folder_of("sheds", kept.folder)))
    assert spec(documents=variable).documents == "sheds"
    given = spec(documents="kb", max_steps=1)
    run = begin(given, data=ROWS, store=kept, namespace={"kb": variable}).wait()
    assert len(load(run.id, store=kept).retrieve("Where are the flags?")) == 4


def test_served_answers_are_behind_the_same_documents(taught: Run, kept: Store) -> None:
    question = "Where are the oars?"
    server = serve(kept, taught.id)
    with ExitStack() as stack:
        stack.callback(server.stop)
        answer = post(server, taught.id, question).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"].strip() == taught.generate(question, max_new_tokens=TOKENS)
        assert [one["text"] for one in answer["documents"]] == taught.retrieve(question).text.tolist()
        bare = taught.generate(question, documents=False, max_new_tokens=TOKENS)
        assert said(server, taught.id, question, documents=False) == bare
        streamed = post(server, taught.id, question, stream=True).text
        assert streamed.count('"documents"') == 1
        refused = post(server, taught.id, [{"type": "text", "text": question}])  # type: ignore[arg-type]
        assert "send documents: false" in refused.json()["error"]["message"]


def test_chat_shows_the_documents_behind_an_answer(taught: Run) -> None:
    talk = Chat({"sheds": taught})
    turn = talk.ask("Where are the sails?", max_new_tokens=4)
    shown = taught.retrieve("Where are the sails?")
    assert [one.text for one in turn.documents] == shown.text.tolist()
    assert turn.answer == taught.generate("Where are the sails?", max_new_tokens=4)
    drawn = talk._repr_html_()
    assert drawn.index("3 documents behind the answers") < drawn.index(shown.text[1])
    assert f"[1] {shown.source[1]}" in repr(talk)
    assert talk.messages()[0] == {"role": "user", "content": "Where are the sails?"}
    talk.rate(True)
    assert kept_votes(taught) == ["Where are the sails?"]
    assert not talk.ask("And the nets?", documents=False, max_new_tokens=4).documents
    assert "<b>" not in html([Turn("?", "sheds", "!", documents=(Passage("<b>", "<b>", "<b>", 0.03),))])


def kept_votes(run: Run) -> list[Any]:
    return [one.prompt for one in run.store.votes()]


def test_compare_asks_as_each_run_learned(taught: Run) -> None:
    question = "Where are the flags?"
    found = compare(taught, "base", prompts=[question], max_new_tokens=4)
    name = found.names[0]
    assert found.answers[name].tolist() == [taught.generate(question, max_new_tokens=4)]
    assert found.answers["base"].tolist() == [taught.generate(question, adapter=False, max_new_tokens=4)]
    assert any(note.startswith(f"documents: {name} alone") for note in found.notes)
    without = compare(taught, prompts=[question], documents=False, max_new_tokens=4)
    assert without.answers[name].tolist() == [taught.generate(question, documents=False, max_new_tokens=4)]
