"""Sections of the report beside those of arms at equal recall: one function per command."""

from __future__ import annotations

from typing import Any

from bench.tenants.tables import FIRST, megabytes, number, ratio, setting, table

Data = dict[str, Any]


def _shape(made: Data) -> str:
    return (
        f"{made['rows']:,} rows × {made['dim']}, {made['tenants']:,} tenants, sharing "
        f"{made['sharing']:.1f}."
    )


def operations_lines(data: Data) -> list[str]:
    """Milliseconds of each operation by arm."""
    arms: Data = data["operations"]
    steps = dict.fromkeys(
        name
        for arm in arms.values()
        for name, found in arm.items()
        if isinstance(found, dict) and "p50_us" in found
    )
    rows = []
    for step in steps:
        cells = [step]
        for arm in arms.values():
            found = arm.get(step)
            if found is None:
                cells.append("–")
            else:
                cells.append(f"{number(found['p50_us'] / 1e3)} / {number(found['p99_us'] / 1e3)}")
        rows.append(cells)
    biggest = max(len(arm.get("drop", ())) for arm in arms.values())
    for place in range(biggest):
        any_drop = next(arm["drop"][place] for arm in arms.values() if arm.get("drop"))
        cells = [f"drop of a tenant of {any_drop['rows']:,} rows, {any_drop['owned']:,} its own"]
        cells += [number(arm["drop"][place]["seconds"] * 1e3) for arm in arms.values()]
        rows.append(cells)
    saved = ["saving all of it, as nothing is on disk before"]
    saved += [number(a["save_all_s"] * 1e3) if "save_all_s" in a else "–" for a in arms.values()]
    lines = [_shape(data["workload"]), "", "Milliseconds of a call, p50 / p99:", ""]
    lines += table(("operation", *arms), [*rows, saved])
    own = arms.get(FIRST, {})
    if "sync_us" in own:
        violations = own["after_all_violations"]
        lines += [
            f"{FIRST} has each call on disk when it returns; writing 4 KB and waiting for the disk "
            f"takes {own['sync_us'] / 1e3:.2f} ms there. `check()` after all of it: "
            f"{'sound' if not violations else '; '.join(violations)}. The per-tenant arm leaves "
            f"out tenants that have no index.",
            "",
        ]
    return lines


def roles_lines(data: Data) -> list[str]:
    """A role of many rows, and unions."""
    found: Data = data.get("roles", {})
    rows = [
        (step, str(f["rows_each"]), number(f["p50_us"] / 1e3), number(f["p99_us"] / 1e3))
        for step, f in found.items()
        if isinstance(f, dict)
    ]
    if not rows:
        return []
    return [
        f"A role of {found['role_rows']:,} rows, a user of {found['user_rows']:,}; 4 KB are on "
        f"disk in {found['sync_us'] / 1e3:.2f} ms.",
        "",
        *table(("step", "rows", "p50 ms", "p99 ms"), rows),
    ]


