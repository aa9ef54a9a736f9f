"""python -m scripts.kat_compute_embeddings_offline --help"""

from kat.cli.scripts import door

if __name__ == "__main__":
    door("kat_compute_embeddings_offline")
