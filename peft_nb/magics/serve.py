"""``%peft serve``: adapters behind an OpenAI-compatible server on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peft_nb.errors import CommandError, RunError
from peft_nb.events import Progress
from peft_nb.magics.line import Argument, Flag, command
from peft_nb.serving.engines import ENGINES
from peft_nb.ui.progress_bar import progress_bar

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from peft_nb.serving.server import Server
    from peft_nb.serving.service import Service
    from peft_nb.store import Store

FLAGS = [
    Flag("port", "integer", "Port to listen on; by default the first free one from 8000."),
    Flag("host", "text", "Address to listen on; by default 127.0.0.1. Another one needs a key.", value="ADDRESS"),
    Flag("key_from", "text", "Environment variable with a key that clients must send.", value="VARIABLE"),
    Flag("detach", "switch", "Go on serving when the kernel has ended."),
    Flag(
        "engine",
        "choice",
        "What computes; by default vLLM if it, a GPU and LoRAs alone are there.",
        choices=tuple(ENGINES),
    ),
    Flag("outtype", "text", "How llama.cpp holds the base's weights: f16 by default, or q8_0, bf16, f32."),
    Flag("slots", "integer", "Requests that are answered at the same time; by default 8."),
    Flag("queue", "integer", "Requests that may wait beside them; by default 64. More get 503."),
    Flag("context", "integer", "Longest prompt and answer together; by default 4096.", unit="tokens"),
    Flag("threads", "integer", "Threads of the processor for llama.cpp; by default all cores."),
    Flag("body_mb", "number", "Largest request; by default 1. A larger one gets 413.", unit="MB"),
    Flag("log", "text", "File for the log of answers: which version answered whom; by default none.", value="FILE"),
    Flag("log_texts", "switch", "Write prompts and answers into that log too."),
    Flag("stop", "switch", "Stop the servers of the store, or those that serve the runs named."),
]


@command(Argument("run|router", required=False, many=True), flags=FLAGS)
def serve(shell: InteractiveShell, **options: Any) -> Any:
    """Serve runs, routers and the base model over an OpenAI-compatible HTTP interface; an alias is followed."""
    from peft_nb.runs.run import Run
    from peft_nb.serving import server
    from peft_nb.store import Store
    from peft_nb.ui import router
    from peft_nb.ui.serve import Serving

    runs = options.pop("runs", [])
    routers = {word: value for word in runs if isinstance(value := shell.user_ns.get(word), router.Router)}
    held = {word: value for word in runs if isinstance(value := shell.user_ns.get(word), Run)}
    held |= {name: run for one in routers.values() for name, run in one.runs.items()}
    stores = {run.folder.parents[1] for run in held.values()}
    if len(stores) > 1:
        raise RunError("these runs are in different stores; serve those of each on their own")
    store = Store(*stores)
    names = {run.spec.name or run.id: run.id for run in held.values()}
    words = [word for word in runs if word not in held and word not in routers]
    if taken := [word for word in routers if word in names]:
        raise RunError(f"{taken[0]} is the name of a router and of a run; give the router to another variable")
    if options.pop("stop", False):
        for line in stopped(store, [*names, *words, *routers]):
            print(line)
        return None
    detach = options.pop("detach", False)
    if not runs:
        return shown([Serving(one) for one in server.running(store)])
    if routers:
        options["routers"] = {word: str(router.saved(one, word)) for word, one in routers.items()}
    with progress_bar() as progress:
        service = described(store, names, words, progress, **options)
        progress(1.0, "starting the server")
        return Serving(server.start(service, detach), detached=detach)


def shown(found: list[Any]) -> Any:
    """Show the servers that run, and give the last one."""
    from IPython.display import display

    if not found:
        raise RunError("no server of this store runs; name the runs to serve, such as tickets@production")
    for one in found[:-1]:
        display(one)
    return found[-1]


def described(
    store: Store, names: Mapping[str, str], words: Sequence[str], progress: Progress, **options: Any
) -> Service:
    """Make of what was written what a server is told; files that it needs are written on the way.

    Parameters
    ----------
    store : Store
        Where the runs are.
    names : mapping of str to str
        Runs of variables: what they are served as, and their ids.
    words : sequence of str
        What else is served, as the store knows it.
    progress : callable
        Told how far that is.
    **options
        The flags that were written, without those that say what to do.
    """
    from peft_nb.serving import targets
    from peft_nb.serving.server import prepared
    from peft_nb.serving.service import LOOPBACK

    if options.get("log_texts") and not options.get("log"):
        raise CommandError("--log-texts: there is no log of answers; name its file with --log FILE")
    for flag in ("slots", "context", "threads", "body_mb"):
        if options.get(flag) == 0:
            raise CommandError(f"--{flag.replace('_', '-')} 0: write at least 1")
    if (host := options.get("host", "127.0.0.1")) not in LOOPBACK:
        print(f"warning: others can reach {host}, and what they send is not encrypted", file=sys.stderr)
    return prepared({**names, **targets.pinned(store, words)}, store, progress, **options)


def stopped(store: Store, names: Sequence[str]) -> list[str]:
    """Stop servers, and say for each that it is stopped."""
    from peft_nb.serving import server

    found: list[Server] = [one for one in server.running(store) if not names or {*names} & {*one.names}]
    if not found:
        what = f"no server of {', '.join(names)} runs" if names else "no server of this store runs"
        raise RunError(f"{what}; %peft serve shows those that do")
    for one in found:
        one.stop()
    return [f"stopped: {', '.join(one.names)} at {one.address}" for one in found]


def from_words(argv: Sequence[str]) -> int:
    """Serve as ``python -m peft_nb serve`` does: in this process, until it is interrupted.

    Parameters
    ----------
    argv : sequence of str
        The words behind ``serve``.
    """
    from pathlib import Path

    from peft_nb.magics.line import COMMANDS
    from peft_nb.serving import server
    from peft_nb.store import Store

    options = COMMANDS["serve"].parse(argv)
    words = options.pop("runs", [])
    store = Store()
    if options.pop("stop", False):
        print("\n".join(stopped(store, words)))
        return 0
    detach = options.pop("detach", False)
    if "log" in options:
        options["log"] = str(Path(options["log"]).expanduser().resolve())
    with progress_bar() as progress:
        service = described(store, {}, words, progress, **options)
    if detach:
        print(f"serving {', '.join(service.names)} at {server.start(service, detach=True).address}")
    else:
        server.foreground(service)
    return 0
