"""Run the `longrepo` command: `python -m longrepo`."""

import sys


def main(alone: str = "") -> None:
    """Run the command, or one of its commands `alone`, as the scripts at the top of the repository do. Ctrl-C while
    modules are imported ends it in a line, too."""
    try:
        from longrepo.cli import app
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    if alone:
        app.run_alone(alone)
    else:
        app.main()


if __name__ == "__main__":
    main()
