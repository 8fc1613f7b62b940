"""`python -m cpool` is the command `cpool`."""

from cpool.cli import main

if __name__ == "__main__":
    main()
