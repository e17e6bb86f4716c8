"""The results of a run: medians, the ratio to the best peer, as text, JSON and a chart."""

from __future__ import annotations

import dataclasses
import html
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads import Metric

NOT_AVAILABLE = "n/a"


@dataclass
class Results:
    """All figures of all rounds, and what they were measured on."""

    date: str
    machine: dict[str, Any]
    versions: dict[str, dict[str, str]]
    rounds: int
    # Metric, peer, one figure or word a round.
    figures: dict[str, dict[str, list[float | str]]] = field(default_factory=dict)
    floor: dict[str, list[float | str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, metric: str, peer: str, value: float | str) -> None:
        """Add the figure of one round."""
        self.figures.setdefault(metric, {}).setdefault(peer, []).append(value)

    def median(self, metric: str, peer: str) -> float | str | None:
        """Return the median, or the word that stood in its place, or None."""
        return median(self.figures.get(metric, {}).get(peer, []))

    def divide(self, name: str, ours: str, dividend: str, divisor: str, peer: str) -> None:
        """Add the quotient of two medians, if there are both."""
        above, below = self.median(dividend, ours), self.median(divisor, peer)
        if isinstance(above, float) and isinstance(below, float) and below > 0:
            self.add(name, ours, above / below)

    def best_peer(self, metric: str, ours: str, is_more_better: bool) -> tuple[str, float] | None:
        """Return the peer with the best figure; our other interfaces, named after us, are none."""
        found = [
            (value, peer)
            for peer in self.figures.get(metric, {})
            if not peer.startswith(ours) and isinstance(value := self.median(metric, peer), float)
        ]
        if not found:
            return None
        value, peer = max(found) if is_more_better else min(found)
        return peer, value


def median(values: list[float | str]) -> float | str | None:
    """Return the median of the numbers, unless a word says what happened instead."""
    words = [value for value in values if isinstance(value, str)]
    if words:
        return words[-1]
    numbers = [float(value) for value in values if not isinstance(value, str)]
    return statistics.median(numbers) if numbers else None


def shown(value: float | str | None) -> str:
    """Format a figure with three digits that mean something."""
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, str):
        return value
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def verdict(metric: Metric, own: float | str | None, best: tuple[str, float] | None) -> list[str]:
    """Return the columns for the ratio, the target and whether it is met."""
    ratio = f"{own / best[1]:.2f}x" if isinstance(own, float) and best and best[1] else ""
    if metric.target is None:
        return [ratio, "", ""]
    sign = "≥" if metric.is_more_better else "≤"
    target = f"{sign} {metric.target:g}{'' if metric.is_absolute else 'x'}"
    if not isinstance(own, float) or not (metric.is_absolute or best):
        return [ratio, target, "?"]
    reached = own if metric.is_absolute else own / best[1] if best and best[1] else 0.0
    is_met = reached >= metric.target if metric.is_more_better else reached <= metric.target
    return [ratio, target, "yes" if is_met else "no"]


def table(
    results: Results,
    metrics: Mapping[str, Metric],
    floor: Mapping[str, str],
    ours: str,
    peers: list[str],
) -> str:
    """Return everything as text."""
    others = [peer for peer in peers if peer != ours]
    rows = [["", ours, *others, "best peer", "ratio", "target", "met"]]
    for name, metric in metrics.items():
        if name not in results.figures:
            continue
        own = results.median(name, ours)
        best = results.best_peer(name, ours, metric.is_more_better)
        figures = [shown(results.median(name, peer)) for peer in others]
        verdicts = verdict(metric, own, best)
        rows.append([metric.label, shown(own), *figures, best[0] if best else "", *verdicts])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    for name, label in floor.items():
        lines.append(f"floor: {label}: {shown(median(results.floor.get(name, [])))}")
    versions = {name: v for found in results.versions.values() for name, v in found.items()}
    known = {"loky", "Pebble", "billiard", "mpire", "numpy"}
    said = ", ".join(f"{name} {versions[name]}" for name in sorted(known & set(versions)))
    lines += [
        f"{results.date}; {results.machine['cpus']} CPUs, {results.machine['cpu']};"
        f" Linux {results.machine['kernel']}, Python {results.machine['python']}; {said};"
        f" medians of {results.rounds} rounds; 2 workers unless said",
        *(f"failed: {failure}" for failure in results.failures),
    ]
    return "\n".join(lines)


def save(
    results: Results,
    directory: Path,
    metrics: Mapping[str, Metric],
    floor: Mapping[str, str],
    ours: str,
    peers: list[str],
) -> None:
    """Write the results of the day."""
    directory.mkdir(exist_ok=True)
    text = table(results, metrics, floor, ours, peers) + "\n"
    (directory / f"{results.date}.txt").write_text(text)
    content = json.dumps(dataclasses.asdict(results), indent=1, sort_keys=True)
    (directory / f"{results.date}.json").write_text(content + "\n")


BAR_HEIGHT, LABEL_WIDTH, BAR_WIDTH = 22, 330, 380


def chart(results: Results, metrics: Mapping[str, Metric], ours: str) -> str:
    """Return an SVG with a bar for each figure: how many times better than the best peer."""
    bars = []
    for name, metric in metrics.items():
        own, best = (
            results.median(name, ours),
            results.best_peer(name, ours, metric.is_more_better),
        )
        if isinstance(own, float) and best and own > 0 and best[1] > 0:
            factor = own / best[1] if metric.is_more_better else best[1] / own
            bars.append((metric.label, best[0], factor))
    scale = BAR_WIDTH / max((min(factor, 10.0) for _, _, factor in bars), default=1.0)
    height = BAR_HEIGHT * (len(bars) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL_WIDTH + BAR_WIDTH + 170}"'
        f' height="{height}" font-family="sans-serif" font-size="12">',
        f'<text x="4" y="15">Times better than the best peer ({results.date}); the line is 1.</text>',
    ]
    for row, (label, peer, factor) in enumerate(bars, 1):
        y = row * BAR_HEIGHT + 4
        width = min(factor, 10.0) * scale
        color = "#2a7" if factor >= 1 else "#c53"
        parts += [
            f'<text x="4" y="{y + 13}">{html.escape(label)}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT - 6}"'
            f' fill="{color}"/>',
            f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{y + 13}">{factor:.1f}x'
            f" ({html.escape(peer)})</text>",
        ]
    x = LABEL_WIDTH + scale
    parts.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{height}" stroke="#333"/>')
    return "\n".join([*parts, "</svg>", ""])
