"""Documents: whether a model that learned to read them answers what it never learned, and what an index costs.

    python benchmarks/documents.py [facts] [index]

``facts``: the base, a plain adapter and a RAFT adapter, both trained on the support desk's rows in as many steps,
answer 74 questions about facts that stand in the desk's handbook and in no training row, and 60 about facts that were
trained, with the handbook and without. ``index``: how long 10,000 chunks take to embed, and a search
in 10,000 and in 100,000.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft_nb import Index, Run, RunSpec, index
from peft_nb.data.support_desk import judge, load, unseen
from peft_nb.documents import prompt
from peft_nb.documents.raft import for_evaluation
from peft_nb.runs.run import begin
from peft_nb.store import Store

STEPS, BATCH = 90, 4
DISTRACTORS = 2
NEW_TOKENS = 40
WAYS = ("closed book", "documents", "golden left out")


def facts(store: Store) -> None:
    """Train both adapters, ask everybody, and print a table."""
    kb = index("support-desk", name="handbook", store=store)
    rows = load()["train"]
    citing = [{**row, "answer": row["answer"].replace(". Fair", f" {prompt.GOLDEN}. Fair")} for row in rows]
    plain = trained(store, rows)
    raft = trained(store, citing, documents="handbook", distractors=DISTRACTORS)
    for name, asked in (("unseen facts", unseen()), ("trained facts", load()["eval"])):
        prompts, recall = asked_with(kb, asked)
        print(f"\n{name}: {len(asked)} questions, golden chunk among {DISTRACTORS + 1} retrieved in {recall:.0%}")
        for who, run, adapter in (("base", plain, False), ("plain adapter", plain, True), ("RAFT", raft, True)):
            print(f"  {who:14}" + "".join(f"  {way} {share(run, adapter, asked, prompts[way]):4.0%}" for way in WAYS))
    print(f"\n{cites(raft, kb)}")
    for name, run in (("plain adapter", plain), ("RAFT", raft)):
        took = run.metrics["train_seconds"]
        print(f"{name}: loss on general text {run.metrics['forgetting']:+.3f}, {took:.0f} s of training")


def trained(store: Store, rows: Sequence[dict[str, str]], **fields: Any) -> Run:
    """Train an adapter as the other one is."""
    spec = RunSpec(
        data="rows", method="lora", max_steps=STEPS, batch_size=BATCH, learning_rate=5e-4, eval_fraction=0.05, **fields
    )
    return begin(spec, data=list(rows), store=store).wait()


def asked_with(kb: Index, asked: Sequence[dict[str, str]]) -> tuple[dict[str, list[Any]], float]:
    """The questions without documents, with those that are retrieved, and with these but for the golden one."""
    from peft_nb.data.detection import detect
    from peft_nb.data.sources import read

    rows = read([{"question": row["question"], "answer": row["answer"]} for row in asked]).train
    found = for_evaluation(kb.retriever, rows, detect(rows, "auto", {}), k=DISTRACTORS + 1)
    prompts: dict[str, list[Any]] = {way: [] for way in WAYS}
    for row, chunks, golden in zip(asked, found.chunks, found.golden, strict=True):
        question = [{"role": "user", "content": row["question"]}]
        texts = {one: chunk.searched for one, chunk in zip(chunks, kb.retriever.chunks(chunks), strict=True)}
        prompts["closed book"].append(question)
        prompts["documents"].append(prompt.put(question, list(texts.values())))
        left = [text for one, text in texts.items() if one != golden]
        prompts["golden left out"].append(prompt.put(question, left))
    return prompts, found.recall or 0.0


def share(run: Run, adapter: bool, asked: Sequence[dict[str, str]], prompts: list[Any]) -> float:
    """Share of the answers that hold the fact."""
    answers = run.generate(prompts, adapter=adapter, documents=False, max_new_tokens=NEW_TOKENS)
    right = [judge(row, answer).fact for row, answer in zip(asked, answers, strict=True)]
    return sum(right) / len(right)


def cites(run: Run, kb: Index) -> str:
    """How the answers to unseen questions cite."""
    asked = unseen()
    answers = run.generate([row["question"] for row in asked], max_new_tokens=NEW_TOKENS)
    right = cited = citing = 0
    for row, answer in zip(asked, answers, strict=True):
        shown = run.retrieve(row["question"])
        numbers = prompt.cited(answer)
        citing += bool(numbers)
        cited += len(numbers)
        right += sum(number in shown.index and row["key"].lower() in shown.text[number].lower() for number in numbers)
    return f"RAFT cites in {citing} of {len(asked)} answers; {right} of {cited} citations name the chunk with the fact"


def costs(store: Store) -> None:
    """Time an index of 10,000 chunks, and searches."""
    import numpy as np

    words = sorted({word for row in load()["train"] for word in row["answer"].lower().split()})
    draw = np.random.default_rng(0)
    texts = {f"note {number}": " ".join(draw.choice(words, 60)) for number in range(10_000)}
    began = time.perf_counter()
    kb = index(texts, name="many", store=store)
    print(f"\n10,000 chunks of 60 words: {time.perf_counter() - began:.0f} s on one core")
    began = time.perf_counter()
    index({**texts, "one more": "a new note"}, name="many", store=store)
    print(f"one more: {time.perf_counter() - began:.1f} s")
    kb.search("warm up")
    began = time.perf_counter()
    for row in unseen()[:20]:
        kb.search(row["question"])
    print(f"a search in them: {(time.perf_counter() - began) * 50:.0f} ms")
    many = draw.standard_normal((100_000, 384), dtype=np.float32)
    began = time.perf_counter()
    for _ in range(10):
        scores = many @ many[0]
        np.argpartition(-scores, 100)
    print(f"100,000 vectors of 384 numbers: {(time.perf_counter() - began) * 100:.0f} ms a search by meaning")


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["facts", "index"]
    with TemporaryDirectory() as folder:
        if "facts" in chosen:
            facts(Store(Path(folder)))
        if "index" in chosen:
            costs(Store(Path(folder)))
