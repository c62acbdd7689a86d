"""`python -m faithprobe`: the command line, also for what starts modules: `torchrun -m faithprobe probe ...`."""

from faithprobe.cli import main

if __name__ == "__main__":
    main()
