"""The commands: they parse and print; what they do is in fisher_cli.run.sequence."""
