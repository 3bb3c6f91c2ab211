"""`python run_bench.py`: the quickstart, or any command of the harness."""

from harness.__main__ import main

if __name__ == "__main__":
    main()
