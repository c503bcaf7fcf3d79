"""Reads files in child processes that are limited, measured and watched: `python -m tests.attacks.child HOW` < jobs.

A job is a list of paths, all given at once as a user would. Each is answered by one line of JSON: what became of every
file, and how the process ended. HOW is `here`, where the reader runs in the same process and more is told (the events
that Python's audit hook saw, function calls, bytes held at once); or `elsewhere`, in its own as it does for a user.
"""

import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.formats import checkpoint_reader
from fisher_cli.text import clipped
from tests.effort import Effort

# They only end what hangs: of the processor, and by the clock where it waits.
SECONDS, ADDRESS_SPACE = 120, 6 << 30
MOST_SECONDS = 10  # of the processor, for one file between good ones where nothing is counted
WATCHED = (
    "exec",
    "compile",
    "import",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pty.spawn",
)
WATCHED_PREFIXES = ("socket.", "pickle.", "ctypes.", "urllib.", "marshal.", "code.", "shutil.", "os.remove", "os.mkdir")


def end_what_hangs() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(10 * SECONDS)


def limit(seconds: int = SECONDS) -> None:
    end_what_hangs()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def watch() -> list[str]:
    """Return a list into which every watched event is written from now on."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+")
        if writes or event in WATCHED or event.startswith(WATCHED_PREFIXES):
            seen.append(f"{event} {str(arguments)[:100]}")

    sys.addaudithook(hook)
    return seen


def answer(paths: list[str]) -> list[dict[str, str]]:
    """What became of each file: the digest of its weights, or the error's class and text."""
    found = []
    for file in find_checkpoints([Path(path) for path in paths]):
        row = {"path": str(file.path)}
        try:
            weights = load_checkpoint(file).weights
            digest = hashlib.sha256()
            for name, tensor in weights.items():
                digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
            row["weights"] = digest.hexdigest()
        except CheckpointError as error:
            row |= {"error": type(error).__name__, "text": str(error)}
        found.append(row)
    return found


def read_here() -> None:
    """Let this process read by itself, as where no other can be had."""
    checkpoint_reader.OWNER.end()
    checkpoint_reader.OWNER.is_possible = False


def run_elsewhere(job: list[str], out: int) -> None:
    limit(MOST_SECONDS)
    try:
        result: dict[str, object] = {"rows": answer(job)}
    except BaseException as error:
        result = {"escaped": f"{type(error).__name__}: {error}"[:300]}
    os.write(out, json.dumps(result).encode())
    checkpoint_reader.OWNER.end()


def run_here(job: list[str], out: int) -> None:
    limit()
    seen = watch()
    result: dict[str, object]
    effort = Effort()
    try:
        with effort.counting():
            rows = answer(job)
        result = {"rows": rows}
    except BaseException as error:
        result = {"escaped": f"{type(error).__name__}: {error}"[:300]}
    result |= {"events": list(seen), "calls": effort.calls, "bytes": effort.bytes}
    os.write(out, json.dumps(result).encode())


def isolated(job: list[str], run: Callable[[list[str], int], None]) -> dict[str, object]:
    """Run one job in a fork of this process, which has imported everything already."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        try:
            run(job, writing)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    _, status = os.waitpid(process, 0)
    result: dict[str, object] = json.loads(text) if text else {}
    return result | {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}


def main(how: str) -> None:
    jobs = json.load(sys.stdin)
    run = run_here if how == "here" else run_elsewhere
    if how == "here":
        read_here()
        with Effort().counting():  # what counting imports is imported now
            answer(jobs[0])
    answer(jobs[0])  # what is imported late is imported now
    clipped("\x1b")  # so is the codec that escapes names
    for job in jobs:
        sys.stdout.write(json.dumps(isolated(job, run)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
