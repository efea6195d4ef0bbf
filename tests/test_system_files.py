"""Atomic writes, against real refusals of the kernel and really killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peft_nb.errors import StoreError
from peft_nb.system import files

REPO = Path(__file__).parents[1]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    with process.stdout:
        return process.stdout.read().strip()


def write(target: Path, **texts: str) -> None:
    with files.atomic_folder(target) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text)


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "adapter"
    with files.atomic_folder(target) as folder:
        (folder / "config").write_text("r: 16")
        assert folder.parent == target.parent
        assert not target.exists()
    assert (target / "config").read_text() == "r: 16"
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_block_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    write(target, config="old")
    with pytest.raises(ZeroDivisionError), files.atomic_folder(target) as folder:
        (folder / "config").write_text(f"half {1 / 0}")
    assert (target / "config").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    write(target, config="old")
    (target / ".ipynb_checkpoints").mkdir()
    write(target, config="new", readme="more")
    assert sorted(path.name for path in target.iterdir()) == ["config", "readme"]
    assert (target / "config").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_with_other_work_is_refused_unless_it_is_ours(tmp_path: Path) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter1.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"holds 'chapter1.tex', which would be lost; choose another folder"):
        write(target, config="new")
    assert (target / "chapter1.tex").read_text() == "years of work"
    assert list(tmp_path.iterdir()) == [target]
    with files.atomic_folder(target, overwrite=True) as folder:
        (folder / "config").write_text("new")
    assert [path.name for path in target.iterdir()] == ["config"]


def test_the_folder_behind_a_link_is_replaced_not_the_link(tmp_path: Path) -> None:
    write(tmp_path / "big-disk", config="old")
    (tmp_path / "adapter").symlink_to(tmp_path / "big-disk")
    write(tmp_path / "adapter", config="new")
    assert (tmp_path / "adapter").is_symlink()
    assert (tmp_path / "big-disk" / "config").read_text() == "new"


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "spec.yaml"
    files.atomic_text(path, "r: 8\n")
    files.atomic_text(path, "r: 16 # é\n")
    assert path.read_bytes() == "r: 16 # é\n".encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("place", ["a-file/adapter", "a-file", "/proc/nowhere/adapter", "x" * 300])
def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("kept")
    with pytest.raises(StoreError, match=r"^cannot write /[^\n]*; [^\n]*$"):
        write(tmp_path / place, config="r: 16")
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_text_where_a_folder_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").mkdir()
    with pytest.raises(StoreError, match="a folder stands where a file is needed"):
        files.atomic_text(tmp_path / "spec.yaml", "r: 16")
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    write(target, weights="old")

    def fill() -> None:
        with files.atomic_folder(target) as folder:
            (folder / "weights").symlink_to("/dev/full")
            (folder / "weights").write_text("new")

    with pytest.raises(StoreError) as caught:
        fill()
    assert str(caught.value) == (f"cannot write {target}: the disk is full; free some space or choose another folder")
    assert (target / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


WRITERS = {
    "python": "(folder / 'weights').write_bytes(bytes(100_000))",
    "safetensors": "import numpy; from safetensors.numpy import save_file as s; "
    "s({'a': numpy.zeros(99_999)}, folder / 'w')",
    "torch": "import torch; torch.save(torch.zeros(99_999), folder / 'w')",
    "text": "files.atomic_text(target.with_name('spec.yaml'), 'x' * 100_000)",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_stops_halfway_leaves_nothing(tmp_path: Path, writer: str) -> None:
    code = f"""if True:
        import resource, sys
        from pathlib import Path
        from peft_nb.system import files
        from peft_nb.errors import StoreError
        target = Path(sys.argv[1]) / "adapter"
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            with files.atomic_folder(target) as folder:
                {WRITERS[writer]}
        except StoreError as error:
            print(error)
    """
    with start(code, tmp_path) as process:
        message = said(process)
    assert message.startswith(f"cannot write {tmp_path}")
    assert message.endswith("choose another folder")
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_not_about_writing_pass_unchanged(tmp_path: Path) -> None:
    for error in (
        FileNotFoundError(2, "No such file", "base.gguf"),
        PermissionError(13, "Permission denied", "/elsewhere/base.gguf"),
        ConnectionError("the hub is out of reach"),
        RuntimeError("shapes differ"),
    ):
        with pytest.raises(type(error)) as caught, files.atomic_folder(tmp_path / "adapter"):
            raise error
        assert caught.value is error


HALFWAY = """if True:
    import sys, time
    from pathlib import Path
    from peft_nb.system import files
    with files.atomic_folder(Path(sys.argv[1])) as folder:
        (folder / "config").write_text("half")
        print(folder, flush=True)
        time.sleep(60)
"""


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    write(target, config="old")
    with start(HALFWAY, target) as process:
        assert process.stdout
        staging = Path(process.stdout.readline().strip())
        files.remove_leftovers(tmp_path)
        assert staging.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / ".hidden~user-file.new").write_text("not ours")
    assert staging.exists()
    files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden~user-file.new", "adapter"]
    assert (target / "config").read_text() == "old"
    files.remove_leftovers(tmp_path / "missing")


def test_a_writer_killed_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    write(target, config="old")
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from peft_nb.system import files
        rename = Path.rename
        def die_after(self, target):
            rename(self, target)
            os.kill(os.getpid(), signal.SIGKILL)
        Path.rename = die_after
        with files.atomic_folder(Path(sys.argv[1])) as folder:
            (folder / "config").write_text("new")
    """
    with start(code, target) as process:
        assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    files.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "config").read_text() == "old"


def test_writers_at_the_same_time_never_mix(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from peft_nb.system import files
        for i in range(40):
            with files.atomic_folder(Path(sys.argv[1])) as folder:
                for name in "abc":
                    (folder / name).write_text(f"{os.getpid()} {i}")
    """
    target = tmp_path / "cache"
    processes = [start(code, target) for _ in range(3)]
    for process in processes:
        assert process.wait() == 0
        said(process)
    assert sorted(path.name for path in target.iterdir()) == ["a", "b", "c"]
    assert len({path.read_text() for path in target.iterdir()}) == 1
    assert list(tmp_path.iterdir()) == [target]


def test_an_owner_lives_until_its_process_ends() -> None:
    assert files.alive(files.owner()) is True
    code = "from peft_nb.system import files; print(files.owner(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        other = process.stdout.readline().strip()
        assert files.alive(other) is True
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until it is reaped
        assert files.alive(other) is False
    assert files.alive(other) is False


def test_a_process_id_used_again_and_another_host_are_told_apart() -> None:
    pid, start, host = files.owner().split("-", 2)
    assert files.alive(f"{pid}-{float(start) - 5:.2f}-{host}") is False
    assert files.alive(f"{pid}-{start}-elsewhere") is None


def test_leftovers_of_another_host_stay_for_a_day(tmp_path: Path) -> None:
    leftover = tmp_path / ".adapter~1-2.00-elsewhere~0123abcd.new"
    leftover.mkdir()
    files.remove_leftovers(tmp_path)
    assert leftover.exists()
    os.utime(leftover, (0, 0))
    files.remove_leftovers(tmp_path)
    assert not leftover.exists()
