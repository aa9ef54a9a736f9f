"""The commands as processes. Nothing else loads before signals are seen to: one may come while the rest is imported."""

import sys

try:
    from kat.cli.signals import end_on_signals
except KeyboardInterrupt:  # in the milliseconds before signals are seen to
    sys.stderr.write("kat: interrupted; nothing is begun, and the same command goes on\n")
    raise SystemExit(130) from None


def main() -> None:
    """Run the `kat` command as a process."""
    end_on_signals()
    from kat.cli.commands import answer_at_once

    if not answer_at_once(sys.argv[1:]):
        from kat.cli.main import main as run

        run()


def run_script(name: str) -> None:
    """Run one of the origin's five commands as a process."""
    end_on_signals()
    from kat.cli.main import run_script as run

    run(name)
