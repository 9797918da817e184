"""The tables: measurements, and their ratios to the targets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.floor import Floor
from tests.bench.measuring import Figures, Plan, Results
from tests.bench.systems import SYSTEMS


@dataclass(frozen=True, slots=True)
class Comparison:
    """A gateway and a peer; the target ratio of their requests per second, by workload."""

    gateway: str
    peer: str
    targets: Mapping[str, float]


COMPARISONS = (
    Comparison(
        "gateway-sqlite",
        "plain-sqlite",
        {"W1": 60, "W1b": 55, "W2": 90, "W3": 60, "W4": 60, "W5": 15, "W6": 2, "W7": 28},
    ),
    Comparison(
        "gateway-postgresql",
        "plain-postgresql",
        {"W1": 60, "W1b": 50, "W2": 40, "W3": 40, "W4": 60, "W5": 12, "W6": 12, "W7": 24},
    ),
    Comparison(
        "gateway-postgresql",
        "mercurius",
        {"W1": 2.5, "W1b": 2.5, "W2": 1.5, "W3": 1.9, "W4": 2.5, "W5": 0.8, "W6": 1.6, "W7": 2},
    ),
    Comparison(
        "gateway-postgresql",
        "postgraphile",
        {"W1": 6, "W1b": 3, "W2": 3, "W3": 4.5, "W4": 6, "W5": 1, "W7": 4},
    ),
    Comparison("gateway-sqlite", "tuned-sqlite", {"W1": 20, "W3": 20, "W4": 20}),
    Comparison("gateway-postgresql", "tuned-postgresql", {"W1": 20, "W3": 20, "W4": 20}),
    Comparison("gateway-sqlite", "baseline-sqlite", {}),
    Comparison("gateway-postgresql", "baseline-postgresql", {}),
    Comparison("gateway-jwt", "gateway-open", {"W1": 0.9}),
    Comparison("gateway-token", "gateway-open", {"W1": 0.9}),
    Comparison("many-sqlite", "few-sqlite", {"W1": 0.83, "W3": 0.83}),
    Comparison("many-postgresql", "few-postgresql", {"W1": 0.83, "W3": 0.83}),
    Comparison("workers-2", "workers-1", {"W1": 1.4}),
)
_FLOOR_TARGET = 0.6  # of W1 on SQLite


def markdown(plan: Plan, results: Results, floors: Mapping[str, Floor], heading: Sequence[str]) -> str:
    parts = ["\n".join(heading)]
    workloads = [workload.name for workload in plan.workloads]
    titles = {system.name: system.title for system in plan.systems}
    parts.append("Requests per second, median of the rounds\n\n" + _grid(workloads, titles, results, _rate))
    parts.append(_ratios(workloads, titles, results))
    parts.append("Latency in ms, p50 / p99\n\n" + _grid(workloads, titles, results, _latency))
    parts.append("CPU per request in us, server / PostgreSQL\n\n" + _grid(workloads, titles, results, _cpu))
    parts.append(
        "Memory of the server in MB, without what SQLite maps of its file\n\n"
        + _grid(workloads, titles, results, _memory)
    )
    if floors:
        parts.append(_floors(floors, results))
    busy = max((figures.all.own_cpu / max(figures.all.seconds, 1e-9) for figures in results.values()), default=0)
    parts.append(f"The load generator used at most {busy:.0%} of its core.")
    return "\n\n".join(part for part in parts if part) + "\n"


def ratio(results: Results, workload: str, one: str, other: str) -> float | None:
    """The median of the rounds' ratios."""
    left, right = results.get((workload, one)), results.get((workload, other))
    if left is None or right is None:
        return None
    return median(a.rate / b.rate for a, b in zip(left.rounds, right.rounds, strict=True))


def _ratios(workloads: Sequence[str], titles: Mapping[str, str], results: Results) -> str:
    shown = [pair for pair in COMPARISONS if pair.gateway in titles and pair.peer in titles]
    if not shown:
        return ""
    rows = []
    for workload in workloads:
        cells = []
        for pair in shown:
            reached = ratio(results, workload, pair.gateway, pair.peer)
            target = pair.targets.get(workload)
            if reached is None:
                cells.append("-")
            elif target is None:
                cells.append(f"{reached:.3g}x")
            else:
                cells.append(f"{reached:.3g}x ({target:g}x{'' if reached >= target else ', MISSED'})")
        rows.append([workload, *cells])
    head = ["", *(_head(pair, titles) for pair in shown)]
    return "The gateway on the same database, median of the rounds' ratios (target)\n\n" + _table(head, rows)


def _head(pair: Comparison, titles: Mapping[str, str]) -> str:
    of_itself = "" if pair.gateway in SYSTEMS else f"{titles[pair.gateway]} "
    return f"{of_itself}vs {titles[pair.peer]}"


def _floors(floors: Mapping[str, Floor], results: Results) -> str:
    rows = []
    for name, floor in floors.items():
        for kind, sql in floor.sql.items():
            figures = results.get((name, f"gateway-{kind}"))
            best = 1 / (floor.echo + sql)
            reached = "-" if figures is None else f"{_median_rate(figures) / best:.0%}"
            if (name, kind) == ("W1", "sqlite") and figures is not None:
                missed = _median_rate(figures) / best < _FLOOR_TARGET
                reached += f" ({_FLOOR_TARGET:.0%}{', MISSED' if missed else ''})"
            rows.append([name, kind, f"{floor.echo * 1e6:.0f}", f"{sql * 1e6:.0f}", f"{best:.0f}", reached])
    head = ["", "database", "echo, us", "SQL, us", "1 / (echo + SQL), requests/s", "the gateway reaches (target)"]
    return "The floor: a bare ASGI echo of the same bytes, and the bare SQL in process\n\n" + _table(head, rows)


def _grid(workloads: Sequence[str], titles: Mapping[str, str], results: Results, cell: Callable[[Figures], str]) -> str:
    head = ["", *workloads]
    rows = []
    for system, title in titles.items():
        figures = [results.get((workload, system)) for workload in workloads]
        rows.append([title, *("-" if found is None else cell(found) for found in figures)])
    return _table(head, rows)


def _median_rate(figures: Figures) -> float:
    return median(sample.rate for sample in figures.rounds)


def _rate(figures: Figures) -> str:
    rate = _median_rate(figures)
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def _latency(figures: Figures) -> str:
    whole = figures.all
    return f"{whole.percentile(50) * 1e3:.3g} / {whole.percentile(99) * 1e3:.3g}"


def _cpu(figures: Figures) -> str:
    count = max(len(figures.all.latencies), 1)
    server = f"{figures.cpu / count * 1e6:.0f}"
    return server + (f" / {figures.database_cpu / count * 1e6:.0f}" if figures.database_cpu else "")


def _memory(figures: Figures) -> str:
    return f"{figures.resident / 1e6:.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join(padded) + " |"

    yield line(head)
    yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    yield from map(line, rows)
