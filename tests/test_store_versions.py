"""Versions, aliases and removal, with real processes and a real SIGKILL."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from peft_nb.errors import RunError, StoreError
from peft_nb.events import Notice, StatusChanged
from peft_nb.store import Facts, Store
from tests.conftest import Python, file_size_limit
from tests.stores import ask, assert_sound, finish

# Ends runs and moves aliases for as long as it lives.
BUSY = """
import sys
from peft_nb.store import Store
from tests.stores import finish
store, name, count = Store(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for n in range(count):
    id = finish(store, name)
    store.promote(id, "production", why=f"{sys.argv[4]} {n}")
    if sys.argv[4] == "endless" and n % 2:
        store.rollback(f"{name}@production")
        store.remove(id)
    elif sys.argv[4] == "endless":
        store.promote(id, "candidate", why="newest")
"""


def test_a_run_that_finishes_under_a_name_is_its_next_version(store: Store) -> None:
    first, nameless, second, other = (finish(store, name) for name in ("tickets", None, "tickets", "desk"))
    assert [store.get(id).version for id in (first, nameless, second, other)] == [1, None, 2, 1]
    assert (store.get("tickets").id, store.get("tickets@v1").id, store.get("desk").id) == (second, first, other)
    stopped = store.create("", method="lora", model="m", name="tickets")
    store.record(stopped, StatusChanged("stopped"))
    assert store.get("tickets").id == second  # the newest version, not the newest run
    assert store.get("tickets", unfinished=True).id == stopped
    assert store.get("desk", unfinished=True).id == other


def test_an_alias_holds_what_was_promoted_and_goes_back_step_by_step(store: Store) -> None:
    ids = [finish(store, "tickets") for _ in range(3)]
    for n, id in enumerate(ids):
        assert store.promote(id, "production", why=f"reason {n}").aliases == ("production",)
    store.promote(ids[2], "candidate", why="also")
    assert store.get("tickets@production").aliases == ("candidate", "production")
    for version in (2, 1):
        assert store.rollback("tickets@production", why="regretted").version == version
        assert store.get("tickets@production").id == ids[version - 1]
    store.promote(ids[2], "production", why="after all")  # what was taken back is no place to go back to
    assert store.rollback("tickets@production").version == 1
    gone = store.rollback("tickets@production")
    assert (gone.version, gone.before, gone.run) == (None, 1, None)
    with pytest.raises(StoreError, match="there is no run 'tickets@production'"):
        store.get("tickets@production")
    with pytest.raises(StoreError, match=r"there is no alias 'tickets@production' .*did you mean 'tickets@candidate'"):
        store.rollback("tickets@production")
    assert store.get("tickets@candidate").id == ids[2]


def test_a_bare_alias_will_do_while_one_name_has_it(store: Store) -> None:
    first, second = finish(store, "tickets"), finish(store, "tickets")
    for id in (first, second):
        store.promote(id, "production", why="better")
    assert store.rollback("production").version == 1
    store.promote(finish(store, "desk"), "production", why="another")
    with pytest.raises(StoreError, match=r"several names have the alias 'production'; write one of desk@production, t"):
        store.rollback("production")
    with pytest.raises(StoreError, match=r"there is no alias 'prodution' in .*; did you mean 'production'\?"):
        store.rollback("prodution")


def test_a_failed_verdict_is_promoted_only_by_force_and_the_log_tells(store: Store) -> None:
    id = finish(store, "tickets", verdict="failed:\nforgets 0.4 nats")
    with pytest.raises(RunError, match=r"was not promoted: its verdict is: failed: forgets 0.4 nats; add --force"):
        store.promote(id, "production", why="I like it")
    assert store.aliases() == []
    with pytest.raises(StoreError, match="needs a reason"):
        store.promote(id, "production", why=" ", force=True)
    store.promote(id, "production", why="for the demo", force=True)
    entry = store.log()[0]
    assert (entry.why, entry.forced) == ("for the demo", "its verdict is: failed: forgets 0.4 nats")
    sound = finish(store, "tickets", verdict="passed: 3 of 3")
    store.promote(sound, "production", why="it passed")
    assert store.log()[0].forced is None


def test_what_can_be_no_version_is_not_promoted(store: Store) -> None:
    nameless, empty, failed = finish(store), *(store.create("", method="lora", model="m", name="x") for _ in range(2))
    with pytest.raises(RunError, match=rf"run {nameless} has no name to be a version of; give it one with --name"):
        store.promote(nameless, "production", why="y")
    with pytest.raises(RunError, match=f"run {empty} is created; only a run that has ended well"):
        store.promote(empty, "production", why="y")
    store.record(empty, StatusChanged("stopped"))
    with pytest.raises(RunError, match="has no adapter to promote"):
        store.promote(empty, "production", why="y")
    store.record(failed, StatusChanged("failed", "out of memory"))
    with pytest.raises(RunError, match=f"run {failed} is failed"):
        store.promote(failed, "production", why="y", force=True)
    store.promote(nameless, "production", why="y", name="desk")
    assert store.get("desk@production").id == nameless
    with pytest.raises(RunError, match="is named desk and keeps that name"):
        store.promote(nameless, "candidate", why="y", name="other")
    with pytest.raises(RunError, match="desk@production is v1 already"):
        store.promote(nameless, "production", why="y")


@pytest.mark.parametrize("alias", ["", "v1", "Production", "../x", "a b", "a@b", "x" * 33, "<b>", "production\n"])
def test_an_alias_is_a_small_word(store: Store, alias: str) -> None:
    id = finish(store, "tickets")
    with pytest.raises(StoreError, match="cannot be an alias"):
        store.promote(id, alias, why="y")
    with pytest.raises(StoreError, match="cannot name a run"):
        store.promote(finish(store), "production", why="y", name=f"../{alias}")
    assert store.aliases() == []


def test_a_stopped_run_that_was_promoted_stays_as_it_is(store: Store) -> None:
    id = store.create("", method="lora", model="m", name="tickets")
    (store.folder_of(id) / "adapter").mkdir()
    (store.folder_of(id) / "adapter" / "weights").write_text("early")
    store.record(id, StatusChanged("stopped", "after step 5"))
    assert store.get(id).version is None
    assert store.promote(id, "candidate", why="good enough").version == 1
    with pytest.raises(StoreError, match=f"run {id} is tickets v1, which no longer changes"):
        store.claim(id)


def test_a_run_killed_when_all_but_done_can_be_promoted(store: Store, python: Python) -> None:
    code = "import sys; from peft_nb.store import lineage; from tests.stores import *\n"
    code += "import os; lineage.keep = lambda *_: os.kill(os.getpid(), 9); "
    code += "finish(Store(sys.argv[1]), 'tickets', facts=Facts(base='m 1a2b'))"
    assert python("-c", code, store.folder).wait() == -signal.SIGKILL
    (record,) = store.all()
    assert (record.status, record.version) == ("stopped", None)
    assert store.promote(record.id, "production", why="y").version == 1
    found = store.lineage("tickets@production")
    assert (found.base, len(found.files)) == ("m 1a2b", 2)


def test_removing_takes_the_folder_and_leaves_the_number_and_the_story(store: Store) -> None:
    first, second = (finish(store, "tickets", facts=Facts(base="m 1a2b")) for _ in range(2))
    store.promote(second, "production", why="better")
    child = store.create("", method="lora", model="m", parents=[first, second])
    store.record(first, Notice("a long story"))
    assert store.remove("tickets@v1", why="too old").id == first
    assert not store.folder_of(first).exists()
    assert first not in {record.id for record in store.all()}
    for word in (first, "tickets@v1"):
        with pytest.raises(
            StoreError, match=rf"^{word} was removed on {datetime.now(UTC):%Y-%m-%d}; %peft log {first}"
        ):
            store.get(word)
    assert store.get("tickets").version == 2
    assert finish(store, "tickets") == store.get("tickets@v3").id
    entry = store.log(first)[0]
    assert (entry.action, entry.name, entry.version, entry.why) == ("remove", "tickets", 1, "too old")
    assert [
        (parent.record.id, parent.record.removed is None, parent.base) for parent in store.lineage(child).parents
    ] == [(id, id == second, "m 1a2b") for id in sorted([first, second])]
    assert store.lineage("tickets@v1").record.removed
    assert [one.version for one in store.lineage(second).versions] == [1, 2, 3]
    assert_sound_without(store, child)


def assert_sound_without(store: Store, child: str) -> None:
    store.record(child, StatusChanged("stopped"))
    store.remove(child)
    assert_sound(store)


def test_what_an_alias_holds_or_a_process_works_on_is_not_removed(store: Store) -> None:
    id = finish(store, "tickets")
    store.promote(id, "production", why="y")
    store.promote(id, "candidate", why="y")
    with pytest.raises(
        RunError, match=rf"run {id} is tickets@candidate, tickets@production and stays; promote another"
    ):
        store.remove("tickets")
    active = store.create("", method="lora", model="m")
    with pytest.raises(RunError, match=f"run {active} is created, and a process is at work on it; stop it first"):
        store.remove(active)
    assert store.folder_of(id).is_dir()
    assert store.folder_of(active).is_dir()
    store.rollback("tickets@production")
    store.rollback("tickets@candidate")
    store.remove("tickets")
    with pytest.raises(StoreError, match="^tickets was removed"):
        store.remove("tickets")


def test_going_back_skips_what_was_removed(store: Store) -> None:
    first, second, third = (finish(store, "tickets") for _ in range(3))
    for id in (first, second, first, third):
        store.promote(id, "production", why="y")
    store.remove(second)
    assert [store.rollback("production").version for _ in range(2)] == [1, None]
    assert_sound(store)


def test_a_folder_that_cannot_go_leaves_everything_as_it_was(store: Store) -> None:
    id = finish(store, "tickets")
    (store.folder / "runs" / f".{id}.removed").write_text("in the way")
    with pytest.raises(StoreError, match=f"^cannot write .*{id}: a file stands where a folder is needed"):
        store.remove(id)
    assert store.folder_of(id).is_dir()
    assert store.get(id).version == 1


def test_a_disk_that_is_full_undoes_a_removal(store: Store) -> None:
    ids = [finish(store, "tickets") for _ in range(2)]
    ask(store, "PRAGMA wal_checkpoint(TRUNCATE)")
    with file_size_limit(2_000), pytest.raises(StoreError, match=r"^cannot use .*: the disk "):
        store.remove(ids[0])
    assert store.verify(ids[0]) == {}
    store.remove(ids[0])
    assert_sound(store)


def test_processes_at_once_lose_and_double_no_number(store: Store, python: Python) -> None:
    start = lambda i: python("-c", BUSY, store.folder, "tickets", 25, f"kernel{i}", stdin=subprocess.PIPE)  # noqa: E731
    processes = [start(i) for i in range(3)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(record.version or 0 for record in store.all()) == list(range(1, 76))
    assert {entry.why for entry in store.log() if entry.action == "promote"} == {
        f"kernel{i} {n}" for i in range(3) for n in range(25)
    }
    assert_sound(store)


@pytest.mark.exhaustive
def test_killed_at_any_moment_the_store_opens_clean(store: Store, python: Python) -> None:
    draw, ended = random.Random(0), 0
    for _ in range(6):
        process = python("-c", BUSY, store.folder, "tickets", 10_000, "endless", stdin=subprocess.PIPE)
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(draw.uniform(0.01, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        store.close()
        store = Store(store.folder)
        for record in store.all():  # one may have been killed before its end
            if record.status != "finished":
                ended += 1
                store.remove(record.id)
        assert_sound(store)
    assert len(store.log()) > 20


@pytest.mark.parametrize("what", ["finish", "promote", "rollback", "remove", "removed"])
def test_killed_at_the_worst_moment_everything_is_as_before_or_as_after(
    store: Store, python: Python, what: str
) -> None:
    first, second = finish(store, "tickets"), finish(store, "tickets")
    store.promote(first, "production", why="y")
    store.promote(second, "production", why="y")
    removable = finish(store, "tickets")
    acts = {
        "finish": "finish(store, 'tickets')",
        "promote": f"store.promote('{removable}', 'production', why='y')",
        "rollback": "store.rollback('production')",
        "remove": f"store.remove('{removable}')",
    }
    # The log's line comes last before the index commits, and a folder is deleted after that.
    place = "shutil.rmtree" if what == "removed" else "audit.append"
    code = f"""
import os, shutil, signal, sys
from peft_nb.store import audit
from tests.stores import *
store = Store(sys.argv[1])
{place} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
{acts.get(what, acts["remove"])}
"""
    log = store.log()
    assert python("-c", code, store.folder).wait() == -signal.SIGKILL
    again = Store(store.folder)
    assert again.log()[len(again.log()) - len(log) :] == log
    assert len(again.log()) == len(log) + (what == "removed")
    assert again.get("tickets@production").id == second
    assert again.folder_of(removable).exists() == (what != "removed")
    if what == "finish":
        (killed,) = (record for record in again.all() if record.status != "finished")
        again.remove(killed.id)
    assert_sound(again)


def test_names_from_elsewhere_lead_nowhere(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    id = finish(store, "tickets")
    for word in ("../outside", "tickets/../../outside", f"{id}/..", ".", "..", f".{id}.removed"):
        with pytest.raises(StoreError):
            store.remove(word)
    adapter = store.folder_of(id)
    adapter.rename(tmp_path / "moved")
    adapter.symlink_to(outside)
    with pytest.raises(StoreError, match="leads out of the store"):
        store.remove(id)
    assert (outside / "kept").exists()


def test_an_alias_shares_its_requests_until_that_is_rolled_back_or_promoted(store: Store) -> None:
    first, second = finish(store, "tickets"), finish(store, "tickets")
    with pytest.raises(RunError, match="tickets@production is no version yet to share requests with"):
        store.promote(second, "production", why="try", share=0.1)
    store.promote(first, "production", why="passed")
    with pytest.raises(RunError, match="tickets@production is v1 already"):
        store.promote(first, "production", why="again", share=0.1)
    for share in (0.0, 1.0, 10.0):
        with pytest.raises(StoreError, match="write one above 0% and below 100%"):
            store.promote(second, "production", why="try", share=share)
    for share in (0.1, 0.25):
        record = store.promote(second, "production", why="try it", share=share)
        assert (record.aliases, record.shares) == ((), {"production": share})
        assert [(one.id, part) for one, part in store.split("tickets@production")] == [
            (first, 1 - share),
            (second, share),
        ]
    assert store.get("tickets@production").id == first
    assert [(one.id, part) for one, part in store.split("tickets@v2")] == [(second, 1.0)]
    with pytest.raises(RunError, match=f"run {second} is tickets@production and stays"):
        store.remove(second)
    entry = store.log()[0]
    assert (entry.action, entry.version, entry.before, entry.share) == ("promote", 2, 1, 0.25)

    entry = store.rollback("production", why="complaints")
    assert (entry.action, entry.version, entry.before, entry.share, entry.run) == ("rollback", 1, 2, 0.25, first)
    assert [(one.id, part) for one, part in store.split("tickets@production")] == [(first, 1.0)]

    store.promote(second, "production", why="once more", share=0.5)
    store.promote(second, "production", why="won")
    assert [(one.id, part) for one, part in store.split("tickets@production")] == [(second, 1.0)]
    assert store.get(second).shares == {}
    assert store.rollback("production").version == 1  # what it held before, as ever
    assert_sound(store)
