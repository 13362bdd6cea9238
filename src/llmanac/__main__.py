"""`python -m llmanac`, as `torchrun -m llmanac` starts it: the same as the program `llmanac`."""

from __future__ import annotations

from llmanac.cli import main

if __name__ == "__main__":
    main()
