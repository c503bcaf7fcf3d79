"""`--shard` and `--devices`: what they do not go together with."""

from fisher_cli.errors import UsageError
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.report_files import ReportFiles


def read_devices(text: str | None) -> tuple[str, ...]:
    """The names that the text of `--devices` lists.

    Args:
        text: names joined by commas; None for none.

    Raises:
        UsageError: there is an empty one.
    """
    names = tuple(name.strip() for name in text.split(",")) if text is not None else ()
    if not all(names):
        msg = f"--devices {text}: type all, numbers as in 0,1, or names as in cpu,cpu"
        raise UsageError(msg)
    return names


def check_sharing(
    settings: Settings, resources: Resources, files: ReportFiles | None, *, follows: bool = False
) -> None:
    """Refuse a shard or several devices where they do not go together with the rest.

    Args:
        settings: what is asked.
        resources: with what.
        files: the report's; None for no file.
        follows: whether the run waits for checkpoints that come later.

    Raises:
        UsageError: the run has to be seen as a whole, its device is named twice, or there is no file for `fisher
            merge`.
    """
    if resources.devices and follows:
        msg = "--devices with --follow: checkpoints come one by one; leave one of the two out"
        raise UsageError(msg)
    if resources.devices and resources.device != "auto":
        msg = f"--device {resources.device} with --devices: leave one of the two out"
        raise UsageError(msg)
    shard = resources.shard
    if shard is None:
        return
    if settings.normalize == "auto":
        msg = (
            f"--shard {shard} with --normalize auto: the last checkpoint of the whole run would have to choose; type "
            "its choice, which fisher analyze says without --shard, or numbers m1,m2,m3/s1,s2,s3"
        )
        raise UsageError(msg)
    if follows:
        msg = f"--shard {shard} with --follow: the shares change while a run grows; leave one of the two out"
        raise UsageError(msg)
    if files is None:
        msg = f"--shard {shard} makes a part for fisher merge: name its file, as in -o part-{shard.index}.csv"
        raise UsageError(msg)
