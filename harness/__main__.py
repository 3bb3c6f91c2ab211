"""The command from its first moment on: Ctrl-C while the packages are still being loaded ends it as later ones do."""

from __future__ import annotations

import sys


def main() -> None:
    """See `harness.cli.commands.main`."""
    try:
        from harness.cli.commands import main as command

        command()
    except KeyboardInterrupt:
        print("stopped; to go on, give the same command again", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
