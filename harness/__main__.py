"""`python -m harness`: see `run_bench`."""

from run_bench import main

if __name__ == "__main__":
    main()
