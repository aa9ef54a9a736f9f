"""python -m scripts.kat_embed --help"""

from kat.cli.scripts import door

if __name__ == "__main__":
    door("kat_embed")
