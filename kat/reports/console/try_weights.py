"""What `kat try-weights` found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kat.reports.console.prompts import prompt_lines
from kat.reports.console.text import printable

HEAD = 34


def sentence(facts: Mapping[str, Any]) -> str:
    """Return what the data support, in one sentence, for which heads and features."""
    where = f"linear heads on {facts['model']}'s features, {facts['pairs']:,} pairs"
    if facts["rare"] not in facts["uniform"]:
        return f"no density bins: nothing can be said of the rare ({where})"
    if facts["best"] is None:
        return f"no weighting beats uniform: train uniformly, --blend 0 ({where})"
    gains = next(one["gains"] for one in facts["weightings"] if one["name"] == facts["best"])
    rare, every = (_points(gains[part]["accuracy"]) for part in (facts["rare"], "every pair"))
    if facts["best"] not in facts["flags"]:
        return f"rare fifth {rare}, every pair {every}: tune the L2 for the rare, and train uniformly ({where})"
    return f"rare fifth {rare}, every pair {every}: use {facts['flags'][facts['best']]} ({where})"


def tried_summary(facts: Mapping[str, Any]) -> str:
    """Say in one line what was tried on what."""
    return f"{len(facts['flags'])} weightings on {facts['pairs']:,} pairs"


def tried_lines(facts: Mapping[str, Any]) -> list[str]:
    """For people: uniform's accuracies, then what each weighting adds to them, then the sentence."""
    uniform = facts["uniform"]
    lines = [f"  bad rows passed over       {facts['bad_rows']:,}"] if facts["bad_rows"] else []
    lines += [f"  left out                   {n:,} pairs: {reason}" for reason, n in facts.get("left_out", {}).items()]
    if facts.get("openings_without_weight"):
        lines.append(f"  without density weight     {facts['openings_without_weight']:,} openings")
    lines += [f"  dropped                    {n:,} pairs: {reason}" for reason, n in facts["dropped"].items()]
    lines += prompt_lines(facts)
    bins = [name for name in uniform if name != "every pair"]
    last = bins[-1] if bins else "every pair"
    lines += [
        "",
        f"  {'accuracy, points':<{HEAD}}{'every pair':>15}{'rarest fifth':>15}{'densest fifth':>15}"
        f"{'log-loss, rarest':>18}{'p':>7}{'among permuted':>16}",
        f"  {'uniform':<{HEAD}}"
        + "".join(f"{_share(uniform, part):>15}" for part in ("every pair", facts["rare"], last))
        + f"{_loss(uniform, facts['rare']):>18}",
    ]
    for one in facts["weightings"]:
        gains = one["gains"]
        mark = "*" if one["helps"] else " "
        told = [
            _points(gains[part]["accuracy"]) if part in gains else "–" for part in ("every pair", facts["rare"], last)
        ]
        loss = _hundredths(gains[facts["rare"]]["log_loss"]) if facts["rare"] in gains else "–"
        permuted = one["permuted"]
        rank = "–" if permuted is None else f"{permuted['rank']} of {permuted['count'] + 1}"
        lines.append(
            f"{mark} {printable(one['name'], HEAD - 1):<{HEAD}}"
            + "".join(f"{text:>15}" for text in told)
            + f"{loss:>18}{one['p_rare_log_loss']:>7.3f}{rank:>16}"
        )
    if facts["weightings"]:
        seen = facts["weightings"][0]["gains"]
        detectable = [
            f"{part} {100 * seen[part]['accuracy']['minimum_detectable_effect']:.1f}"
            for part in ("every pair", facts["rare"])
            if part in seen and seen[part]["accuracy"]["minimum_detectable_effect"]
        ]
        lines += [
            "  differences from uniform with 95% intervals; log-loss × 100, less is better; p for the rarest fifth's",
            "  log-loss, corrected for all weightings; * helps. What would be found four times in five, in points: "
            + (", ".join(detectable) or "not known"),
        ]
    return [*lines, "", f"  {facts['sentence']}"]


def _points(difference: Mapping[str, Any]) -> str:
    return _signed(difference, 100.0, 1)


def _hundredths(difference: Mapping[str, Any]) -> str:
    return _signed(difference, 100.0, 2)


def _signed(difference: Mapping[str, Any], scale: float, digits: int) -> str:
    """A difference with half the width of its interval."""
    value, interval = scale * difference["difference"], difference["interval"]
    if interval is None:
        return f"{value:+.{digits}f}"
    half = scale * (interval[1] - interval[0]) / 2
    return f"{value:+.{digits}f} ± {half:.{digits}f}"


def _share(uniform: Mapping[str, Any], part: str) -> str:
    return f"{uniform[part]['accuracy']:.1%}" if part in uniform else "–"


def _loss(uniform: Mapping[str, Any], part: str) -> str:
    return f"{100 * uniform[part]['log_loss']:.2f}" if part in uniform else "–"
