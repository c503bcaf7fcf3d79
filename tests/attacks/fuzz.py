"""Decodes mutated files in forked batches, so that a crash of the process counts: `python -m tests.attacks.fuzz N`.

Prints one line of JSON: how many were refused and how many read, how many signals, other exceptions and files that took
too much work there were, and the seed of the first of each.
"""

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.containers import decode
from tests.attacks.child import limit, read_here
from tests.attacks.mutation import mutated, originals
from tests.effort import Effort

BATCH = 200
MOST_CALLS = 10**6


def one(seed: int, files: list[bytes]) -> tuple[str, str]:
    """What became of the file with this seed: "refused", "read", or what should not have been."""
    draw = random.Random(seed)
    data = mutated(files[seed % len(files)], draw)
    effort = Effort()
    try:
        with effort.counting_calls():
            decode(data, Path("mutated.pt"))
        outcome, why = "read", ""
    except CheckpointError as error:
        text = str(error)
        outcome, why = ("refused", "") if text.isprintable() and ";" in text else ("malformed", text)
    except BaseException as error:
        outcome, why = "escaped", f"{type(error).__name__}: {error}"
    return ("slow", f"seed {seed}") if effort.calls > MOST_CALLS else (outcome, f"seed {seed} {why}"[:300])


def batch(first: int, count: int, files: list[bytes]) -> dict[str, object]:
    """The outcomes of `count` files, decoded in a fork of this process."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        try:
            limit()
            found = [one(seed, files) for seed in range(first, first + count)]
            outcomes = Counter(outcome for outcome, _ in found)
            odd = [why for outcome, why in found if outcome not in {"refused", "read"}]
            os.write(writing, json.dumps([outcomes, odd[:3]]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    _, status = os.waitpid(process, 0)
    outcomes, odd = json.loads(text) if text else ({"lost": count}, [f"batch from seed {first}"])
    return {"signals": int(os.WIFSIGNALED(status)), "outcomes": outcomes, "odd": odd}


def main(count: int) -> None:
    files = list(originals().values())
    read_here()
    for file in files:
        decode(file, Path("good.pt"))
    signals, outcomes, odd = 0, Counter[str](), []
    for first in range(0, count, BATCH):
        found = batch(first, min(BATCH, count - first), files)
        signals += found["signals"]
        outcomes.update(found["outcomes"])
        odd += found["odd"]
    sys.stdout.write(json.dumps({"signals": signals, "outcomes": outcomes, "odd": odd[:10]}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
