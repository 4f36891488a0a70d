"""SIFT descriptors of photographs: some 1.1 million rows of 128 integers 0..255, as in SIFT1M.

D. Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 60(2), 2004,
https://doi.org/10.1023/B:VISI.0000029664.99615.94. The pictures are desktop backgrounds and test
photographs that Debian packages carry; each picture is a tenant. The set ``sift577k`` is a seeded
sample of the base of ``sift``, in the same order and with the same queries.

With a contrast threshold of 0.02 these pictures give 633,374 distinct rows; the lower one used here
keeps weaker keypoints too, which is what brings the set past a million.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets import cache, sources
from datasets.recipe import HOLD_OUT_SEED, Parts, Recipe, Report, hold_out, pick
from datasets.store import load

_PACKAGES = (
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "gnome-backgrounds",
    "ukui-wallpapers",
    "visp-images-data",
)
_OPENCV = "opencv-python-headless"
_CONTRAST_THRESHOLD = 0.006
_ROWS_PER_PICTURE_MAX = 120_000
_ROWS_PER_PICTURE_MIN = 200
_PICTURE_BYTES_MIN = 150_000
_SIDE_PIXELS_MAX = 4096
_WORKERS = 2
_SAMPLE_ROWS = 577_568

_PICTURE = re.compile(r"\.(png|jpe?g|webp)$", re.IGNORECASE)
_PLASMA = re.compile(r"wallpapers/([^/]+)/contents/images(_dark)?/")
_UNWANTED = re.compile(r"Gaussian-filter|faces|warp_|AprilTag|tag\d")
"""Filtered copies of one picture, and fiducial markers."""
_VARIANT = re.compile(r"[_-]\d+x\d+|[-_](no-logo|[ld])$")
"""Size, logo, and light or dark variants in a file name: one picture all the same."""


def pictures(files: list[Path]) -> list[tuple[str, Path]]:
    """Choose one file, the largest, for each distinct picture.

    Returns
    -------
    list of (str, Path)
        Name and file, the largest file first.
    """
    best: dict[str, Path] = {}
    for path in files:
        text = path.as_posix()
        if not _PICTURE.search(text) or _UNWANTED.search(text):
            continue
        if path.is_symlink() or path.stat().st_size < _PICTURE_BYTES_MIN:
            continue
        plasma = _PLASMA.search(text)
        if plasma and plasma.group(2):
            continue
        name = plasma.group(1) if plasma else _VARIANT.sub("", path.stem)
        if name not in best or path.stat().st_size > best[name].stat().st_size:
            best[name] = path
    return sorted(best.items(), key=lambda item: (-item[1].stat().st_size, item[0]))


def describe(path: Path) -> NDArray[np.uint8]:
    """Return the SIFT descriptors of one picture, shape (k, 128), the strongest kept if too many.

    A file that OpenCV cannot read gives no rows.
    """
    cv2 = sources.module("cv2", _OPENCV)
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        return np.empty((0, 128), dtype=np.uint8)
    ratio = _SIDE_PIXELS_MAX / max(picture.shape)
    if ratio < 1:
        picture = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    detector = cv2.SIFT_create(contrastThreshold=_CONTRAST_THRESHOLD)
    points, rows = detector.detectAndCompute(picture, None)
    if rows is None:
        return np.empty((0, 128), dtype=np.uint8)
    if len(rows) > _ROWS_PER_PICTURE_MAX:
        strength = np.array([point.response for point in points], dtype=np.float32)
        rows = rows[np.argsort(-strength, kind="stable")[:_ROWS_PER_PICTURE_MAX]]
    return np.asarray(rows, dtype=np.uint8)


def distinct_rows(rows: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return, ascending, the index of the first occurrence of each distinct row."""
    keys = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel()
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def make(report: Report) -> Parts:
    """Describe every picture, drop repeated descriptors, and hold queries out."""
    stored = cache.root() / "sources" / f"sift-{_CONTRAST_THRESHOLD}-{_ROWS_PER_PICTURE_MAX}.npz"
    if not stored.is_file():
        _describe_all(stored, report)
    with np.load(stored) as arrays:
        return hold_out(
            arrays["rows"],
            {"tenants": arrays["tenants"]},
            tenant_names=arrays["names"].tolist(),
            sources=arrays["sources"].tolist(),
        )


def make_sample(report: Report) -> Parts:
    """Sample the base of the prepared set ``sift``; its queries are used as they are."""
    whole = load("sift")
    assert whole.tenants is not None
    assert whole.query_tenants is not None
    rng = np.random.default_rng(HOLD_OUT_SEED)
    rows = np.sort(rng.choice(len(whole.base), size=_SAMPLE_ROWS, replace=False))
    report("sampling rows", 0, 1)
    base = np.asarray(whole.base[rows])
    report("sampling rows", 1, 1)
    return Parts(
        base=base,
        queries=np.asarray(whole.queries),
        columns={"tenants": pick(whole.tenants, rows)},
        query_columns={"tenants": np.asarray(whole.query_tenants)},
        tenant_names=whole.tenant_names or (),
        sources=["sift"],
    )


def _describe_all(stored: Path, report: Report) -> None:
    cv2 = sources.module("cv2", _OPENCV)
    cv2.setNumThreads(1)  # pictures are described side by side instead
    files: list[Path] = []
    versions = [sources.package_version(_OPENCV)]
    for step, package in enumerate(_PACKAGES):
        report("fetching pictures", step, len(_PACKAGES))
        found, version = sources.debian_files(package)
        files += found
        versions.append(version)
    report("fetching pictures", len(_PACKAGES), len(_PACKAGES))
    names: list[str] = []
    blocks: list[NDArray[np.uint8]] = []
    for name, rows in _described(pictures(files), report):
        if len(rows) >= _ROWS_PER_PICTURE_MIN:
            names.append(name)
            blocks.append(rows)
    every = np.concatenate(blocks)
    tenants = np.repeat(np.arange(len(blocks), dtype=np.int32), [len(rows) for rows in blocks])
    keep = distinct_rows(every)
    with cache.replacing(stored) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            rows=every[keep],
            tenants=tenants[keep],
            names=np.array(names),
            sources=np.array(versions),
        )


def _described(
    chosen: list[tuple[str, Path]], report: Report
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    report("describing pictures", 0, len(chosen))
    with ThreadPoolExecutor(_WORKERS) as pool:
        results = pool.map(describe, [path for _, path in chosen])
        for step, ((name, _), rows) in enumerate(zip(chosen, results, strict=True), start=1):
            report("describing pictures", step, len(chosen))
            yield name, rows


_LICENCE = "pictures GPL-2 and CC-BY-SA: derive locally, do not redistribute"

RECIPE = Recipe(
    name="sift",
    metric="l2",
    title="SIFT of Debian's photographs, 128-d",
    licence=_LICENCE,
    make=make,
)
RECIPE_SAMPLE = Recipe(
    name="sift577k",
    metric="l2",
    title="577,568 rows of sift, same queries",
    licence=_LICENCE,
    make=make_sample,
    needs=("sift",),
)
