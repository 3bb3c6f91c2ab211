"""`python run_bench.py`, and `run-bench`: the quickstart, or any command of the harness.

Whatever interrupts it from its first moment on, while the packages are still being loaded, ends it as later ones do.
"""


def main() -> None:
    """See `harness.cli.main.main`."""
    try:
        import signal

        def interrupt(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores one
                signal.signal(number, interrupt)
        from harness.cli.main import main as command

        command()
    except KeyboardInterrupt:
        import os
        import sys

        print("stopped; to go on, give the same command again", file=sys.stderr, flush=True)
        os._exit(130)  # as `harness.errors.ExitCode` has it; half-loaded packages are in no state for an orderly end


if __name__ == "__main__":
    main()
