"""`python -m kat.cli`: the same as `kat`."""

from kat.cli.main import main

if __name__ == "__main__":
    main()
