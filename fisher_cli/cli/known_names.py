"""`fisher models` and `fisher datasets`: the names that --model and --data know."""


def models() -> None:
    """List the networks that --model knows by name; any other goes by the function that makes it, as ./net.py:make."""
    from fisher_cli.inputs.networks.architectures import known_models
    from fisher_cli.reports.console import Console

    console = Console()
    console.names(known_models())
    console.message("others: resnetD-cifar for every D = 6n + 2, wrn-D-K for every D = 6n + 4")
    console.message("timm's networks: --model timm:NAME (needs pip install 'fisher-cli[timm]')")
    console.message("folders of transformers: by their config.json (pip install 'fisher-cli[hf]')")
    console.message("without --model names and shapes of the weights decide: fisher inspect CKPT")


def datasets() -> None:
    """List the datasets that --data knows: splits, classes, image size, packages needed; and its other forms."""
    from fisher_cli.inputs.data.catalogue import catalogue_text
    from fisher_cli.reports.console import Console

    Console().write(catalogue_text())
