"""python -m scripts.kat_train_grpo --help"""

from kat.cli.scripts import door

if __name__ == "__main__":
    door("kat_train_grpo")
