"""The process that reads foreign bytes: what ends it is one file's error, and it ends with its owner."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.formats import checkpoint_reader
from fisher_cli.inputs.formats.checkpoint_reader import ask
from fisher_cli.inputs.formats.containers import decode
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.decoders import DECODERS
from fisher_cli.storage.reader_process import ReaderOwner
from tests.attacks.archives import archive_attacks
from tests.attacks.assembly import archive, number, weights_beside
from tests.attacks.code import code_attacks
from tests.attacks.corpus import write_good
from tests.attacks.mutation import mutated, originals
from tests.attacks.safetensors_files import safetensors_attacks
from tests.attacks.values import value_attacks
from tests.attacks.work import odd_files, work_attacks
from tests.long_lists import draw
from tests.saving import as_bytes
from tests.waiting import PATIENCE, pause, until

ROOT = Path(__file__).parents[3]
POISON = b"POISON"
# The process as it is, but for what it does with poisoned files.
POISONED = """
import sys; sys.path.append(sys.argv[1])
import os, resource, socket
from fisher_cli.inputs.formats import decoders
from fisher_cli.storage import reader_child, reader_limits
describe, answer = decoders.describe, decoders.answer
reader_limits._SECONDS = {seconds}
def act():
    {act}
decoders.describe = lambda data: act() if data.find(b"POISON") >= 0 else describe(data)
decoders.answer = lambda found: found if type(found) is dict else answer(found)
reader_child.main(decoders.DECODERS, True)
"""


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An owner that has no reader yet."""
    found = ReaderOwner("fisher_cli.inputs.formats.decoders", lambda: DECODERS, is_mapped=True)
    monkeypatch.setattr(checkpoint_reader, "OWNER", found)
    yield found
    found.end()


def poisoned(monkeypatch: pytest.MonkeyPatch, act: str, seconds: int = 10) -> None:
    monkeypatch.setattr(checkpoint_reader.OWNER, "code", POISONED.format(act=act, seconds=seconds))


def weights(path: Path) -> dict[str, list[float]]:
    [file] = find_checkpoints([path])
    return {name: tensor.flatten().tolist() for name, tensor in load_checkpoint(file).weights.items()}


def here(data: Any) -> Any:
    """What this process finds in the bytes, as an answer would be."""
    [(tree, _)] = DECODERS["checkpoint"]([data], None)
    return json.loads(json.dumps(tree))


def said(ask: Callable[[], Any]) -> Any:
    """What is answered; or the class and the text of the error."""
    try:
        return ask()
    except CheckpointError as error:
        return type(error), str(error)


def heavy() -> bytes:
    """A good file that is read for a while."""
    return archive(weights_beside(b"](" + number(7) * 300_000 + b"e"))


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


# What it answers


@pytest.mark.ci
def test_it_answers_what_this_process_would(owner: Any, tmp_path: Path, record_property: Any) -> None:
    kinds = (code_attacks(tmp_path), value_attacks(), archive_attacks(), safetensors_attacks(), work_attacks())
    attacks = [data for kind in kinds for _, data in kind] + [data for _, data in odd_files()]
    random_draw, good = random.Random(0), list(originals().values())
    damaged = [mutated(random_draw.choice(good), random_draw) for _ in range(100)]
    cases = [*draw(attacks, 0.02), *damaged, b"", *good]
    for data in cases:
        content = Content.of(data)
        assert said(lambda content=content: ask("checkpoint", content)) == said(lambda data=content.data: here(data))
    record_property("answers", len(cases))
    assert owner.reader is not None, "it was asked, and is there"


def test_it_has_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.path.append(sys.argv[1]); from fisher_cli.inputs.formats import decoders; "
        "from fisher_cli.storage import reader_child; "
        "print([name for name in ('torch', 'numpy', 'fisher_cli.settings', 'dataclasses') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_tensors_lie_in_the_memory_of_the_file() -> None:
    content = Content.of(as_bytes({f"w{index}": torch.ones(300, 500) for index in range(3)}))
    start = torch.frombuffer(content.data, dtype=torch.uint8).data_ptr()
    found = decode(content, Path("a.pt")).content
    assert isinstance(found, dict)
    assert all(start <= tensor.data_ptr() < start + len(content) for tensor in found.values())
    found["w0"].zero_()
    assert decode(content, Path("a.pt")).content["w0"].sum() == 0  # type: ignore[index]  this process's own copy
    assert owner_reads(content)["w0"].sum() == 300 * 500, "the file's is as it was"


