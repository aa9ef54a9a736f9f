"""python -m scripts.kat_make_prefixes --help"""

from kat.cli.process import run_script

if __name__ == "__main__":
    run_script("kat_make_prefixes")
