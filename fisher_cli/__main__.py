"""`python -m fisher_cli` is `fisher`."""

import os
import sys


def _leave_working_folder() -> None:
    """Take the folder that the user stands in off the import path, unless this package lies there.

    Python puts it first for `-m`, and what other libraries may import would be taken from it.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.flags.safe_path and os.path.abspath(sys.path[0]) != home:
        del sys.path[0]


if __name__ == "__main__":
    _leave_working_folder()
    from fisher_cli.cli.app import command_line

    command_line()