def owner_reads(content: Content) -> Any:
    """What lies in the memory that others can map."""
    assert content.descriptor is not None
    return decode(os.pread(content.descriptor, len(content), 0), Path("a.pt")).content


def test_nobody_can_change_the_bytes_that_were_hashed() -> None:
    content = Content.of(b"x" * 5000)
    assert content.descriptor is not None
    for change in (lambda: os.pwrite(content.descriptor, b"y", 0), lambda: os.ftruncate(content.descriptor, 10)):
        with pytest.raises(PermissionError):
            change()
    assert content.data[:] == b"x" * 5000


def test_no_descriptor_is_left(owner: Any) -> None:
    data = as_bytes({"w": torch.ones(3)})
    decode(data, Path("a.pt"))
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        decode(data, Path("a.pt"))
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert owner.reader is not None


# What ends it


@pytest.mark.usefixtures("owner")
@pytest.mark.parametrize(
    ("act", "seconds", "said"),
    [
        ("os.kill(os.getpid(), 9)", 10, "was killed"),
        ("os.kill(os.getpid(), 11)", 10, "ended by signal 11"),
        ("os.abort()", 10, "ended by signal 6"),
        ("os._exit(3)", 10, "ended with exit code 3"),
        ("os.close(0)", 10, "the process that read it"),
        ("os.write(0, b'+' * 100)", 10, "the process that read it"),
        ("while True: pass", 0, "s of processor time"),
        ("return [bytes(1 << 20) for _ in range(4096)]", 10, "asks for more memory than there is"),
        ("return open('/dev/null')", 10, "damaged (OSError)"),
        ("return socket.socket()", 10, "damaged (OSError)"),
        ("return os.pipe()", 10, "damaged (OSError)"),
        ("return act()", 10, "damaged (RecursionError)"),
        ("return {'content': 'x' * (200 << 20)}", 10, "more than 128 MiB beside its numbers"),
    ],
)
def test_what_it_cannot_do_is_the_error_of_that_file_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, seconds: int, said: str
) -> None:
    poisoned(monkeypatch, act, seconds)
    good = write_good(tmp_path / "good")
    expected = {path: weights(path) for path in good}
    bad = tmp_path / "bad.pt"
    bad.write_bytes(POISON + bytes(100))
    files = {file.path: file for file in find_checkpoints([good[0], bad, *good[1:]])}
    line = str(files[bad].error)
    assert said in line
    assert line.isprintable()
    assert line.startswith(str(bad))
    assert ";" in line
    assert {path: weights(path) for path in good} == expected
    assert all(files[path].error is None for path in good)


def test_one_that_ends_while_nobody_asks_is_replaced_and_no_file_suffers(owner: Any, tmp_path: Path) -> None:
    good, readers = write_good(tmp_path / "good"), set()
    for path in good:
        assert weights(path)
        readers.add(owner.reader.pid)
        os.kill(owner.reader.pid, signal.SIGKILL)
        until(owner.reader.is_gone)
    assert len(readers) == len(good)


def test_a_late_word_of_a_request_that_was_taken_ends_no_reader(owner: Any, tmp_path: Path) -> None:
    """The system tells of bytes after it has handed them over; only an owner that is gone ends the reader."""
    (tmp_path / "heavy.pt").write_bytes(heavy())
    expected = weights(tmp_path / "heavy.pt")
    reader, ended = owner.reader.pid, threading.Event()

    def tell() -> None:
        while not ended.is_set():
            os.kill(reader, signal.SIGIO)
            pause(0.001)

    telling = threading.Thread(target=tell)
    telling.start()
    try:
        assert weights(tmp_path / "heavy.pt") == expected
    finally:
        ended.set()
        telling.join()
    assert owner.reader.pid == reader


@pytest.mark.parametrize("ends", [False, True])
def test_one_that_was_begun_early_is_there_when_a_file_is_read(owner: Any, tmp_path: Path, ends: bool) -> None:
    good = write_good(tmp_path / "good")[0]
    owner.begin()
    begun = owner.reader
    owner.begin()
    assert owner.reader is begun
    if ends:
        os.kill(begun.pid, signal.SIGKILL)
        until(begun.is_gone)
    assert weights(good)
    assert (owner.reader is begun) is not ends


