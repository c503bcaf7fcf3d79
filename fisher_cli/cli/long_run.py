"""How long a run will still take, and what fewer eigenvalues or examples would save, from its first measurements."""

from fisher_cli.reports.forecast import duration
from fisher_cli.results import Measurement
from fisher_cli.settings import Settings

# Below this a person waits; above it one wants to know what takes the time.
LONG = 5 * 60.0
# What saves less than this share of the time left is not worth what it loses.
WORTHWHILE = 0.2


def long_run(measurement: Measurement, settings: Settings, left: float, whole: float) -> str | None:
    """One line on how long the run will still take, and how long a new one with other options would.

    Eigenvalues take the share that they had in the measurement. With half of the examples each stage takes half as
    long, apart from those that do not depend on their number.

    Args:
        measurement: one that is finished, with the seconds of its stages.
        settings: what is asked.
        left: the seconds that the run will still take.
        whole: those of all its checkpoints, those that are finished too.

    Returns:
        None where the run is short.
    """
    seconds = dict(measurement.timings)
    total = sum(seconds.values())
    if left < LONG or total <= 0:
        return None
    from fisher_cli.run.forecast.profile_run import CONSTANT

    eigenvalues = sum(spent for stage, spent in seconds.items() if stage.startswith("eigenvalues_")) / total
    constant = sum(spent for stage, spent in seconds.items() if stage in CONSTANT) / total
    half = (measurement.examples or 0) // 2
    options = []
    if eigenvalues and settings.spectrum is None:  # there they are what the command is for
        options.append(("--eigenvalues 0", whole * (1 - eigenvalues)))
    if half and not settings.verify:  # identities are verified on a few examples, however many there are
        options.append((f"--limit {half}", whole * (constant + (1 - constant) / 2)))
    saving = [f"about {duration(time)} with {option}" for option, time in options if time < (1 - WORTHWHILE) * left]
    share = f", {100 * eigenvalues:.0f} % of it for eigenvalues" if eigenvalues else ""
    return f"about {duration(left)} left{share}" + (f"; a new run would take {', '.join(saving)}" if saving else "")
