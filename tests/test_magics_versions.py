from __future__ import annotations

import io
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import InteractiveShell

import peft_nb
from peft_nb.errors import CommandError, RunError, StoreError
from peft_nb.events import StatusChanged
from peft_nb.magics.completion import complete
from peft_nb.spec import RunSpec
from peft_nb.store import Evaluation, Facts, Store
from peft_nb.ui import runs
from peft_nb.ui.lineage import tree
from tests.conftest import Python
from tests.shell import refused, run
from tests.stores import ask, finish

SPEC = RunSpec(data="tickets.csv").to_yaml()
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def store(shell: InteractiveShell) -> Store:
    return Store()


def tags(html: str) -> set[str]:
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.add(tag)  # type: ignore[method-assign]
    parser.feed(html)
    return found


def test_promoted_regretted_and_rolled_back(
    shell: InteractiveShell, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (finish(store, "tickets", SPEC) for _ in range(2))
    for line in (
        f"promote {first} production --why 'the first that passed'",
        'promote tickets production --why "better on refunds"',
        "rollback production --why='too curt'",
    ):
        run(shell, f"%peft {line}")
    told = ["(none) → v1", "v1 → v2", "v2 → v1"]
    assert capsys.readouterr().out.splitlines() == [f"tickets@production: {change}" for change in told]
    assert peft_nb.load("tickets@production").id == first
    assert peft_nb.load("tickets@v2").id == peft_nb.load("tickets").id == second
    log = run(shell, "%peft log tickets")
    assert list(log.action) == ["rollback", "promote", "promote", "version", "version"]
    assert list(log.what[:3]) == [f"tickets@production: {change}" for change in reversed(told)]
    assert list(log.why[:3]) == ["too curt", "better on refunds", "the first that passed"]
    assert log.what.iloc[-1] == f"{first} is tickets v1"
    listed = run(shell, "%peft runs")
    assert listed.loc[first, ["name", "version", "aliases"]].tolist() == ["tickets", "v1", "production"]
    assert listed.loc[second, ["version", "aliases"]].tolist() == ["v2", ""]


def test_an_alias_is_shared_between_two_versions(
    shell: InteractiveShell, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (finish(store, "tickets", SPEC) for _ in range(2))
    run(shell, f"%peft promote {first} production --why passed")
    capsys.readouterr()
    run(shell, f"%peft promote {second} production --share 10% --why 'try it'")
    told = "tickets@production: v2 for 10 % of requests, v1 for the others\n"
    assert capsys.readouterr().out == told
    assert "@production 10 %" in runs.COLUMNS["version"].cell(store.get(second))
    assert "production 10 %" in peft_nb.runs().aliases.tolist()
    assert "tickets v2 · " in (drawn := repr(tree(store.lineage(second))))
    assert "production 10 %" in drawn
    run(shell, "%peft rollback production")
    assert capsys.readouterr().out == "tickets@production: v1 for all requests; v2 had 10 %\n"
    for share in ("10", "ten%", "10%%", "%"):
        said = refused(shell, f"%peft promote {second} production --share {share} --why x", CommandError)
        assert said == f"--share {share}: not a share; write a percentage such as 10%"


def test_a_variable_names_a_run_without_a_name(
    shell: InteractiveShell, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = Store(tmp_path / "elsewhere")
    shell.user_ns["desk"] = peft_nb.load(finish(elsewhere, None, SPEC), store=elsewhere)
    shell.user_ns["other"] = peft_nb.load(finish(elsewhere, None, SPEC), store=elsewhere)
    run(shell, "%peft promote desk production --why good")
    run(shell, "%peft promote other candidate --name desk --why 'not bad'")
    assert capsys.readouterr().out.splitlines() == ["desk@production: (none) → v1", "desk@candidate: (none) → v2"]
    assert (shell.user_ns["desk"].version, shell.user_ns["other"].version) == ("desk v1", "desk v2")
    assert store.all() == []
    assert repr(run(shell, "%peft lineage desk")).startswith(f"desk v1 · {shell.user_ns['desk'].id} · production\n")
    assert len(run(shell, "%peft log other")) == 2
    shell.user_ns["other"].promote("production", why="better")
    assert elsewhere.get("desk@production").version == 2


def test_a_failed_verdict_needs_force_and_a_reason(
    shell: InteractiveShell, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    id = finish(store, "tickets", SPEC, verdict="failed: forgets 0.4 nats")
    said = refused(shell, "%peft promote tickets production --why 'I like it'", RunError)
    assert said == (
        f"run {id} was not promoted: its verdict is: failed: forgets 0.4 nats; "
        "add --force (force=True) to promote it anyway"
    )
    assert refused(shell, "%peft promote tickets production --force", StoreError).startswith(
        "a promotion needs a reason"
    )
    run(shell, "%peft promote tickets production --force --why demo")
    assert list(run(shell, "%peft log").forced)[:1] == ["its verdict is: failed: forgets 0.4 nats"]


def nobody_to_ask(prompt: str) -> str:
    """Stand in for a kernel's input() where nbconvert runs the notebook."""
    raise StdinNotImplementedError


def test_removed_when_agreed_and_only_without_an_alias(
    shell: InteractiveShell, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = finish(store, "tickets", SPEC)
    run(shell, "%peft promote tickets production --why y")
    assert refused(shell, "%peft rm tickets@v1", RunError).startswith(f"run {id} is tickets@production and stays; ")
    run(shell, "%peft rollback tickets@production")
    assert capsys.readouterr().out.splitlines()[-1] == "tickets@production: v1 → (none)"
    what = "Remove tickets v1 (finished) with its folder, adapter and curve, but not its log?"
    nothing = "nothing is removed; with --yes it is removed without asking\n"
    with monkeypatch.context() as patch:
        patch.setattr("builtins.input", nobody_to_ask)
        run(shell, "%peft rm tickets")
    assert capsys.readouterr().out == f"{what}\n{nothing}"
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\ny\n"))
    run(shell, "%peft rm tickets")
    assert capsys.readouterr().out == f"{what} y/[n] {nothing}"
    assert store.get(id).removed is None
    run(shell, "%peft rm tickets --why 'nobody uses it'")
    assert capsys.readouterr().out.splitlines()[-1].endswith("tickets v1 is removed")
    assert store.log()[0].why == "nobody uses it"
    assert len(run(shell, "%peft runs")) == 0
    assert run(shell, f"%peft log {id}").action[0] == "remove"
    assert f"· removed {store.log()[0].at:%Y-%m-%d}" in repr(run(shell, "%peft lineage tickets@v1"))


def test_rows_that_no_run_uses_are_listed_and_removed(
    shell: InteractiveShell, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(store, "tickets", SPEC)
    assert refused(shell, "%peft rm", CommandError).startswith("name one run, or write --unused")
    assert refused(shell, "%peft rm tickets --unused", CommandError).startswith("name one run, or write --unused")
    (store.folder / "examples" / "orphan").mkdir(parents=True)
    (store.folder / "examples" / "orphan" / "ids.npy").write_bytes(b"1" * 2_000_000)
    listed = run(shell, "%peft runs")
    for said in (repr(listed), listed._repr_html_()):
        assert "MB of encoded rows (2 MB used by no run; %peft rm --unused removes them)" in said
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    run(shell, "%peft rm --unused")
    assert "Remove 2 MB of encoded rows that no run uses? y/[n] \nnothing is removed" in capsys.readouterr().out
    assert (store.folder / "examples" / "orphan").exists()
    run(shell, "%peft rm --unused --yes")
    assert capsys.readouterr().out.splitlines()[-1] == "removed 2 MB of encoded rows that no run uses"
    assert repr(run(shell, "%peft runs")).splitlines()[-1].startswith("on disk: ")


def test_a_changed_or_missing_file_is_told(
    shell: InteractiveShell, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no run in the store has finished yet" in refused(shell, "%peft verify")
    for _ in range(2):
        finish(store, "tickets", SPEC)
    adapter = store.get("tickets@v1").folder / "adapter"
    (adapter / "adapter_model.safetensors").write_text("other weights")
    (adapter / "deep" / "adapter_config.json").unlink()
    capsys.readouterr()
    run(shell, "%peft verify")
    damage = "adapter_model.safetensors is changed, deep/adapter_config.json is missing"
    assert capsys.readouterr().out.splitlines() == [
        "tickets v2: 2 files, unchanged",
        f"tickets v1: {damage}",
        "log: 2 lines, unchanged",
    ]
    run(shell, "%peft verify tickets@v2")
    assert capsys.readouterr().out == "tickets v2: 2 files, unchanged\nlog: 2 lines, unchanged\n"
    assert f"\n├─ files: {damage}\n" in repr(run(shell, "%peft lineage tickets@v1"))


def test_a_changed_line_of_the_log_is_told(
    shell: InteractiveShell, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(store, "tickets", SPEC)
    run(shell, '%peft promote tickets production --why "better"')
    ask(store, "DROP TRIGGER audit_is_not_changed")
    ask(store, "UPDATE audit SET why = 'worse' WHERE action = 'promote'")
    capsys.readouterr()
    run(shell, "%peft verify tickets")
    assert "\nlog: not what was written, from the line of 20" in (said := capsys.readouterr().out)
    assert said.endswith(f"on (promote by {store.log()[0].who})\n")


def test_two_people_approve_what_a_policy_demands(
    shell: InteractiveShell, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(store, "tickets", SPEC, verdict="passed: 1 criterion")
    run(shell, '%peft policy production --approvers 2 --why "two of us look at it"')
    needs = "needs a verdict that passed, 2 approvals; anybody may promote"
    assert capsys.readouterr().out == f"production: {needs}\n"
    assert run(shell, "%peft policy").to_dict("records") == [{"alias": "production", "policy": needs}]
    assert len(run(shell, "%peft policy candidate")) == 0
    assert "needs 2 approvals by others" in refused(shell, '%peft promote tickets production --why "better"')
    capsys.readouterr()
    run(shell, '%peft approve tickets@v1 --as Anna --why "read 40 answers"')
    run(shell, '%peft approve tickets --as Cem --why "numbers are fine"')
    run(shell, "%peft approve tickets --as Anna --withdraw")
    assert capsys.readouterr().out.splitlines() == [
        "tickets v1 is approved by Anna",
        "tickets v1 is approved by Cem",
        "tickets v1 is no longer approved by Anna",
    ]
    assert "it has 1 (Cem)" in refused(shell, '%peft promote tickets production --why "better"')
    capsys.readouterr()
    run(shell, '%peft policy production --remove --why "Anna is ill"')
    run(shell, '%peft promote tickets production --why "better"')
    assert capsys.readouterr().out.splitlines()[0] == "production: no policy any more"
    table = run(shell, "%peft log")
    assert "tickets v1 is approved by Cem" in table.what.tolist()
    assert "a policy cannot need 'probes'; did you mean 'probe'?" in refused(
        shell, "%peft policy production --needs probes --why x"
    )
    assert "an approval needs the name of the person" in refused(shell, "%peft approve tickets --why x")


def test_a_checklist_is_filled_shown_and_written(shell: InteractiveShell, store: Store) -> None:
    finish(store, "tickets", SPEC)
    made = run(shell, "%peft checklist tickets --for gdpr --to gdpr.md")
    assert "GDPR: tickets v1" in repr(made)
    assert Path("gdpr.md").read_text() == made.made.to_markdown()
    run(shell, "%peft checklist tickets --for gdpr --to gdpr.html")
    assert Path("gdpr.html").read_text() == made._repr_html_()
    assert "there is no checklist 'gpdr'; did you mean 'gdpr'?" in refused(shell, "%peft checklist tickets --for gpdr")
    assert "eu-ai-act" in complete("%peft checklist tickets --for e", 0, 31, {}).matches
    assert "not looked through: tickets v1" in repr(run(shell, '%peft forget --person "Anna Berg"'))
    assert "too short" in refused(shell, "%peft forget")


def test_the_lineage_is_a_tree_of_all_that_is_known(shell: InteractiveShell, store: Store) -> None:
    facts = {
        "base": "smollm2-135m (bundled) 1a2b",
        "base_hash": "ab" * 32,
        "data": "a.csv, 9 rows",
        "fingerprint": "cd" * 32,
    }
    parent = finish(store, "tickets", SPEC, Facts(**facts), verdict="passed: 3 of 3")
    child = store.create(SPEC, method="lora", model="m", name="both", parents=[parent])
    measured = [Evaluation("regression", "loss_rise", 0.0125, 0.01, 0.015), Evaluation("cost", "peak_memory_mb", 1626)]
    store.evaluate(child, measured)
    store.record(child, StatusChanged("failed", "out of memory"))
    store.promote(parent, "production", why="y")
    packages = ", ".join(f"{name} {version}" for name, version in store.get(parent).package_versions.items())
    drawn = repr(run(shell, f"%peft lineage {child}")).splitlines()
    made = f"created: {store.get(child).created.astimezone():%Y-%m-%d %H:%M} by lora, "
    spec = store.lineage(parent).spec_hash[:12]
    assert drawn == [
        f"{child} · both",
        f"├─ {made}failed: out of memory",
        "├─ base: m",
        f"├─ spec: {spec}",
        f"├─ packages: {packages}",
        "├─ evaluated",
        "│  ├─ resources: peak memory 1.6 GB",
        "│  └─ general text: loss rise 0.0125 (0.01 to 0.015)",
        "└─ created from",
        f"   └─ tickets v1 · {parent} · production",
        f"      ├─ {made}finished",
        "      ├─ verdict: passed: 3 of 3",
        "      ├─ base: smollm2-135m (bundled) 1a2b; weights abababababab",
        "      ├─ data: a.csv, 9 rows; content cdcdcdcdcdcd",
        f"      ├─ spec: {spec}",
        f"      ├─ packages: {packages}",
        "      └─ files: 2 files, unchanged",
    ]
    upwards = repr(run(shell, "%peft lineage tickets")).splitlines()
    assert upwards[-4:] == [
        "├─ came of it",
        f"│  └─ {child} · both",
        "└─ versions of tickets",
        f"   └─ tickets v1 · {parent} · production",
    ]


def test_foreign_words_are_escaped(shell: InteractiveShell, store: Store) -> None:
    facts = Facts(base=HOSTILE, data=HOSTILE, fingerprint=HOSTILE)
    id = finish(store, "tickets", SPEC, facts, verdict=f"passed: {HOSTILE}")
    store.evaluate(id, [Evaluation(HOSTILE, HOSTILE, 1.0)])
    (store.folder_of(id) / "adapter" / HOSTILE.replace("/", "")).write_text("x")
    store.seal(id, why=HOSTILE)
    (store.folder_of(id) / "adapter" / HOSTILE.replace("/", "")).unlink()
    store.promote(id, "production", why=HOSTILE, force=True)
    tree, log = run(shell, "%peft lineage tickets"), run(shell, "%peft log")
    assert HOSTILE in repr(tree)
    assert tags(tree._repr_html_()) == {"div", "ul", "li", "span"}
    assert HOSTILE in set(log.why)
    assert "script" not in tags(log._repr_html_())
    assert "&lt;script&gt;" in tree._repr_html_()


def test_a_name_means_its_run_in_progress_where_that_is_meant(shell: InteractiveShell, store: Store) -> None:
    finish(store, "tickets", SPEC)
    stopped = store.create(SPEC, method="lora", model="m", name="tickets")
    store.record(stopped, StatusChanged("stopped"))
    assert refused(shell, "%peft stop tickets", RunError).startswith(
        f"run {stopped} is stopped, and this kernel is not"
    )
    assert peft_nb.load("tickets").version == "tickets v1"
    assert peft_nb.load(stopped).version is None


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("promote tickets", CommandError, 'something is missing; write %peft promote RUN ALIAS --why "TEXT" [--name'),
        ("promote tickets production", StoreError, "a promotion needs a reason for the log"),
        ("promote tickets production --why too few quotes", CommandError, "few: unexpected; write %peft promote RUN"),
        ("promote tickts production --why y", StoreError, "there is no run 'tickts'"),
        ("promote tickets v1 --why y", StoreError, "'v1' cannot be an alias"),
        ("promote tickets production --why y --name a/b", StoreError, "'a/b' cannot name a run"),
        ("promote tickets production --why y --name other", RunError, "is named tickets and keeps that name"),
        ("rollback prod", StoreError, "there is no alias 'prod'"),
        ("log tickts", StoreError, "did you mean 'tickets'?"),
        ("lineage tickets@v2", StoreError, "did you mean 'tickets@v1'?"),
        ("verify nothing", StoreError, "there is no run 'nothing'"),
        ("rm ../tickets", StoreError, "there is no run '../tickets'"),
        ("rm --all", CommandError, "--all: %peft rm has no such flag"),
    ],
)
def test_a_mistake_is_one_line(shell: InteractiveShell, store: Store, line: str, kind: type, said: str) -> None:
    finish(store, "tickets", SPEC)
    assert said in refused(shell, f"%peft {line}", kind)


@pytest.mark.parametrize(
    ("cell", "offered"),
    [
        ("%peft promote ti", ["tickets", "tickets@beta"]),
        ("%peft promote tickets ", ["beta", "production", "candidate"]),
        ("%peft promote tickets beta --", ["--why", "--name", "--share", "--force"]),
        ("%peft rollback ", ["tickets@beta"]),
        ("%peft load tickets@", ["tickets@beta"]),
    ],
)
def test_tab_knows_names_and_aliases(shell: InteractiveShell, store: Store, cell: str, offered: list[str]) -> None:
    store.promote(finish(store, "tickets", SPEC), "beta", why="y")
    assert complete(cell, 0, len(cell), {}).matches == offered


LATER = """
import peft_nb
from peft_nb.store import Store
run, origin = peft_nb.load("tickets@production"), Store().lineage("tickets@production")
print(run.version, origin.base_hash, run.generate("Where is my parcel?", max_new_tokens=4))
"""


@pytest.mark.exhaustive
def test_trained_promoted_regretted_and_found_by_another_process(
    shell: InteractiveShell, store: Store, base: Path, rows_file: Path, python: Python
) -> None:
    for seed in (1, 2):
        body = f"max_steps: 2\nbatch_size: 5\nlearning_rate: 1e-2\nseed: {seed}\nname: tickets\ndtype: float32\n"
        run(shell, f"%%peft lora --data {rows_file} --model {base} --out run{seed}\n{body}")
        run(shell, f"%peft promote run{seed} production --why 'seed {seed}'")
    run(shell, "%peft rollback production --why 'the first was better'")
    first, second = shell.user_ns["run1"], shell.user_ns["run2"]
    answer = first.generate("Where is my parcel?", max_new_tokens=4)
    told = python("-c", LATER, cwd=Path.cwd()).communicate()[0]
    assert told == f"tickets v1 {first.facts.base_hash} {answer}\n"
    mine, other = store.lineage(first.id), store.lineage(second.id)
    assert (mine.base, mine.base_hash, mine.data_fingerprint) == (other.base, other.base_hash, other.data_fingerprint)
    assert mine.spec_hash != other.spec_hash
    assert mine.damage == other.damage == {}
