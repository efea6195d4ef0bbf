"""What it costs to tell, store and show a run: seconds spent on that while a ``%%peft`` cell trains, as a share.

The worker's part (handing an event to the store and the listeners) is wall time taken from training. The drawing
happens in the kernel's main thread beside it, where the processor's time counts.
"""

from __future__ import annotations

import argparse
import os
import sys
from tempfile import TemporaryDirectory

from jupyter_client.manager import start_new_kernel

from peft_nb.models.load import load
from peft_nb.models.resolve import resolve

CLOCKS = """
%load_ext peft_nb
import time
from peft_nb.runs.record import RunRecord
from peft_nb.ui.live import Live

spent, calls = {}, {}

def clocked(owner, name, clock):
    function = getattr(owner, name)
    def wrapper(*arguments):
        start = clock()
        try:
            return function(*arguments)
        finally:
            spent[name] = spent.get(name, 0) + clock() - start
            calls[name] = calls.get(name, 0) + 1
    setattr(owner, name, wrapper)

clocked(RunRecord, "publish", time.perf_counter)
clocked(Live, "refresh", time.thread_time)
"""

CELL = """%%peft {method} --data support-desk --out run
model: {model}
max_steps: {steps}
eval_fraction: 0
"""

REPORT = """
seconds = run.metrics["train_seconds"]
for name, what in (("publish", "events published"), ("refresh", "times looked whether to draw")):
    print(f"{calls[name]:6,} {what}: {spent[name]:.2f} s, {spent[name] / seconds:.2%} of {seconds:.0f} s of training")
print(f"together {sum(spent.values()) / seconds:.2%}")
"""


def main() -> None:
    """Train in a fresh kernel and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="alias or folder of the base")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps (default 20)")
    options = parser.parse_args()

    if resolve(options.model).path is None:
        load(resolve(options.model))  # fetches it
    with TemporaryDirectory() as folder:
        manager, client = start_new_kernel(cwd=folder, env={**os.environ, "PEFT_NB_STORE": folder})
        try:
            for code in (CLOCKS, CELL.format(**vars(options)), REPORT):
                texts: list[str] = []

                def keep(message: dict, texts: list[str] = texts) -> None:
                    texts.append(message["content"].get("text", ""))

                reply = client.execute_interactive(code, output_hook=keep)["content"]
                if reply["status"] == "error":
                    sys.exit(reply["evalue"])
            print("".join(texts), end="")
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
