"""What the ranks of a run must see alike before they begin."""

from collections.abc import Sequence
from itertools import zip_longest

from fisher_cli.curvature.problem.process_group import World
from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile


def refuse_other_files(files: Sequence[CheckpointFile], world: World) -> None:
    """Make sure that all ranks have found the same checkpoints.

    Raises:
        CheckpointError: they have not.
    """
    first, *others = world.exchange([[file.name, file.sha256] for file in files])
    for rank, seen in enumerate(others, 1):
        if odd := next((one or other for one, other in zip_longest(first, seen) if one != other), None):
            msg = f"{odd[0]}: rank {rank} does not see the same file as rank 0; all must see one folder, at rest"
            raise CheckpointError(msg)
