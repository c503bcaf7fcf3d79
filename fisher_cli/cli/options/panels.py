"""The headings under which a command's help lists its options."""

DATA, MODEL, QUANTITIES, RUNNING, OUTPUT = "Data", "Model", "Quantities", "Running", "Output"
