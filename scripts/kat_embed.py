"""python -m scripts.kat_embed --help"""

from kat.doors import door

if __name__ == "__main__":
    door("kat_embed")
