"""`fisher models` and `fisher datasets`: the names that --model and --data know."""


def models() -> None:
    """List the networks that --model knows by name; any other goes by the function that makes it, as ./net.py:make."""
    from fisher_cli.inputs.architectures import known_models
    from fisher_cli.reports.console import Console

    Console().write("".join(f"{name}\n" for name in known_models()))


def datasets() -> None:
    """List the datasets that --data knows: splits, classes, image size, packages needed; and its other forms."""
    from fisher_cli.inputs.catalogue import catalogue_text
    from fisher_cli.reports.console import Console

    Console().write(catalogue_text())