def test_it_may_be_killed_at_any_moment(owner: Any, tmp_path: Path, record_property: Any) -> None:
    """By another process, such as the system's where memory ends: files fail in words, or are read as they are."""
    good = [*write_good(tmp_path / "good"), tmp_path / "heavy.pt"]
    good[-1].write_bytes(heavy())
    expected = {path: weights(path) for path in good}
    draw, over, killed = random.Random(0), threading.Event(), [0]

    def kill() -> None:
        while not over.is_set():
            pause(0.02 * draw.random())
            reader = owner.reader
            if reader is not None:
                with suppress(ProcessLookupError):
                    os.kill(reader.pid, draw.choice((signal.SIGKILL, signal.SIGSEGV)))

    killer = threading.Thread(target=kill)
    killer.start()
    try:

        def died() -> bool:
            for file in find_checkpoints(good):
                if file.error is None:
                    continue
                killed[0] += 1
                assert "the process that read it" in str(file.error)
                assert str(file.error).isprintable()
            return killed[0] >= 10

        until(died)
    finally:
        over.set()
        killer.join()
    assert {path: weights(path) for path in good} == expected
    record_property("files whose process was killed", killed[0])


def test_a_signal_between_question_and_answer_leaves_no_half_answer(
    owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = as_bytes({"w": torch.ones(3)})
    decode(data, Path("a.pt"))
    reader = owner.reader
    with monkeypatch.context() as patched:

        def interrupted(*_: Any) -> bytes:
            raise KeyboardInterrupt

        patched.setattr(reader, "received", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decode(data, Path("a.pt"))
    assert is_gone(reader.pid)
    assert torch.equal(decode(data, Path("a.pt")).content["w"], torch.ones(3))  # type: ignore[index]
    assert owner.reader.pid != reader.pid


# What it ends with

ASKING = """
import sys
from pathlib import Path
from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.checkpoint_reader import OWNER, ask
from fisher_cli.inputs.formats.contents import Content
OWNER.code = sys.argv[1]
try:
    ask("checkpoint", Content.of(b"x"))
except CheckpointError:
    print(OWNER.reader.pid, flush=True)
ask("checkpoint", Content.of(b"POISON")) if sys.argv[2] == "busy" else sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["busy", "idle"])
def test_it_is_not_left_behind_by_an_owner_that_is_killed(how: str) -> None:
    """Busy for ever, and without a limit: it is the end of its owner that ends it."""
    code = POISONED.format(act="while True: pass", seconds=10**6)
    asking = subprocess.Popen(
        [sys.executable, "-c", ASKING, code, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert asking.stdout is not None
    reader = int(asking.stdout.readline())
    pause(0.3 if how == "busy" else 0.0)
    assert not is_gone(reader)
    asking.kill()
    asking.communicate(timeout=PATIENCE)
    until(lambda: is_gone(reader))


def test_what_a_terminal_sends_to_all_ends_the_owner_and_not_the_reader_first() -> None:
    code = POISONED.format(act="while True: pass", seconds=10**6)
    command, kept = [sys.executable, "-c", ASKING, code, "busy"], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    asking = subprocess.Popen(command, **kept, text=True, cwd=ROOT, start_new_session=True)
    assert asking.stdout is not None
    reader = int(asking.stdout.readline())
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(reader, each)
    assert not is_gone(reader)
    assert os.getsid(reader) != os.getsid(asking.pid)
    os.killpg(asking.pid, signal.SIGINT)
    _, said = asking.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in said
    until(lambda: is_gone(reader))


def test_a_copy_of_the_owner_has_a_reader_of_its_own(owner: Any) -> None:
    data = as_bytes({"w": torch.ones(3)})
    decode(data, Path("a.pt"))
    reader, copy = owner.reader.pid, os.fork()
    if copy == 0:
        status = 1
        with suppress(BaseException):
            owner.leave()  # that of the fixture is not the one that the package looks after
            decode(data, Path("a.pt"))
            status = 0 if owner.reader.pid != reader else 2
            owner.end()
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 0
    decode(data, Path("a.pt"))
    assert owner.reader.pid == reader


# Where it cannot be had


@pytest.mark.parametrize("how", ["no program", "another program", "no permission", "no memory to share"])
def test_without_such_a_process_files_are_read_in_this_one(
    owner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    good = write_good(tmp_path / "good")
    expected = {path: weights(path) for path in good}
    owner.end()

    def refused(*_: Any, **__: Any) -> int:
        raise PermissionError

    if how == "no permission":
        monkeypatch.setattr(os, "posix_spawn", refused)
    elif how == "no memory to share":
        monkeypatch.setattr(os, "memfd_create", refused)
    else:
        monkeypatch.setattr(sys, "executable", "/does/not/exist" if how == "no program" else "/bin/false")
    assert {path: weights(path) for path in good} == expected
    assert owner.reader is None
