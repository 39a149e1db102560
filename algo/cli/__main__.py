"""`python -m algo.cli` is the `ropd` command."""

from algo.cli import main

if __name__ == "__main__":
    main()
