from __future__ import annotations

import json
import pickle
import random
import tempfile
import zipfile
from array import array
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from peft_nb.data import encoding, examples, labels, sources
from peft_nb.data.detection import detect
from peft_nb.data.examples import Example, gather, key, load
from peft_nb.data.rendered import RenderedRows
from peft_nb.errors import DataError, StoreError
from tests.conftest import file_size_limit
from tests.templates import CHATML, INST, learned, tokenizer


@pytest.fixture(scope="module")
def chatml() -> Any:
    return tokenizer()


def numbered(count: int, seed: int = 0) -> list[tuple[int, Example]]:
    """Examples of random lengths, some rows with several, some with none."""
    draw = random.Random(seed)
    made = []
    for row in range(count):
        for _ in range(draw.choice((0, 1, 1, 1, 2))):
            length = draw.randrange(2, 30)
            ids = array("i", (draw.randrange(50_000) for _ in range(length)))
            made.append((row, Example(ids, bytes([0, *(draw.randrange(2) for _ in range(length - 1))]))))
    return made


numbers = st.integers(-(2**31), 2**31) | st.floats(allow_nan=False)
examples_of_any_task = st.builds(
    lambda tokens, labels: Example(
        array("i", [id for id, _ in tokens]), bytes(target for _, target in tokens), tuple(labels)
    ),
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=6),
    st.lists(numbers, max_size=3),
)


def encode(tok: Any, folder: Path, rows: list[dict[str, str]], **options: Any) -> examples.Encoded:
    return encoding.encode(RenderedRows(rows, detect(rows), tok), max_length=1024, folder=folder, **options)


def questions(count: int) -> list[dict[str, str]]:
    return [{"question": f"Where is parcel {n}?", "answer": f"It is in street {n}."} for n in range(count)]


# ---- in memory and on disk ---------------------------------------------------------------------


def test_examples_are_what_went_in() -> None:
    made = numbered(200)
    gathered = gather(made)
    assert list(gathered) == [example for _, example in made]
    assert gathered.rows.tolist() == [row for row, _ in made]
    assert gathered.lengths.tolist() == [len(example.ids) for _, example in made]
    assert gathered.tokens == sum(len(example.ids) for _, example in made)
    assert gathered.targets == sum(sum(example.supervised) or 1 for _, example in made)
    assert gathered[-1] == made[-1][1]
    with pytest.raises(IndexError):
        gathered[len(made)]


def test_slices_and_choices_are_views() -> None:
    made = numbered(100)
    all_of_them, wanted = gather(made), [example for _, example in made]
    assert list(all_of_them[1::3]) == wanted[1::3]
    assert list(all_of_them[::-1]) == wanted[::-1]
    chosen = all_of_them.take([5, 3, 3])
    assert list(chosen) == [wanted[5], wanted[3], wanted[3]]
    assert chosen.targets == sum(sum(wanted[place].supervised) or 1 for place in (5, 3, 3))
    even, odd = all_of_them.parted(range(1, 100, 2))
    assert list(even) == [example for row, example in made if row % 2 == 0]
    assert list(odd[:2]) == [example for row, example in made if row % 2][:2]
    assert odd._ids is all_of_them._ids
    assert all_of_them.shortest(2) == sorted(wanted, key=lambda one: len(one.ids))[:2]
    assert len(gather([])) == 0


@given(st.lists(examples_of_any_task, min_size=1, max_size=3))
def test_joined_sequences_are_parted_again(made: list[Example]) -> None:
    one = examples.joined(*made)
    assert [(part.ids, part.supervised) for part in examples.parts(one)] == [(own.ids, own.supervised) for own in made]
    assert (one.cost, len(one.labels)) == (sum(own.cost for own in made), len(made) - 1)
    assert examples.parts(gather([(0, one)])[0]) == examples.parts(one)


