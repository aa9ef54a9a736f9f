"""python -m scripts.kat_compute_embeddings_offline --help"""

from kat.cli.process import run_script

if __name__ == "__main__":
    run_script("kat_compute_embeddings_offline")
