"""`python -m fisher_cli` is `fisher`."""

from fisher_cli.cli.app import main

if __name__ == "__main__":
    main()