@given(st.lists(examples_of_any_task), st.integers(0, 3))
def test_examples_of_any_task_come_back_from_memory_and_disk(made: list[Example], begin: int) -> None:
    def report(count: int, tokens: int, supervised: int) -> examples.Report:
        return examples.Report(len(made), count, tokens, supervised, (), "drop", 8, "template", "why")

    inside = examples.collect(enumerate(made), report)
    found = [inside.examples]
    with tempfile.TemporaryDirectory() as folder:
        if made:
            outside = examples.collect(enumerate(made), report, Path(folder) / "set")
            assert outside.report == inside.report
            again = load(Path(folder) / "set")
            assert again is not None
            assert again.report == inside.report
            found += [outside.examples, again.examples]
            names = {path.name for path in (Path(folder) / "set").glob("*label*")}
            assert names == ({"labels.npy", "label_ends.npy"} if any(one.labels for one in made) else set())
        for one in found:
            assert list(one) == made
            assert [list(map(type, own)) for own in one.labels] == [
                [int if float(label).is_integer() else float for label in example.labels] for example in made
            ]
            assert one.costs.tolist() == [example.cost for example in made]
            assert one.targets == sum(example.targets for example in made)
            assert list(one[begin:]) == made[begin:]
            assert one.shortest(2) == sorted(made, key=lambda own: own.cost)[:2]
            odd = range(1, len(made), 2)
            assert list(map(list, one.parted(odd))) == [made[::2], made[1::2]]


def test_an_example_without_targets_is_learned_as_a_whole() -> None:
    example = Example.whole([3, 1, 4], (2, 0.5))
    assert example == Example(array("i", [3, 1, 4]), bytes(3), (2, 0.5))
    assert (example.cost, example.targets) == (3, 1)
    assert Example(array("i", [3, 1, 4]), bytes([0, 1, 1])).targets == 2


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_what_is_written_in_chunks_is_read_back_whole(
    tmp_path: Path, monkeypatch: Any, chunk: int, chatml: Any
) -> None:
    monkeypatch.setattr(examples, "CHUNK", chunk)
    rows = questions(60)
    written = encode(chatml, tmp_path / "set", rows)
    kept = encoding.encode(RenderedRows(rows, detect(rows), chatml), max_length=1024)
    assert list(written.examples) == list(kept.examples)
    assert written.report == kept.report
    again = load(tmp_path / "set")
    assert again is not None
    assert (list(again.examples), again.report) == (list(kept.examples), kept.report)
    for file in (tmp_path / "set").glob("*.npy"):  # plain files that anything can read
        assert len(numpy.load(file, allow_pickle=False))


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path, monkeypatch: Any, chatml: Any) -> None:
    encode(chatml, tmp_path / "set", questions(50))
    loaded = load(tmp_path / "set")
    assert loaded is not None
    with (tmp_path / "set" / "ids.npy").open("r+b") as file:
        file.seek(-4, 2)
        file.write((7).to_bytes(4, "little"))
    assert loaded.examples[-1].ids[-1] == 7  # mapped, not copied

    def refuse(*_: Any) -> None:
        raise AssertionError("an example was made")

    monkeypatch.setattr(examples, "Example", refuse)
    part = loaded.examples.take(loaded.examples.rows < 40)[5:]
    assert (len(part), part.tokens > 0, part.targets > 0) == (35, True, True)
    with pytest.raises(AssertionError, match="an example was made"):
        part[0]


# ---- damage and collisions ---------------------------------------------------------------------


def test_what_is_missing_or_damaged_is_not_there(tmp_path: Path, chatml: Any) -> None:
    assert load(tmp_path / "nothing") is None
    for number, file in enumerate(("ids.npy", "supervised.npy", "ends.npy", "targets.npy", "rows.npy", "report.json")):
        folder = tmp_path / str(number)
        encode(chatml, folder, questions(20))
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])
        assert load(folder) is None, file
        (folder / file).unlink()
        assert load(folder) is None, file
        encode(chatml, folder, questions(20))
        assert load(folder) is not None


