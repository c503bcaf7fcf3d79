"""`fisher models` and `fisher datasets`: the names that --model and --data know."""

from fisher_cli.cli import completion


def models() -> None:
    """List the networks that --model knows by name. Any other network needs a function, such as ./net.py:make."""
    from fisher_cli.reports.console import Console

    console = Console()
    console.names(completion.MODELS.split())
    console.message("also: resnetD-cifar for every D = 6n + 2, and wrn-D-K for every D = 6n + 4")
    console.message("networks of timm: --model timm:NAME (pip install 'fisher-cli[timm]')")
    console.message("folders of transformers: recognised by config.json (pip install 'fisher-cli[hf]')")
    console.message(
        "without --model, names and shapes of the weights decide; see which network: fisher inspect CHECKPOINTS"
    )


def datasets() -> None:
    """List the datasets that --data knows, with splits, classes, image sizes and packages, and its other forms."""
    from fisher_cli.inputs.data.catalogue import catalogue_text
    from fisher_cli.reports.console import Console

    console = Console()
    console.write(catalogue_text())
    console.next_step("fisher analyze CHECKPOINTS --data NAME -o trend.csv")
