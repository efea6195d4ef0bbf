"""Policies: what a run needs before an alias stands for it, and the people who say so."""

from __future__ import annotations

import getpass

import pytest

from peft_nb.errors import RunError, StoreError
from peft_nb.store import Store
from peft_nb.store.policies import Policy
from tests.stores import finish, new

HIGH = 'data: rows\nuse:\n  purpose: answers\n  risk: high\n  human_oversight: "two people read each answer"\n'


@pytest.fixture(autouse=True)
def me(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "robin")


def test_promotion_waits_for_a_verdict_and_two_people(store: Store) -> None:
    store.set_policy("production", approvers=2, why="two of us look at it")
    assert store.policies() == {"production": Policy(("verdict", "approval"), 2, ())}
    id = finish(store, "tickets", verdict="passed: 1 criterion")
    needs = "the policy of production needs 2 approvals by others than robin"
    with pytest.raises(RunError, match=f"run {id} was not promoted to production: {needs}, and it has none"):
        store.promote("tickets", "production", why="better", force=True)
    store.approve("tickets", "Anna  Berg", why="read 40 answers")
    store.approve("tickets", "Robin", why="I made it")  # whoever promotes does not count
    with pytest.raises(RunError, match="anna berg has approved tickets v1 already"):
        store.approve("tickets@v1", "anna berg", why="again")
    with pytest.raises(RunError, match=r"needs 2 approvals .* and it has 1 \(Anna Berg\); see %peft approve"):
        store.promote("tickets", "production", why="better")
    store.approve("tickets", "Cem", why="numbers are fine")
    assert store.approvals("tickets") == ["Anna Berg", "Robin", "Cem"]
    assert store.promote("tickets", "production", why="better").aliases == ("production",)
    assert [(entry.action, entry.named) for entry in store.log("tickets")][:2] == [
        ("promote", None),
        ("approve", "Cem"),
    ]


def test_an_approval_ends_when_it_is_withdrawn_or_the_files_change(store: Store) -> None:
    id = finish(store, "tickets")
    store.approve(id, "Anna", why="fine")
    store.withdraw(id, "ANNA", why="not so fine")
    assert store.approvals(id) == []
    with pytest.raises(RunError, match="Anna has not approved tickets v1"):
        store.withdraw(id, "Anna")
    store.approve(id, "Anna", why="fine again")
    (store.folder_of(id) / "adapter" / "adapter_model.safetensors").write_text("others")
    with pytest.raises(RunError, match="was not approved: adapter_model.safetensors is changed"):
        store.approve(id, "Cem", why="fine")
    store.seal(id, why="written anew")
    assert store.approvals(id) == []


@pytest.mark.parametrize("verdict", ["failed: eval_loss 3, wanted < 2", None])
def test_a_verdict_that_is_needed_cannot_be_forced(store: Store, verdict: str | None) -> None:
    store.set_policy("production", needs=["verdict"], why="tests first")
    finish(store, "tickets", **({"verdict": verdict} if verdict else {}))
    with pytest.raises(RunError, match=f"needs a verdict that passed, and it has {verdict or 'none'}"):
        store.promote("tickets", "production", why="hurry", force=True)
    assert store.promote("tickets", "candidate", why="to try", force=True).aliases == ("candidate",)
    store.drop_policy("production", why="we are in a hurry")
    store.promote("tickets", "production", why="hurry", force=True)
    assert store.policies() == {}


def test_a_probe_that_is_needed_is_one_of_the_files_as_they_are(store: Store) -> None:
    store.set_policy("production", needs=["verdict", "probe"], why="look first")
    assert str(store.policies()["production"]) == "needs a verdict that passed, a probe; anybody may promote"
    id = finish(store, "tickets", verdict="passed: 1 criterion")
    with pytest.raises(RunError, match="needs a probe, and it has none of its files as they are; %peft probe"):
        store.promote("tickets", "production", why="better", force=True)
    entry = store.probed(id, "8 probes: no change")
    assert (entry.action, entry.name, entry.version) == ("probe", "tickets", 1)
    store.promote("tickets", "production", why="better")
    (store.folder_of(id) / "adapter" / "adapter_model.safetensors").write_text("others")
    store.seal(id, why="written anew")
    with pytest.raises(RunError, match="needs a probe"):
        store.promote("tickets", "production", why="again")


def test_only_some_accounts_may_promote(store: Store) -> None:
    store.set_policy("production", needs=[], promoters=["anna", "cem"], why="on call")
    finish(store, "tickets")
    with pytest.raises(RunError, match="lets anna or cem promote, and this account is robin"):
        store.promote("tickets", "production", why="better")
    store.set_policy("production", needs=[], promoters=["robin"], why="on call now")
    store.promote("tickets", "production", why="better")
    told = [entry.rule for entry in store.log() if entry.action == "policy"]
    assert ['"cem"' in str(rule) for rule in told] == [False, True]


def test_a_use_of_high_risk_needs_oversight_and_a_person_without_any_policy(store: Store) -> None:
    finish(store, "triage", spec_yaml=HIGH)
    with pytest.raises(
        RunError, match="its use, of high risk, needs an approval by others than robin, and it has none"
    ):
        store.promote("triage", "production", why="better", force=True)
    store.approve("triage", "Anna", why="read 40 answers")
    store.promote("triage", "production", why="better")
    finish(store, "blind", spec_yaml=HIGH.replace("  human_oversight", "  affected"))
    store.approve("blind", "Anna", why="read 40 answers")
    with pytest.raises(RunError, match="says nothing of human_oversight; train it with use:"):
        store.promote("blind", "production", why="better")


def test_mistakes_are_one_line_and_change_nothing(store: Store) -> None:
    finish(store, "tickets")
    for act, said in (
        (lambda: store.set_policy("production", why=" "), "a policy needs a reason"),
        (
            lambda: store.set_policy("production", needs=["verdit"], why="x"),
            r"cannot need 'verdit'; did you mean 'verdict'",
        ),
        (lambda: store.set_policy("production", approvers=0, why="x"), "approvers: 0; write 1 or more"),
        (lambda: store.set_policy("production", needs=["verdict"], approvers=2, why="x"), "no approval is needed"),
        (lambda: store.set_policy("production", needs=[], why="x"), "the policy demands nothing"),
        (lambda: store.drop_policy("production", why="x"), "production has no policy"),
        (lambda: store.approve("tickets", " ", why="x"), "needs the name of the person"),
        (lambda: store.approve("tickets", "Anna", why=""), "needs a reason for the log"),
        (lambda: store.approve(new(store), "Anna", why="x"), "only a run that has ended well can be approved"),
    ):
        with pytest.raises((StoreError, RunError), match=said):
            act()
    assert store.policies() == {}
    assert [entry.action for entry in store.log()] == ["version"]
