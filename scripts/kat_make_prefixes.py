"""python -m scripts.kat_make_prefixes --help"""

from kat.cli.scripts import door

if __name__ == "__main__":
    door("kat_make_prefixes")