@pytest.mark.parametrize("file", ["labels.npy", "label_ends.npy"])
def test_labels_that_are_missing_or_damaged_are_not_there(tmp_path: Path, file: str) -> None:
    table = [{"text": text, "label": text} for text in ("a", "b")]
    layout = detect(table)
    rendered = RenderedRows(table, layout, tokenizer())
    labels.encode(*learned(rendered, labels.find(table, layout)), max_length=8, folder=tmp_path / "set")
    content = (tmp_path / "set" / file).read_bytes()
    for broken in (None, content[:-4], content[:-8].replace(b"(2,)", b"(1,)")):
        (tmp_path / "set" / file).unlink() if broken is None else (tmp_path / "set" / file).write_bytes(broken)
        assert load(tmp_path / "set") is None
    (tmp_path / "set" / file).write_bytes(content)
    assert load(tmp_path / "set") is not None


def test_examples_of_version_0_1_open_unchanged(tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parent / "data" / "store-0.1.0.zip") as archive:
        archive.extractall(tmp_path)
    (folder,) = (tmp_path / "store" / "examples").iterdir()
    encoded = load(folder)
    assert encoded is not None
    assert {one.labels for one in encoded.examples} == {()}
    assert encoded.examples.targets == encoded.report.supervised_tokens == sum(one.targets for one in encoded.examples)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    tok = AutoTokenizer.from_pretrained(tmp_path / "base")
    fingerprint = sources.read(tmp_path / "rows.jsonl").fingerprint
    rendered = RenderedRows(rows, detect(rows), tok)
    name, again = encoding.cached(folder.parent, fingerprint, rendered, max_length=encoded.report.max_length)
    assert (name, list(again.examples)) == (folder.name, list(encoded.examples))


def test_files_that_could_run_code_are_not_read(tmp_path: Path, chatml: Any) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    encode(chatml, tmp_path / "set", questions(5))
    for content in (pickle.dumps(Trap()), None):
        if content:
            (tmp_path / "set" / "ids.npy").write_bytes(content)
        else:
            numpy.save(tmp_path / "set" / "ids.npy", numpy.array([Trap()], dtype=object), allow_pickle=True)
        assert load(tmp_path / "set") is None
    assert not (tmp_path / "sprung").exists()


def test_what_is_refused_or_interrupted_leaves_nothing(tmp_path: Path, chatml: Any) -> None:
    with pytest.raises(DataError, match="1 of 21 rows"):
        encode(chatml, tmp_path / "set", [*questions(20), {"question": "a", "answer": ""}])

    def interrupt(share: float, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(chatml, tmp_path / "set", questions(20), progress=interrupt)
    with file_size_limit(100), pytest.raises(StoreError, match=r"^cannot write .*/set: "):
        encode(chatml, tmp_path / "set", questions(20))
    assert list(tmp_path.iterdir()) == []


def test_several_may_encode_the_same_at_once(tmp_path: Path, chatml: Any) -> None:
    rows, start, results = questions(600), Barrier(3), []

    def work() -> None:
        start.wait()
        results.append(encode(chatml, tmp_path / "set", rows))

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = list(encoding.encode(RenderedRows(rows, detect(rows), chatml), max_length=1024).examples)
    assert [list(encoded.examples) for encoded in results] == [wanted] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


# ---- the name ----------------------------------------------------------------------------------


def test_the_name_follows_everything_that_has_an_influence() -> None:
    tok = tokenizer()
    settings = {"max_length": 8, "system": None}
    plain = key("data", tok, settings)
    assert plain == key("data", tokenizer(), dict(reversed(settings.items())))
    others = [
        key("other", tok, settings),
        key("data", tok, {**settings, "max_length": 9}),
        key("data", tokenizer(INST), settings),
        key("data", tokenizer(CHATML, bos_token="<s>"), settings),
        key("data", tokenizer(CHATML, adds_bos=True), settings),
    ]
    more = tokenizer()
    more.add_tokens(["parcel"])
    others.append(key("data", more, settings))
    assert len({plain, *others}) == 7
    tok.backend_tokenizer.enable_truncation(4)
    tok.backend_tokenizer.enable_padding()
    assert key("data", tok, settings) == plain
