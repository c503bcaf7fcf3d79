"""What comes from disk: checkpoints, architectures, datasets. Executes nothing that it finds there."""
