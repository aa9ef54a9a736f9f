"""python -m scripts.kat_embed --help"""

from kat.cli.process import run_script

if __name__ == "__main__":
    run_script("kat_embed")
