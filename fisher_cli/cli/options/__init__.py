"""The options of the commands, each said once: how it is typed, what its help says."""

from fisher_cli.cli.options.data import *  # noqa: F403
from fisher_cli.cli.options.model import *  # noqa: F403
from fisher_cli.cli.options.output import *  # noqa: F403
from fisher_cli.cli.options.quantities import *  # noqa: F403
from fisher_cli.cli.options.running import *  # noqa: F403
