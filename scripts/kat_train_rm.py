"""python -m scripts.kat_train_rm --help"""

from kat.doors import door

if __name__ == "__main__":
    door("kat_train_rm")
