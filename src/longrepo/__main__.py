"""`python -m longrepo` is the `longrepo` command."""

from longrepo.cli.app import main

if __name__ == "__main__":
    main()
