"""`python -m llmanac`: the command line."""

from llmanac.cli import main

if __name__ == "__main__":
    main()
