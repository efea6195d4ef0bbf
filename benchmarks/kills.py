"""Kill a run at ten random moments of its training, resume it each time, and compare it with an undisturbed one.

Every life of the run is a process of its own, ended by SIGKILL: nothing it holds in memory survives. The run saves
after every step, so that kills also meet half-written checkpoints.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from peft_nb.events import Resumed, StatusChanged
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.spec import RunSpec
from peft_nb.store import Record, Store

LOG = "output.txt"
TRAINING = StatusChanged("training")
RESUME = "import peft_nb, sys; peft_nb.load(sys.argv[1]).resume()"


def process(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start Python with the store in a folder; what it prints goes to a file there."""
    environment = {**os.environ, "PEFT_NB_STORE": str(folder)}
    folder.mkdir(exist_ok=True)
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen([sys.executable, *words], env=environment, stdout=log, stderr=log)


def fail(folder: Path, reason: str) -> NoReturn:
    """Give up, with what the processes printed."""
    sys.exit(f"{(folder / LOG).read_text(encoding='utf-8')}\n{reason}")


def only_run(store: Store) -> Record | None:
    """The run of a store, once there is one."""
    return next(iter(store.all()), None)


def losses(store: Store, id: str) -> dict[int, float]:
    """The loss of every logged step."""
    return {row["step"]: row["loss"] for row in store.history(id) if row["loss"] is not None}


def undisturbed(spec: Path, folder: Path) -> tuple[dict[int, float], float, bytes]:
    """Train once without a kill.

    Parameters
    ----------
    spec : Path
        The run, as YAML.
    folder : Path
        Where its store goes.

    Returns
    -------
    tuple
        Loss by step, seconds of training, and the adapter's weights as a file.
    """
    if process(folder, "-m", "peft_nb", "train", str(spec)).wait():
        fail(folder, "the undisturbed run failed")
    run = only_run(store := Store(folder))
    assert run
    return losses(store, run.id), run.metrics["train_seconds"], weights(run)


def weights(run: Record) -> bytes:
    """The adapter of a finished run."""
    return (run.folder / "adapter" / "adapter_model.safetensors").read_bytes()


def killed(spec: Path, folder: Path, kills: int, seconds: float) -> tuple[Store, Record]:
    """Train with kills, each at a random moment after training began or went on.

    Parameters
    ----------
    spec : Path
        The run, as YAML.
    folder : Path
        Where its store goes.
    kills : int
        How often to kill it.
    seconds : float
        What an undisturbed run takes; a life lasts a random share of it, so short that the last comes to its end.

    Returns
    -------
    tuple of Store and Record
        The store and the finished run in it.
    """
    store = Store(folder)
    for life in range(kills + 1):
        run = only_run(store)
        words = ("-c", RESUME, run.id) if run else ("-m", "peft_nb", "train", str(spec))
        worker = process(folder, *words)
        if life == kills:
            if worker.wait():
                fail(folder, "the last life of the run failed")
            break
        while (run := only_run(store)) is None or store.events(run.id).count(TRAINING) <= life:
            if worker.poll() is not None:
                fail(folder, "the run ended before it was killed")
            time.sleep(0.02)
        moment = random.uniform(0, seconds / (kills + 1))
        time.sleep(moment)
        if worker.poll() is not None:
            fail(folder, "the run ended before it was killed; give it more steps")
        worker.kill()
        worker.wait()
        reached = max(losses(store, run.id), default=0)
        print(f"kill {life + 1:2}: {moment:5.1f} s into its training, after the loss of step {reached}", flush=True)
    run = only_run(store)
    assert run
    return store, run


def main() -> None:
    """Train twice, with and without kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how often to kill (default 10)")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of the run (default 40)")
    parser.add_argument("--model", default="smollm2-135m", help="alias or folder of the base")
    parser.add_argument("--seed", type=int, default=0, help="fixes the moments (default 0)")
    options = parser.parse_args()
    random.seed(options.seed)

    if resolve(options.model).path is None:
        load(resolve(options.model))  # fetched once, before any clock runs
    spec = RunSpec(
        model=options.model,
        data="support-desk",
        eval_fraction=0,
        batch_size=4,
        max_steps=options.steps,
        eval_steps=options.steps,
        save_steps=1,
    )
    with TemporaryDirectory() as temporary:
        file = Path(temporary, "spec.yaml")
        file.write_text(spec.to_yaml(), encoding="utf-8")
        calm, seconds, adapter = undisturbed(file, Path(temporary, "calm"))
        print(
            f"undisturbed: {seconds:.1f} s for {options.steps} steps, last loss {calm[options.steps]:.6f}", flush=True
        )
        store, run = killed(file, Path(temporary, "killed"), options.kills, seconds)
        resumed = [event.step for event in store.events(run.id) if isinstance(event, Resumed)]
        found = losses(store, run.id)
        print(f"resumed after steps {', '.join(map(str, resumed))}; {run.status}, last loss {found[options.steps]:.6f}")
        worst = max(abs(found.get(step, float("inf")) - loss) for step, loss in calm.items())
        same = "equal to the last bit" if weights(run) == adapter else "not equal"
        print(f"largest difference of any step's loss: {worst:.1e}; the adapters are {same}")
        sys.exit(worst > 1e-6 or found.keys() != calm.keys())


if __name__ == "__main__":
    main()
