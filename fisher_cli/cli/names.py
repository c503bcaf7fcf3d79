"""`fisher models` and `fisher datasets`: the names that --model and --data know."""


def models() -> None:
    """List the networks that --model knows by name; any other goes by the function that makes it, as ./net.py:make."""
    from fisher_cli.inputs.networks.architectures import known_models
    from fisher_cli.reports.console import Console

    console = Console()
    console.write("".join(f"{name}\n" for name in known_models()))
    console.message("other depths and widths: resnetD-cifar with D = 6n + 2, wrn-D-K with D = 6n + 4")
    console.message("timm's networks: --model timm:NAME, where timm is installed (pip install 'fisher-cli[timm]')")
    console.message("folders of transformers: their config.json says it (pip install 'fisher-cli[hf]')")
    console.message("without --model the names and shapes of the weights decide: fisher inspect CKPT says what and why")


def datasets() -> None:
    """List the datasets that --data knows: splits, classes, image size, packages needed; and its other forms."""
    from fisher_cli.inputs.data.catalogue import catalogue_text
    from fisher_cli.reports.console import Console

    Console().write(catalogue_text())
