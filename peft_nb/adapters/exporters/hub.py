"""A run's adapter on the Hugging Face hub: one commit with its card, private unless told otherwise."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from peft_nb.adapters.card import without_secrets
from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter
from peft_nb.data.quality.secrets import secrets
from peft_nb.errors import RunError
from peft_nb.spec.paths import local
from peft_nb.system.resources import MB

NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
SETTINGS = ("adapter_config.json", "config.json", "tokenizer_config.json")
TEXTS = {".json", ".jinja", ".md", ".txt", ".yaml"}
TOKEN = "set HF_TOKEN before the kernel starts, or run huggingface-cli login (hf auth login) in a terminal"
ANSWERS = {
    401: f"the hub does not accept the token; {TOKEN}",
    403: "the token may not write there; make one with write access, or write to a name of your own",
    404: "the hub has no such user or repository; write --to USER/NAME",
    409: "it exists already; --update adds a commit to it, --to takes another name",
}


def write(
    run: Exportable, path: Path, *, public: bool = False, update: bool = False, dry_run: bool = False
) -> Exported:
    """Upload the adapter of a run with its card, or show what would be uploaded.

    The token is that of the environment, ``HF_TOKEN``, or of ``huggingface-cli login``, and is never shown.

    Parameters
    ----------
    run : Exportable
        Any run.
    path : Path
        The name on the hub, ``USER/NAME``; without a user that of the token.
    public : bool, default False
        Whether everybody may see it.
    update : bool, default False
        Whether it may add a commit to a repository that exists; one that is public only with ``public``.
    dry_run : bool, default False
        Whether nothing is uploaded and no network touched.

    Returns
    -------
    Exported
        With the files and their sizes.

    Raises
    ------
    RunError
        If the name will not do, a file holds a secret, there is no token, or the hub refuses or does not answer.
    """
    repo = path.as_posix()
    if not NAME.fullmatch(repo) or ".." in repo or "--" in repo:
        raise RunError(f"{repo!r} is no name on the hub; write --to USER/NAME, of letters, digits, '.', '_' and '-'")
    with TemporaryDirectory() as place:
        folder = run.save(Path(place) / "adapter")
        _clean(folder)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
        seen = "public" if public else "private"
        told = f"{len(sizes)} files, {sum(sizes.values()) / MB:,.1f} MB"
        if dry_run:
            told = f"dry run, nothing is uploaded: to {repo}, {seen}, {told}"
        else:
            url = _upload(repo, folder, list(sizes), f"{run.id}, by peft_nb", public=public, update=update)
            told = f"{run.id} is uploaded to {url}: {seen}, {told}"
    import pandas

    return Exported(path, told, pandas.DataFrame({"file": list(sizes), "bytes": list(sizes.values())}))


def _clean(folder: Path) -> None:
    """Take paths of this machine out of the settings of an adapter; a secret is refused."""
    for file in folder.rglob("*"):
        if file.suffix not in TEXTS:
            continue
        text = file.read_text(encoding="utf-8")
        if file.name in SETTINGS:
            told = json.loads(text)
            if (shown := _without_paths(told)) != told:
                text = json.dumps(shown, indent=2, ensure_ascii=False)
                file.write_text(text, encoding="utf-8")
        if file.name != "tokenizer.json" and secrets(text):  # a vocabulary has words like any
            raise RunError(f"{file.name} holds what looks like a secret; take it out of the run's settings and rerun")


def _without_paths(value: Any) -> Any:
    """A value of a JSON file with the last part of each absolute path in place of the whole."""
    if isinstance(value, str):
        path = Path(value)
        return local(value) if path.is_absolute() and len(path.parts) > 2 else value
    if isinstance(value, dict):
        return {name: _without_paths(one) for name, one in value.items()}
    return list(map(_without_paths, value)) if isinstance(value, list) else value


def _upload(repo: str, folder: Path, names: list[str], message: str, *, public: bool, update: bool) -> str:
    """Make a repository, or find it, and add one commit; give the address."""
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not (token := get_token()):
        raise RunError(f"there is no token for the hub; {TOKEN}")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with _in_a_line(repo, api.endpoint):
        url = api.create_repo(repo, private=not public, exist_ok=update)
        if update and not public and not api.repo_info(url.repo_id).private:
            raise RunError(f"{url.repo_id} is public on the hub; write --public with --update, or another name")
        added = [CommitOperationAdd(name, folder / name) for name in names]
        with _no_bars():
            api.create_commit(url.repo_id, added, commit_message=message)
    return str(url)


@contextmanager
def _in_a_line(repo: str, endpoint: str) -> Iterator[None]:
    """Turn whatever the hub or the network answers into one line; classes of errors differ between HTTP libraries."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        cause: Any = error
        while getattr(cause, "response", None) is None and cause.__cause__:
            cause = cause.__cause__
        status = getattr(getattr(cause, "response", None), "status_code", None)
        said = without_secrets(next(iter(str(getattr(cause, "server_message", None) or cause).splitlines()), ""))
        if status is None:
            where = urlsplit(endpoint).netloc
            why = f"{where} cannot be reached ({said or type(error).__name__}); try again when there is a network"
        else:
            why = ANSWERS.get(status, f"the hub answers {status}: {said}")
        raise RunError(f"cannot upload to {repo}: {why}") from None  # the chain holds requests with their headers


@contextmanager
def _no_bars() -> Iterator[None]:
    """Upload without the hub's own bars."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


EXPORTER = Exporter(
    "hub",
    "the adapter with its card on the Hugging Face hub; --to USER/NAME",
    "-adapter",
    write,
    options={
        "public": "everybody may see it; private without",
        "update": "it may exist already, and gets another commit",
        "dry_run": "show what would be uploaded, and touch no network",
    },
)
