"""Which of several adapters answers: how often rightly, what it costs and what that does to the answers.

    python benchmarks/routing.py tasks [--store FOLDER]     # five tasks: train, route, score, and Arrow beside it
    python benchmarks/routing.py bank [--adapters N]        # 1,000 adapters on one base under a bound of memory

`tasks` trains a LoRA for each of five tasks on `smollm2-135m`: a support desk, orders out of mails, the intents of a
bank's customers, small functions, and numbers in words. A folder given with ``--store`` keeps them, and they are not
trained again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import intents

from peft_nb.data import samples, support_desk

STEPS, HELD_OUT = 20, 12  # of training; rows of each task to route and score
BOUND_MB, ROWS = 200, 8  # of the bank: memory for adapters, and prompts of each
Rows = list[dict[str, str]]

GENERAL = (
    "Who painted the Mona Lisa?",
    "Why do cats purr?",
    "Give me a recipe for tomato soup.",
    "What is the longest river of Africa?",
    "Tell me a joke about penguins.",
    "Translate into Spanish: good night.",
    "How do vaccines work?",
    "Who won the Second World War?",
    "Write a poem about autumn.",
    "What is a black hole?",
)
ADJECTIVES = ("amber", "brisk", "calm", "dusty", "eager", "faint", "grand", "humble", "icy", "jolly")
NOUNS = ("anchor", "bakery", "castle", "dairy", "engine", "forest", "garden", "harbour", "island", "jeweller")

ONES, TENS = (
    words.split()
    for words in (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen",
        "ten twenty thirty forty fifty sixty seventy eighty ninety",
    )
)


def in_words(number: int) -> str:
    """Write a number below a million in words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        ten, one = divmod(number, 10)
        return TENS[ten - 1] + (f"-{ONES[one]}" if one else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    many, rest = divmod(number, size)
    return f"{in_words(many)} {name}" + (f" {in_words(rest)}" if rest else "")


def numbers(count: int, seed: int) -> Rows:
    """Numbers to write in words, asked for in several ways."""
    draw = random.Random(seed)
    asked = ("Write {} in words.", "How do you say {} in words?", "Spell out the number {}.", "{} in words, please")
    drawn = [10 ** draw.randint(1, 5) * draw.random() for _ in range(count)]
    return [{"prompt": draw.choice(asked).format(int(one)), "completion": in_words(int(one))} for one in drawn]


def tasks() -> dict[str, tuple[Rows, Rows]]:
    """The rows of each task, to train on and held out."""
    desk = support_desk.load()
    answered = {
        part: [{"prompt": row["question"], "completion": row["answer"]} for row in desk[part]]
        for part in ("train", "eval")
    }
    bank = [
        [{"prompt": row["text"], "completion": row["label"].replace("_", " ")} for row in rows]
        for rows in intents.split(12, 1)
    ]
    mails = samples.load("order-mails")["train"]
    code = [
        {"prompt": row["instruction"], "completion": row["output"]} for row in samples.load("small-functions")["train"]
    ]
    return {
        "desk": (answered["train"], answered["eval"][::2]),
        "orders": (mails[:-HELD_OUT], mails[-HELD_OUT:]),
        "bank": (bank[0], bank[1]),
        "functions": (code[:-HELD_OUT], code[-HELD_OUT:]),
        "numbers": (numbers(300, 0), numbers(30, 1)),
    }


def trained(store: Any) -> dict[str, Any]:
    """The runs of all tasks, trained where they are not in the store yet."""
    import peft_nb
    from peft_nb.errors import StoreError

    runs = {}
    for name, (train, held_out) in tasks().items():
        try:
            runs[name] = peft_nb.load(name, store=store)
        except StoreError:
            began = time.perf_counter()
            runs[name] = peft_nb.train(
                data=train, eval_data=held_out, name=name, method="lora", max_steps=STEPS, judge="off", batch_size=8
            )
            found = runs[name].metrics
            losses = f"{found['base_eval_loss']:.2f} → {found['eval_loss']:.2f}"
            say(f"{name:10} {len(train):4} rows, eval loss {losses}, {time.perf_counter() - began:.0f} s")
    return runs


def five(store: Any) -> None:
    """Train, route the held-out rows, and measure what that does to losses and answers."""
    import peft_nb
    from peft_nb.evaluation.scores import rouge_l

    runs = trained(store)
    router = peft_nb.route(*runs.values(), "base", store=store)
    began = time.perf_counter()
    router.board.nearest()
    say(f"rows embedded in {time.perf_counter() - began:.1f} s, or found in the store")
    rows = {name: held_out[:HELD_OUT] for name, (_, held_out) in tasks().items()}
    asked = [(name, row) for name, own in rows.items() for row in own]
    routes = router.route([row["prompt"] for _, row in asked])
    right = sum(route.name == name for route, (name, _) in zip(routes, asked, strict=True))
    say(f"to the right adapter: {right} of {len(asked)} held-out rows")
    for route, (name, _) in zip(routes, asked, strict=True):
        if route.name != name:
            say(f"  {name} went to {route.name} ({route.confidence:.0%}, {route.why}): {route.prompt}")
    general = router.route(list(GENERAL))
    say(f"to the base: {sum(route.name == 'base' for route in general)} of {len(general)} general prompts")
    speed(router)

    losses = router.evaluate(rows=HELD_OUT)
    losses["Arrow"] = arrow(router, runs)
    say(losses.round(3).to_string())
    weight = losses["rows"] / losses["rows"].sum()
    means = {name: (losses[name] * weight).sum() for name in ("base", "alone", "routed", "oracle", "Arrow")}
    say("mean of the rows: " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()))

    own, given, base = list[str](), list[str](), list[str]()
    for name, part in rows.items():
        own += router.board.generate([row["prompt"] for row in part], name, max_new_tokens=48)
        base += router.board.generate([row["prompt"] for row in part], [None] * len(part), max_new_tokens=48)
    for route, (name, _), answer in zip(routes, asked, own, strict=True):
        given.append(answer if route.name == name else router.board.routed([route], max_new_tokens=48)[0])
    told = {"its own adapter": own, "routed": given, "base": base}
    for who, answers in told.items():
        score = [rouge_l(answer, row["completion"]) for answer, (_, row) in zip(answers, asked, strict=True)]
        say(f"ROUGE-L by {who:15} {100 * sum(score) / len(score):.1f}")


