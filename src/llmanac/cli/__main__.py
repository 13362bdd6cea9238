"""`python -m llmanac.cli`: the same as the program `llmanac`."""

from llmanac.cli import main

if __name__ == "__main__":
    main()
