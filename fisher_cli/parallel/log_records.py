"""Lines of logs, made safe for terminals. The module of text has no logs: readers of files begin with it, and fast."""

import logging

from fisher_cli.text import one_line


class EscapedRecord(logging.LogRecord):
    """A line of a log on one line: libraries put names from files into theirs."""

    def getMessage(self) -> str:
        """The message with its arguments."""
        return one_line(super().getMessage())
