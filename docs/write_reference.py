"""Write the two pages of the site that come from the code: python docs/write_reference.py FOLDER"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kat
from kat.cli.commands import COMMANDS, PANELS, SUMMARY
from kat.cli.main import app


def main(folder: Path) -> None:
    """Write `python.md` and `commands.md` into a folder, those of them that are not as they would be."""
    folder.mkdir(exist_ok=True)
    for name, page in {"python.md": python_page(), "commands.md": commands_page()}.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            path.write_text(page, encoding="utf-8")


def python_page() -> str:
    """Return the reference of `kat.__all__` as Markdown: signatures and docstrings, which are Markdown already."""
    parts = [
        "# Python API",
        "Every public name of kat, from its docstring. They load on first use: `import kat` is fast. In the examples "
        "`np` is NumPy, `pairs.jsonl` a file of 300 demo pairs and `run` a folder of `kat run` with pair weights.",
    ]
    for name in sorted((name for name in kat.__all__ if name != "__version__"), key=str.lower):
        parts += [f"## kat.{name}", *_described(name, getattr(kat, name))]
        parts += [part for member, value in _members(getattr(kat, name)) for part in _member(name, member, value)]
    parts += ["## kat.\\_\\_version\\_\\_", f"The version, here `{kat.__version__!r}`."]
    return "\n\n".join(parts) + "\n"


def commands_page() -> str:
    """Return the reference of the command line as Markdown: every panel, command and option."""
    parts = ["# Command line", SUMMARY, "Every command takes `--config FILE`, `--json`, `--quiet` and `--verbose` too."]
    for panel, commands in PANELS.items():
        parts.append(f"## {panel}")
        for name in commands:
            page = app[name].generate_docs("markdown", heading_level=3, usage_name=f"kat {name}").strip()
            page = re.sub(f"^kat {name} -m \\S+", f"kat {name}", page, flags=re.M)  # what runs this, if a module does
            parts.append(f"### {name}\n" + page.partition("\n")[2])  # its own heading has the function's name
            parts += ["Examples:", _block("sh", "\n".join(COMMANDS[name].examples))]
    return "\n\n".join(parts) + "\n"


def _described(call: str, value: Any) -> list[str]:
    return [_block("python", _signature(call, value)), *_docstring(value)]


def _member(owner: str, name: str, value: Any) -> list[str]:
    if isinstance(value, property):
        return [f"### {owner}.{name}", *_docstring(value)]
    return [f"### {owner}.{name}()", *_described(f"{owner}.{name}", value)]


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is documented of a class: its own public methods and properties, and those of kat's classes above."""
    if not isinstance(value, type):
        return
    for name, member in inspect.getmembers_static(value):
        home = next(one for one in value.__mro__ if name in vars(one))
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        documented = inspect.isfunction(plain) or isinstance(plain, property)
        if not name.startswith("_") and home.__module__.startswith("kat.") and documented and plain.__doc__:
            yield name, plain


def _signature(call: str, value: Any) -> str:
    """Return how a class or function is called, with a parameter a line where one line is too long."""
    try:
        signature = inspect.signature(value)
    except ValueError:  # an exception takes what Exception takes
        return f"class {call}"
    kind = "class " if isinstance(value, type) else ""
    parameters = [p.replace(annotation=_plain(p.annotation)) for p in signature.parameters.values()]
    result = signature.empty if kind else _plain(signature.return_annotation)
    shown = signature.replace(parameters=parameters, return_annotation=result)
    return kind + call + str(shown) if len(str(shown)) < 90 else kind + call + _wrapped(shown)


def _wrapped(signature: inspect.Signature) -> str:
    one_each = str(signature.replace(return_annotation=signature.empty))[1:-1]
    lines, depth, start = [], 0, 0
    for at, letter in enumerate(one_each):
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and not depth:
            lines.append(one_each[start:at].strip())
            start = at + 1
    lines.append(one_each[start:].strip())
    result = signature.return_annotation
    after = "" if result is signature.empty else f" -> {_Shown(result)!r}"
    return "(\n" + "".join(f"    {line},\n" for line in lines) + f"){after}"


class _Shown(str):
    """An annotation without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _plain(annotation: Any) -> Any:
    return _Shown(annotation) if isinstance(annotation, str) else annotation


def _docstring(value: Any) -> Iterator[str]:
    """Yield the paragraphs of a docstring, examples as blocks."""
    for paragraph in (inspect.getdoc(value) or "").split("\n\n"):
        yield _block("pycon", paragraph) if paragraph.startswith(">>>") else paragraph


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
