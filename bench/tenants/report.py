"""Tables from raw results: ``report.md`` of a folder; everything in it is derived from the JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.tenants import sections
from bench.tenants.records import load_records
from bench.tenants.tables import FIRST, OWN, megabytes, number, ratio, setting, table

Section = Callable[[dict[str, Any]], list[str]]
HEAD = ("arm", "setting", "recall", "p50 µs", "p99 µs", "mean µs", OWN, "mean at 0.95", OWN)


def anonymous(arm: dict[str, Any]) -> int | None:
    """Anonymous bytes that an arm holds after all queries, imports and queries not counted."""
    memory = arm.get("memory")
    return None if not memory else int(memory["after_queries"] - memory["baseline"])


def contest_lines(data: dict[str, Any]) -> list[str]:
    """Arms at recall 0.95, what they hold, and their whole curves."""
    arms, lines = data["arms"], []
    made = data["workload"]
    lines += [
        f"{made['rows']:,} rows × {made['dim']} ({made['metric']}, {made.get('dataset', '')}), "
        f"{made['tenants']:,} scopes, {made['memberships']:,} memberships, sharing "
        f"{made['sharing']:.2f}; largest {made['largest']:,}, median {made['median']:,}, smallest "
        f"{made['smallest']:,}. k = {data['settings']['k']}, one thread, warm, medians over "
        f"{data['settings']['repeats']} passes in turns.",
        "",
    ]
    skipped = [f"{name}: {arm['reason']}" for name, arm in arms.items() if arm["status"] != "ok"]
    lines += [f"Not measured: {'; '.join(skipped)}", ""] if skipped else []
    names = dict.fromkeys(name for arm in arms.values() for name in arm["sets"])
    for name in names:
        lines += [f"**Queries “{name}”**, the quickest setting at recall 0.95 or above:", ""]
        lines += table(
            (
                "arm",
                "setting",
                "recall",
                "p50 µs",
                "p99 µs",
                "mean µs",
                OWN,
                "mean at 0.95",
                OWN,
            ),
            _at_target(arms, name),
        )
    lines += ["**What they hold:**", ""]
    base = arms.get(FIRST, {})
    lines += table(
        (
            "arm",
            "build s",
            "CPU s",
            "anonymous MB",
            OWN,
            "of it runtime",
            "disk MB",
            OWN,
            "open s",
        ),
        [
            (
                name,
                number(arm.get("build", {}).get("build_s")),
                number(arm.get("build", {}).get("build_cpu_s")),
                megabytes(anonymous(arm)),
                ratio(anonymous(arm), anonymous(base)),
                megabytes(arm.get("runtime_bytes")),
                megabytes(arm.get("build", {}).get("disk_bytes")),
                ratio(
                    arm.get("build", {}).get("disk_bytes"),
                    base.get("build", {}).get("disk_bytes"),
                ),
                number(arm.get("open_s")),
            )
            for name, arm in arms.items()
            if arm["status"] == "ok"
        ],
    )
    lines += ["Anonymous: after all queries, beyond imports and queries; “runtime” is what an "]
    lines += ["almost empty store holds after the same calls. Peers load all they have saved.", ""]
    for name in names:
        lines += [f"<details><summary>Curves, “{name}”</summary>", "", *_curves(arms, name)]
        lines += ["</details>", ""]
    return lines


def _at_target(arms: dict[str, Any], name: str) -> list[list[str]]:
    reference = (arms.get(FIRST, {}).get("sets", {}).get(name) or {}).get("at_target") or {}
    rows = []
    for arm_name, arm in arms.items():
        entry = arm["sets"].get(name)
        if not entry:
            continue
        point = entry.get("at_target")
        if not point:
            best = max((p["recall"] for p in entry["curve"]), default=0.0)
            asked = entry["queries"]
            said = "not asked" if not asked else f"not reached in budget (best {best:.3f})"
            rows.append([arm_name, said, *["–"] * 7])
            continue
        label = f"{arm_name} ({entry['queries']} queries)"
        rows.append(
            [
                label,
                setting(point),
                f"{point['recall']:.4f}",
                number(point["p50_us"]),
                number(point["p99_us"]),
                number(point["mean_us"]),
                ratio(point["mean_us"], reference.get("mean_us")),
                _just_at(point),
                ratio(
                    point["interpolated"]["mean_us"],
                    reference.get("interpolated", {}).get("mean_us"),
                ),
            ]
        )
    return rows


def _just_at(point: dict[str, Any]) -> str:
    found = point["interpolated"]
    return ("≤ " if found["kind"] == "at least" else "") + number(found["mean_us"])


def _curves(arms: dict[str, Any], name: str) -> list[str]:
    rows = [
        (
            arm_name,
            setting(p),
            f"{p['recall']:.4f}",
            f"{p['recall_worst_tenth']:.3f}",
            number(p.get("p50_us")),
            number(p.get("p99_us")),
            number(p.get("mean_us", p["sweep_mean_us"])),
            str(p["strangers"]),
            "" if p["complete"] else f"cut off after {p['queries']} queries",
        )
        for arm_name, arm in arms.items()
        for p in (arm["sets"].get(name) or {"curve": []})["curve"]
    ]
    head = ("arm", "setting", "recall", "worst tenth", "p50 µs", "p99 µs", "mean µs", "strangers")
    return table((*head, ""), rows)


def divide_lines(data: dict[str, Any]) -> list[str]:
    """Rows scanned, bytes and seconds by way of dividing."""
    made, lines = data["workload"], []
    lines += [
        f"{made['rows']:,} rows, {made['tenants']:,} tenants, sharing {made['sharing']:.1f}; "
    ]
    lines += ["exact distances inside postings. Rows and centroids looked at for recall 0.95:", ""]
    for name, searches in data.get("needed", {}).items():
        rows = []
        for search, classes in searches.items():
            known = [c for c in classes if c["queries"]]
            cells = [f"{c['rows']:,.0f} + {c['centroids']:,.0f} ({c['probes']})" for c in known]
            rows.append((search, *cells))
        known = [c for c in next(iter(searches.values())) if c["queries"]]
        heads = [f"tenants of {c['tenant_rows']:,.0f} rows ({c['queries']} queries)" for c in known]
        lines += [f"Queries “{name}”: rows + centroids (postings)", ""]
        lines += table(("way", *heads), rows)
    lines += table(
        ("way", "build s per million", "bytes per entry of a tenant", "with padding", "postings"),
        [
            (
                way,
                number(w["build_s_per_million"]),
                number(w["entry_bytes"]),
                number(w["entry_bytes_padded"]),
                number(int(w["postings"])),
            )
            for way, w in data.get("ways", {}).items()
        ],
    )
    if "tree" in data:
        lines += [
            f"The shared tree: {data['tree']['nodes']:,} nodes, {data['tree']['build_s']:.1f} s.",
            "",
        ]
    return lines


SECTIONS: dict[str, tuple[str, Section]] = {
    "w1": ("W1: many tenants that share rows", contest_lines),
    "natural": ("Natural tenants", contest_lines),
    "divide": ("Ways to divide a tenant", divide_lines),
    "w3": ("W3: access lists", contest_lines),
    "roles": ("W3: a role granted and revoked", sections.roles_lines),
    "operations": ("Operations", sections.operations_lines),
    "w2": ("W2: very many tenants", sections.saas_lines),
    "load": ("A small tenant beside a load", sections.load_lines),
    "filters": ("Filters", sections.filter_lines),
}


def write(folder: Path) -> Path:
    """Write ``report.md`` of a results folder; returns its path."""
    records = load_records(folder)
    lines = ["# Tenants and filters", ""]
    for command, (title, section) in SECTIONS.items():
        if command not in records:
            continue
        data = records[command]
        machine = data["machine"]
        lines += [f"## {title}", ""]
        if not data["complete"]:
            lines += ["*This run was cut short; what it had measured is here.*", ""]
        lines += section(data)
        lines += [
            f"`{machine['command']}`, {machine['date']}, commit {machine['git_commit'][:10]}"
            f"{' with changes' if machine['git_dirty'] else ''}; {machine['cpu']}, "
            f"{machine['cores']} cores, {', '.join(machine['cpu_flags'])}; load "
            f"{machine['load_start'][0]:.1f} at the start.",
            "",
        ]
    path = folder / "report.md"
    path.write_text("\n".join(lines), "utf-8")
    return path
