"""Reads tables and records in child processes of little time and memory: `python -m tests.report_reading GOOD`.

A line of stdin with a path, as JSON, is answered by a line with the class and the text of the error in which reading it
ends, twice: in a process that reads by itself, as where no other can be had, and in one that has others read. The good
table is read first. No torch is loaded here, which would take most of the address space.
"""

import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from fisher_cli.errors import FisherError
from fisher_cli.storage.reader_process import ReaderOwner
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_folder import report_of
from fisher_cli.storage.run_record import read_record

SECONDS, ADDRESS_SPACE = 10, 3 << 30


def read(path: Path) -> tuple[str, str]:
    """The class and the text of the error; "nothing" where there is none."""
    try:
        read_record(path) if report_of(path) else read_table(path)
    except FisherError as error:
        return "FisherError", str(error)
    except BaseException as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def isolated(path: Path) -> Sequence[str]:
    """The same in a fork of this process, which has imported everything already and reads by itself."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        ReaderOwner.is_possible = False
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(writing, json.dumps(read(path)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    _, status = os.waitpid(process, 0)
    return json.loads(text) if text else ("died", str(status))


def main(good: Path) -> None:
    assert "torch" not in sys.modules
    ReaderOwner.is_possible = False
    read(good)  # what is imported late is imported now
    for line in sys.stdin:
        path = Path(json.loads(line))
        ReaderOwner.is_possible = False
        here = isolated(path)
        ReaderOwner.is_possible = True
        elsewhere = read(path) if path.suffix in {".xlsx", ".parquet"} else here
        print(json.dumps([here, elsewhere]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
