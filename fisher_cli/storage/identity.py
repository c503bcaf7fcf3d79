"""What a table is about, told from its record: data, examples, normalisation, network, parameters, likelihood.

Tables of one stem belong together only where all of it is the same.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import OutputError
from fisher_cli.storage.journal import Change
from fisher_cli.storage.report_files import ReportFiles, stem_of, table_path
from fisher_cli.storage.report_folder import record_path
from fisher_cli.storage.run_record import StoredRecord, read_record
from fisher_cli.tables.registry import TABLES
from fisher_cli.text import one_line

# The words in the names of the tables that have a record of their own.
MAIN_WORDS: Final = tuple(dict.fromkeys(TABLES[table.report].word for table in TABLES.values()))
# Settings that decide what is measured, whatever the data are.
_NETWORK: Final = ("model", "model_arguments", "state_key", "use_ema", "recalibrate_bn")
_PARAMETERS: Final = ("include", "exclude", "weights_only", "without_head")
# What leaves the choice to the checkpoint: no difference from what was named.
_OPEN: Final[dict[str, Any]] = {"model": None, "likelihood": "auto"}


@dataclass(frozen=True)
class TableIdentity:
    """What a table's numbers are of; parts that a record does not tell are None or not there.

    Attributes:
        sha256: hash of the examples, their labels and their normalisation.
        data: the dataset and its split in words.
        examples: how many of how many, in words.
        normalization: the name of the constants.
        settings: what else decides about the numbers, by name.
        checkpoints: how many parameters were analysed, by the hash of each checkpoint; None where that is not known.
            Empty where examples of a caller's own were given.
    """

    sha256: str | None
    data: str
    examples: str
    normalization: str
    settings: Mapping[str, Any]
    checkpoints: Mapping[str, Any]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "TableIdentity":
        """The identity of the tables that a record is about.

        Args:
            record: its content, or an analysis' stable metadata.
        """
        data, settings = (_mapping(record.get(name)) for name in ("data", "settings"))
        # Modules are known by their outputs too, which differ from precision to precision.
        checkpoints = [] if settings.get("data") == "tensors" else record.get("checkpoints") or []
        return cls(
            sha256=data.get("identity"),
            data=one_line(" ".join(str(data[key]) for key in ("name", "split") if data.get(key))),
            examples=_examples(data),
            normalization=one_line(str(_mapping(data.get("normalization")).get("name") or "")),
            settings={
                name: json.loads(json.dumps(settings.get(name)))  # tuples as the lists that are read back
                for name in (*_NETWORK, *_PARAMETERS, "likelihood", "labels", "seed")
            },
            checkpoints={str(each["sha256"]): each.get("parameters") for each in checkpoints if each.get("sha256")},
        )

    @property
    def title(self) -> str:
        """The data and the examples in words: `digits train, 200 of 1,400 examples`; "" where nothing is known."""
        return ", ".join(part for part in (self.data, self.examples) if part)

    def differences(self, other: "TableIdentity") -> list[Change]:
        """What this one has otherwise than the other, which comes first in each change; none where both are the same.

        What one of them does not tell, or leaves to the checkpoint, is no difference.
        """
        found = []
        if self.title and other.title and self.title != other.title:
            found = [Change("examples", other.title, self.title)]
        elif None not in {self.sha256, other.sha256} and self.sha256 != other.sha256:
            found = [*self._prepared(other)] or [Change("examples", str(other.sha256)[:15], str(self.sha256)[:15])]
        for name in (*_NETWORK, *_PARAMETERS, "likelihood"):
            before, now = other.settings.get(name), self.settings.get(name)
            is_open = name in _OPEN and _OPEN[name] in (before, now)
            if not is_open and before != now and not (name == "model_arguments" and self._model_is_open(other)):
                found.append(Change(name, _shown(before), _shown(now)))
        if self.checkpoints and other.checkpoints:
            shared = self.checkpoints.keys() & other.checkpoints.keys()
            if not shared:
                found.append(Change("checkpoints", "others", "none of these"))
            counts = [(other.checkpoints[each], self.checkpoints[each]) for each in sorted(shared)]
            odd = next((pair for pair in counts if None not in pair and pair[0] != pair[1]), None)
            if odd is not None and not any(each.place in _PARAMETERS for each in found):
                found.append(Change("parameters", _shown(odd[0]), _shown(odd[1])))
        return found

    def _prepared(self, other: "TableIdentity") -> Iterator[Change]:
        """In what the same number of examples of the same data differ, as far as names tell.

        Yields:
            Normalisation, labels or seed.
        """
        if self.normalization != other.normalization:
            yield Change("normalisation", other.normalization, self.normalization)
        for name in ("labels", "seed"):
            if (before := other.settings.get(name)) != (now := self.settings.get(name)):
                yield Change(name, _shown(before), _shown(now))

    def _model_is_open(self, other: "TableIdentity") -> bool:
        return None in {self.settings.get("model"), other.settings.get("model")}


def beside(main: Path, word: str) -> Iterator[tuple[Path, StoredRecord]]:
    """The other reports of a stem, as far as their records can be read.

    Args:
        main: the file of a main table.
        word: its word in that name; "" for none.

    Yields:
        The file of each other main table, and its record.
    """
    for other in MAIN_WORDS:
        path = table_path(main, other, word)
        if other == word:
            continue
        try:
            record = read_record(record_path(path), follow=False)
        except (OSError, ValueError):
            continue
        if name := next((name for name in record.tables if Path(name).stem == path.stem), None):
            yield path.with_name(name), record


def refuse_unlike(files: ReportFiles, word: str, stable: Mapping[str, Any]) -> None:
    """Refuse to write tables beside others of the same stem that are of other data, or of another network.

    A report that is there and is of the same as what is to be written was let in before, and may be gone on with.

    Args:
        files: those that are to be written; with `force` nothing is refused.
        word: of their main table.
        stable: what they are of: an analysis' stable metadata.

    Raises:
        OutputError: others are there.
    """
    if files.force:
        return
    now = TableIdentity.of(stable)
    try:
        if not now.differences(TableIdentity.of(read_record(files.record, follow=False).content)):
            return
    except (OSError, ValueError):
        pass
    for path, record in beside(files.main, word):
        before = TableIdentity.of(record.content)
        if differing := now.differences(before):
            said = "; ".join(f"{each.place}: {each.before} there, {each.now} here" for each in differing[:3])
            other = files.main.with_name(f"{stem_of(files.main, word)}-2{files.main.suffix}")
            same = _same_examples(record.content) if now.title != before.title else ""
            msg = (
                f"cannot write {files.main} beside {path.name}, which is not of the same: {said}; choose another name, "
                f"as in -o {shlex.quote(str(other))}{same}, or write it there all the same with --force"
            )
            raise OutputError(msg)


def _same_examples(record: Mapping[str, Any]) -> str:
    """What to type for the examples of a record, in words that follow a comma."""
    data, settings = (_mapping(record.get(name)) for name in ("data", "settings"))
    limit = "all" if data.get("examples") == data.get("of") else settings.get("limit")
    words = {"--split": data.get("split"), "--limit": limit}
    typed = " ".join(f"{option} {shlex.quote(str(value))}" for option, value in words.items() if value)
    return f", take the same examples with {one_line(typed)}" if typed else ""


def _examples(data: Mapping[str, Any]) -> str:
    counts = [data.get(name) for name in ("examples", "of")]
    known = [f"{each:,}" for each in counts if isinstance(each, int)]
    return f"{' of '.join(known)} examples" if known else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shown(value: Any) -> str:
    return one_line(json.dumps(value))[:80]
