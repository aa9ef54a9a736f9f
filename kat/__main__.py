"""`python -m kat`: the same as `kat`."""

from kat.cli.process import main

if __name__ == "__main__":
    main()