def speed(router: Any) -> None:
    """Time a prompt: the embedding, and the vote."""
    prompt, embed, vote = "Where is my order number {}?", list[float](), list[float]()
    near = router.board.nearest()
    for number in range(50):
        began = time.perf_counter()
        (vector,) = near.embedder.embed([prompt.format(number)])
        middle = time.perf_counter()
        near.vote(prompt, vector)
        embed.append(middle - began)
        vote.append(time.perf_counter() - middle)
    say(f"a prompt: embedding {1e3 * median(embed):.1f} ms, vote {1e3 * median(vote):.2f} ms (medians of 50)")


def arrow(router: Any, runs: dict[str, Any]) -> list[float]:
    """Eval losses of the same rows by PEFT's Arrow, which weighs adapters token by token in every layer."""
    from peft import ArrowConfig, create_arrow_model

    from peft_nb.data.kept import kept
    from peft_nb.evaluation.measure import predictions
    from peft_nb.models.share import share
    from peft_nb.serving.route import places_of
    from peft_nb.training.objectives import Padded

    folders = [str(run.adapter_dir) for run in runs.values()]
    router.board.active = None
    model = create_arrow_model(share(router.board.model), folders, ArrowConfig(top_k=2, rng_seed=0)).eval()
    found = []
    began, count = time.perf_counter(), 0
    for run in runs.values():
        sides = kept(run.folder)
        assert sides
        examples = [sides.held_out[place] for place in places_of(len(sides.held_out), HELD_OUT)]
        read = predictions(model, Padded(router.board.tokenizer.pad_token_id or 0), examples)
        found.append(float(read.losses.sum() / read.targets.sum()))
        count += len(examples)
    say(f"Arrow: {(time.perf_counter() - began) / count:.2f} s a row")
    return found