def saas_lines(data: Data) -> list[str]:
    """Opening, idle memory and latencies of very many tenants."""
    made, lines = data["workload"], [_shape(data["workload"]), ""]
    if not data.get("idle"):
        return lines

    def middle(which: str, name: str) -> float:
        values = sorted(one[name] for one in data[which])
        return float(values[len(values) // 2])

    extra = middle("idle", "anonymous_bytes_after_nobody") - middle(
        "empty", "anonymous_bytes_after_nobody"
    )
    build = data["arm"]["build"]
    rows = [
        ("build, s", number(build["build_s"]), ""),
        (
            "open, ms",
            number(middle("idle", "open_s") * 1e3),
            f"{middle('empty', 'open_s') * 1e3:.3g}",
        ),
        (
            "anonymous KB after opening and asking for a tenant that is not there",
            number(middle("idle", "anonymous_bytes_after_nobody") / 1e3),
            number(middle("empty", "anonymous_bytes_after_nobody") / 1e3),
        ),
        ("bytes of memory per idle tenant", f"{extra / made['tenants']:.2f}", "–"),
        (
            "disk, MB",
            megabytes(middle("idle", "disk_bytes")),
            megabytes(middle("empty", "disk_bytes")),
        ),
    ]
    lines += table(("", f"{made['tenants']:,} tenants", "no tenants"), rows)
    for label, name in (("in memory", "wake"), ("on disk", "wake_pages_on_disk")):
        if name in data:
            first = data[name]["first_query_of_the_process_s"] * 1e3
            lines += [
                f"First query of a process, pages {label}: {number(first)} ms (kernels load)."
            ]
    lines += [""]
    lines += table(
        (
            "pass",
            "queries",
            "recall",
            "p50 µs",
            "p99 µs",
            "mean µs",
            "max µs",
            "KB read",
            "anon MB",
        ),
        [
            (
                label,
                f"{p['queries']:,}",
                number(p.get("recall")),
                number(p["p50_us"]),
                number(p["p99_us"]),
                number(p["mean_us"]),
                number(p["max_us"]),
                number(p["storage_bytes"] / 1e3),
                megabytes(p["anonymous"]["now"] - p["anonymous"]["baseline"]),
            )
            for label, p in data.get("passes", {}).items()
        ],
    )
    return lines


def load_lines(data: Data) -> list[str]:
    """Latencies of a small tenant, quiet and beside a load."""
    if "latency" not in data:
        return []
    lines = [
        f"A tenant of {data['small_rows']:,} rows asks in one thread; another tenant upserts 1,000 "
        f"rows a call without a pause.",
        "",
    ]
    rows = []
    for label, f in data["latency"].items():
        quiet = data["latency"][f"{label.split()[0]} quiet"]
        cells = [number(f[name]) for name in ("p50_us", "p99_us", "p999_us", "max_us")]
        rows.append(
            (
                label,
                f"{f['queries']:,}",
                *cells,
                ratio(f["p50_us"], quiet["p50_us"]),
                ratio(f["p99_us"], quiet["p99_us"]),
            )
        )
    head = ("", "queries", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "p50 ÷ quiet", "p99 ÷ quiet")
    lines += table(head, rows)
    for label, name in (("thread", "loader_thread"), ("process", "loader_process")):
        if name in data:
            told = data[name]
            lines += [
                f"Loading {label}: {told['rows'] / told['seconds']:,.0f} rows/s, longest call "
                f"{told['longest_call_s']:.2f} s. "
            ]
    return [*lines, ""]


def filter_lines(data: Data) -> list[str]:
    """The quickest setting at recall 0.95, by filter and arm."""
    arms: Data = data["arms"]
    made = data["workload"]
    lines = [
        f"{made['rows']:,} rows × {made['dim']} ({made['metric']}, {made['dataset']}), k = "
        f"{data['settings']['k']}, one thread, warm, in turns. Mean µs of the quickest setting at "
        f"recall 0.95 or above; in brackets its recall. “New” is a range that was never asked "
        f"before; the others are repeated by all queries of their set.",
        "",
    ]
    lost = [f"{name}: {arm['reason']}" for name, arm in arms.items() if arm["status"] != "ok"]
    lines += [f"Not measured: {'; '.join(lost)}", ""] if lost else []
    peers = [name for name, arm in arms.items() if arm["sets"]]
    rows = []
    for one in made["filters"]:
        points = {}
        for name in peers:
            points[name] = (arms[name]["sets"].get(one["name"]) or {}).get("at_target")
        if not any(points.values()):
            continue
        cells = [f"{one['name']} ({one['rows']:,})"]
        for name in peers:
            cells.append(_cell(arms[name], one["name"], points[name]))
        own = points.get(FIRST) or {}
        rivals = [p["mean_us"] for name, p in points.items() if p and name != FIRST]
        cells.append(ratio(min(rivals, default=None), own.get("mean_us")))
        rows.append(cells)
    lines += table(("filter (rows)", *peers, f"best peer ÷ {FIRST}"), rows)
    return lines


def _cell(arm: Data, name: str, point: Data | None) -> str:
    if point:
        return f"{number(point['mean_us'])} ({point['recall']:.3f}; {setting(point)})"
    curve = (arm["sets"].get(name) or {"curve": []})["curve"]
    best = max((p["recall"] for p in curve), default=None)
    return "–" if best is None else f"best recall {best:.3f}"
