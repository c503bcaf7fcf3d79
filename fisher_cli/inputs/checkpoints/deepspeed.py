"""DeepSpeed's `global_stepN` folders → the one file that holds all weights, where there is one."""

import os
import re
from pathlib import Path
from typing import Final

from fisher_cli.errors import NoWeightsError
from fisher_cli.inputs.checkpoints.stored_files import Stored, inside, read_file
from fisher_cli.inputs.formats.containers import one_line
from fisher_cli.inputs.formats.reading import Reading

MODEL_STATES: Final = re.compile(r"(?:zero_pp_rank_[0-9]+_)?mp_rank_[0-9]+_model_states\.pt")
_ALL_WEIGHTS: Final = "mp_rank_00_model_states.pt"


def read_deepspeed(folder: Path, reading: Reading) -> Stored:
    """Return what a folder's file of model states holds; without shards it holds all weights, under `module`.

    Raises:
        NoWeightsError: The weights are in shards (ZeRO stage 3) or parts (model parallelism).
        CheckpointError: They cannot be read.
    """
    where = one_line(folder, 500)
    states = sorted(name for name in os.listdir(folder) if MODEL_STATES.fullmatch(name))
    if _ALL_WEIGHTS not in states:
        run = one_line(folder.parent, 400)
        msg = (
            f"{where}: {len(states)} ZeRO-3 shards; join them with the script that DeepSpeed saved beside them: "
            f"python {run}/zero_to_fp32.py {run} joined --tag {one_line(folder.name)}"
        )
        raise NoWeightsError(msg)
    if len(states) > 1:
        msg = f"{where}: {len(states)} parts of a model-parallel network; save it whole: save_16bit_model of DeepSpeed"
        raise NoWeightsError(msg)
    return read_file(inside(folder, _ALL_WEIGHTS, where), reading)