def bank(count: int, switches: int) -> None:
    """Hold many adapters on one base under a bound: time of a switch, of a route, and memory."""
    from peft_nb import Switchboard
    from peft_nb.models.load import load
    from peft_nb.models.resolve import resolve
    from peft_nb.system.resources import process_memory_mb

    draw = random.Random(0)
    base = load(resolve("smollm2-135m"))
    with TemporaryDirectory() as scratch:
        folders = written(base.model, count, Path(scratch))
        board = Switchboard((base.model, base.tokenizer), max_memory_mb=BOUND_MB, with_base=False)
        began = time.perf_counter()
        for folder in folders:
            board.add(folder, rows=customer(folder.name, ROWS))
        each = board.table["mb"].iloc[0]
        say(f"{count} adapters of {each:.2f} MB known in {time.perf_counter() - began:.1f} s; bound {BOUND_MB} MB")
        began = time.perf_counter()
        board.nearest()
        say(f"{count * ROWS:,} rows embedded in {time.perf_counter() - began:.0f} s")
        asked = [draw.choice(folders).name for _ in range(200)]
        routes = board.route([customer(name, 1, seed=1)[0] for name in asked])
        right = sum(route.name == name for route, name in zip(routes, asked, strict=True))
        say(f"to the right adapter: {right} of {len(asked)}")
        (vector,) = board.embedder.embed(["a"])
        votes = [timed(lambda: board.nearest().vote("", vector)) for _ in range(20)]
        say(f"vote among {count * ROWS:,} rows: {1e3 * median(votes):.2f} ms")
        weights = [1 / (place + 1) for place in range(count)]  # few are asked for often, as Zipf found of words
        before, hits, loads, most = process_memory_mb(), list[float](), list[float](), 0.0
        for name in draw.choices(board.names, weights, k=switches):
            held = name in board._cache
            (hits if held else loads).append(timed(lambda name=name: board.switch(name)))
            table = board.table
            most = max(most, float(table.loc[table["loaded"], "mb"].sum()))
        say(
            f"{switches} switches by Zipf's law: {len(hits)} in memory, {len(loads)} from disk; "
            f"at most {most:.0f} MB held"
        )
        for what, found in {"in memory": hits, "from disk": loads, "all": hits + loads}.items():
            p50, p95 = (sorted(found)[int(part * (len(found) - 1))] for part in (0.5, 0.95))
            say(f"  {what:10} p50 {1e3 * p50:8.1f} ms, p95 {1e3 * p95:8.1f} ms")
        say(f"  memory of the process grew by {process_memory_mb() - before:,.0f} MB")
        in_8_bits(base, folders[:20])


def in_8_bits(base: Any, folders: Sequence[Path]) -> None:
    """Measure how far adapters in 8 bits are from what their files hold."""
    import torch

    from peft_nb import Switchboard

    exact, rounded = (
        Switchboard((base.model, base.tokenizer), *folders, with_base=False, in_8_bits=eight) for eight in (False, True)
    )
    ids = base.tokenizer("A customer asks when the parcel of last week will be here.", return_tensors="pt").input_ids
    apart, same, moved = list[float](), list[bool](), list[float]()
    for name in exact.names:
        with torch.inference_mode():
            bare, one, other = (
                torch.log_softmax(model(input_ids=ids).logits[0].float(), -1)
                for model in (base.model, exact.switch(name), rounded.switch(name))
            )
        apart.append(float((one.exp() * (one - other)).sum(-1).mean()))
        moved.append(float((one.exp() * (one - bare)).sum(-1).mean()))
        same += (one.argmax(-1) == other.argmax(-1)).tolist()
    say(
        f"in 8 bits: KL divergence {sum(apart) / len(apart):.1e} nats a token from the exact adapter (the base lies "
        f"{sum(moved) / len(moved):.1e} away), the most likely token the same in {sum(same) / len(same):.1%}"
    )


def written(base: Any, count: int, folder: Path) -> list[Path]:
    """Write random adapters of rank 4 on the attention."""
    from peft import LoraConfig, get_peft_model

    from peft_nb.models.share import share

    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = get_peft_model(share(base), LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    model.save_pretrained(folder / "one", save_embedding_layers=False)
    found = [folder / f"{ADJECTIVES[one % 10]}-{NOUNS[one // 10 % 10]}-{one}" for one in range(count)]
    for one in found:
        shutil.copytree(folder / "one", one)
    return found


def customer(name: str, count: int, seed: int = 0) -> list[str]:
    """Prompts for an adapter of the bank, which stands for a customer of that name."""
    draw, words = random.Random(f"{name} {seed}"), name.replace("-", " ")
    asked = (
        "When does {} {}?",
        "Write a note to {} who wants to {}.",
        "Does {} still {}?",
        "What does it take for {} to {}?",
    )
    done = ("open", "send the parcel", "pay the bill", "change the contract", "close the account", "answer the letter")
    return [draw.choice(asked).format(words, draw.choice(done)) for _ in range(count)]


def timed(act: Any) -> float:
    """Seconds that something takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Print what was measured, as soon as it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    few = commands.add_parser("tasks", help="five tasks")
    few.add_argument("--store", type=Path, help="where the runs are kept")
    many = commands.add_parser("bank", help="many adapters under a bound of memory")
    many.add_argument("--adapters", type=int, default=1000, help="how many (default 1,000)")
    many.add_argument("--switches", type=int, default=300, help="how often another one is asked for (default 300)")
    given = parser.parse_args(argv)
    if given.command == "bank":
        bank(given.adapters, given.switches)
        return
    with TemporaryDirectory() as scratch:
        from peft_nb.store import Store

        folder = (given.store or Path(scratch)).resolve()
        os.environ["PEFT_NB_STORE"] = str(folder)
        five(Store(folder))


if __name__ == "__main__":
    main()
