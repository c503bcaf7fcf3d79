"""Checkpoints as a training run saves them: names, sizes and times are looked at again and again, bytes once."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints import discovery, timeline
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile, inspected, shown_name
from fisher_cli.inputs.checkpoints.inspection_cache import InspectionCache
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.results import by_run

Stamp = tuple[tuple[str, int, int, int], ...]
# A file is taken when nothing of it has changed between two looks; one that cannot be decoded is waited for longer.
SECONDS_BETWEEN_LOOKS: Final = 1.0
SECONDS_OF_PATIENCE: Final = 60.0


@dataclass
class FollowRequest:
    """How long to wait for checkpoints that a training run still writes.

    Attributes:
        until: the training step of the last one to wait for; None to wait without end.
        say: told, in one line, of each file that is left for the next run.
        pause: waits for so many seconds.
        clock: seconds, of the same clock as `pause`; only differences count.
        between: seconds between two looks at the paths.
        patience: for so many seconds a file that cannot be read is taken to be still written.
    """

    until: int | None = None
    say: Callable[[str], None] = lambda _: None
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    between: float = SECONDS_BETWEEN_LOOKS
    patience: float = SECONDS_OF_PATIENCE

    def is_over(self, file: CheckpointFile | None) -> bool:
        """Whether this was the last checkpoint to wait for: its step is at least `until`.

        Args:
            file: the one that was measured; None for none yet.
        """
        reached = None if file is None else file.step
        return self.until is not None and reached is not None and reached >= self.until


@dataclass
class FollowedPaths:
    """The paths that are looked at again and again, and the checkpoints found below them so far.

    Attributes:
        paths: files and folders, as the user named them.
        reading: what to take out of each file.
        inspection_cache: knows files that need not be decoded again; new ones are added to it.
        following: how long to wait.
        files: those that are rows already, in their order; only `begin` and `newcomers` append to it.
    """

    paths: Sequence[Path]
    reading: ReadOptions
    inspection_cache: InspectionCache
    following: FollowRequest
    files: list[CheckpointFile] = field(default_factory=list)
    _taken: dict[Path, Stamp] = field(default_factory=dict)
    _seen: dict[Path, tuple[Stamp, float]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Whether every run has come to the last checkpoint to wait for."""
        runs = by_run(self.files)
        return bool(runs) and all(any(map(self.following.is_over, files)) for files in runs.values())

    def begin(self, found: Sequence[CheckpointFile]) -> list[CheckpointFile]:
        """Take those of the files found at the start that can be rows at once; what may still be written is waited for.

        Args:
            found: as `find_checkpoints` gives them.

        Returns:
            The list `files` itself, which grows by the newcomers.
        """
        now = self.following.clock()
        for file in found:
            stamp = _stamp(file.path)
            if stamp and (file.error is None or _age(stamp) > self.following.patience):
                name = shown_name(file.path, self.paths)  # which stays the same when other runs come
                self.files.append(file if name == "." else replace(file, name=name))
                self._taken[file.path] = stamp
            self._seen[file.path] = stamp, now
        # Names of copies that were left out have no file of their own here: they are not newcomers either.
        for path in self.there():
            if path not in self._seen:
                self._taken[path] = _stamp(path)
        return self.files

    def newcomers(self) -> Iterator[CheckpointFile]:
        """Look once at the paths for files that have come and are whole, run by run in order of training.

        A file is whole when nothing of it has changed since the look before, and it can be read or `patience` is over.

        Yields:
            Files that are to be rows; each is among `files` from then on.
        """
        there = self.there().items()
        fresh = [replace(file, run=run) for path, run in there if (file := self._settled(path)) is not None]
        for file in [each for files in by_run(fresh).values() for each in timeline.in_training_order(files, _place)]:
            why = self._why_left(file)
            if why is None:
                self.files.append(file)
                yield file
            elif (text := f"{file.name} {why}") not in self._said:  # `last` changes again and again
                self._said.add(text)
                self.following.say(text)

    def there(self) -> dict[Path, str]:
        """The candidates that are there with the names of their runs; none while the folder is gone or still empty."""
        try:
            return {each.path: each.run for each in discovery.find_candidates(self.paths)}
        except CheckpointError:
            return {}

    def _settled(self, path: Path) -> CheckpointFile | None:
        """The file, if it is new and whole: unchanged since the last look, while it was read, and decodable or old."""
        stamp, now = _stamp(path), self.following.clock()
        if not stamp or self._taken.get(path) == stamp:
            return None
        before, since = self._seen.get(path, ((), now))
        if before != stamp:
            self._seen[path] = stamp, now
            return None
        file = inspected(path, shown_name(path, self.paths), self.reading, self.inspection_cache)
        if _stamp(path) != stamp or (file.error is not None and now - since < self.following.patience):
            return None
        self._taken[path] = stamp
        return file

    def _why_left(self, file: CheckpointFile) -> str | None:
        """Why a file is no row of this run; None for one that is."""
        if timeline.is_alias(file.name):
            return "is left for the next run: its name is given to copies of other checkpoints"
        if any(file.path == each.path for each in self.files):
            return "was replaced after it was measured: it is left for the next run"
        files = by_run(self.files).get(file.run, [])
        same = next((each for each in files if each.sha256 == file.sha256 and not each.path.exists()), None)
        if same is not None:
            return f"is {same.name}, renamed"
        if files and timeline.in_training_order([files[-1], file], _place)[0] is file:
            return f"comes before {files[-1].name}, which is measured already: it is left for the next run"
        return None


def _place(file: CheckpointFile) -> tuple[str, int | None, float | None, bool]:
    return file.name, file.step, file.epoch, True


def _stamp(path: Path) -> Stamp:
    """Name, size, time and inode of a file, or of all files of a folder; empty where it is gone or changing."""
    try:
        if not path.is_dir():
            return (_entry(path),)
        return tuple(sorted(_entry(Path(folder) / name) for folder, _, names in os.walk(path) for name in names))
    except OSError:
        return ()


def _entry(path: Path) -> tuple[str, int, int, int]:
    status = os.stat(path)
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino


def _age(stamp: Stamp) -> float:
    """Seconds since the last change, by the time that files carry."""
    return time.time() - max(entry[2] for entry in stamp) / 1e9
