"""Whether a report needs any work: it was made of the same records, of the same files, by the same command."""

import json
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

from fisher_cli.storage.journal import Journal
from fisher_cli.storage.report_files import ReportFiles
from fisher_cli.text import digest

if TYPE_CHECKING:
    from fisher_cli.run.sequence import Run

# The command under way and all its words as they were understood, defaults included.
WORDS: ContextVar[str] = ContextVar("WORDS", default="")


def made_of(run: "Run", journal: Journal, files: ReportFiles) -> str:
    """SHA-256 of all that the bytes of a report follow from.

    That are the question and the rows, which the journal holds; the checkpoints in their order, under their names and
    with their places in training; which tables there are, in what form; and the words of the command.
    """
    places = [[file.name, file.sha256, file.step, file.epoch, file.copies] for file in run.files]
    tables = replace(files, inputs=(), force=False)
    text = json.dumps([run.question, journal.sha256(), places, repr(tables), WORDS.get()])
    return digest(text.encode())
