"""What the commands do, from Python and without printing."""
