"""python -m scripts.kat_make_prefixes --help"""

from kat.doors import door

if __name__ == "__main__":
    door("kat_make_prefixes")
