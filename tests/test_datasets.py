"""The dataset tools: exact ground truth, the cache's promises, and the words of their errors."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

import datasets
from datasets import cache, fashion, ground, recipe, sift, sources, store, wordnet
from datasets.__main__ import main

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(autouse=True)
def data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("VECSTORE_DATA", str(tmp_path))
    return tmp_path


def naive_neighbors(base, queries, metric, count):
    """Sort every row by (float64 distance, row), one query and one row at a time."""
    rows, values = [], []
    for query in queries.astype(np.float64):
        pairs = []
        for row, vector in enumerate(base.astype(np.float64)):
            if metric == "l2":
                distance = float(np.sum((vector - query) ** 2))
            else:
                norms = float(np.sqrt(np.sum(vector**2)) * np.sqrt(np.sum(query**2)))
                distance = 1 - float(np.sum(vector * query)) / norms if norms else 1.0
            pairs.append((distance, row))
        pairs.sort()
        rows.append([row for _, row in pairs[:count]])
        values.append([distance for distance, _ in pairs[:count]])
    return np.array(rows), np.array(values)


# --- ground truth ---------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("block_rows", [37, 10_000])
def test_neighbors_equal_the_naive_ones(metric, block_rows):
    rng = np.random.default_rng(1)
    base = rng.normal(size=(400, 17)).astype(np.float32)
    queries = rng.normal(size=(9, 17)).astype(np.float32)
    rows, values = naive_neighbors(base, queries, metric, 20)
    found, distances = ground.exact_neighbors(base, queries, metric, 20, block_rows=block_rows)
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_allclose(distances, values, rtol=1e-6, atol=1e-7)
    assert (found.dtype, distances.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("search", [ground.exact_neighbors, ground.float64_neighbors])
def test_ties_are_in_order_of_row(metric, search):
    """Many more equal rows than spare candidates, spread over all blocks."""
    rng = np.random.default_rng(2)
    distinct = rng.integers(0, 3, size=(4, 6)).astype(np.float32) + 1
    base = distinct[rng.integers(0, 4, size=1000)]
    queries = np.vstack([distinct, rng.normal(size=(3, 6))]).astype(np.float32)
    rows, _ = naive_neighbors(base, queries, metric, 50)
    found, distances = search(base, queries, metric, 50, block_rows=128)
    np.testing.assert_array_equal(found, rows)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_rounding_far_from_the_origin_does_not_cost_a_neighbor():
    """|x|^2 - 2xy + |y|^2 cancels to noise here, in which a plain float32 search would drown."""
    rng = np.random.default_rng(3)
    base = (1000 + rng.normal(size=(600, 8))).astype(np.float32)
    queries = (1000 + rng.normal(size=(5, 8))).astype(np.float32)
    rows, _ = naive_neighbors(base, queries, "l2", 10)
    np.testing.assert_array_equal(ground.exact_neighbors(base, queries, "l2", 10)[0], rows)


def test_zero_vectors_are_at_cosine_distance_one():
    base = np.array([[0, 0], [1, 0], [-1, 0], [0, 2]], dtype=np.float32)
    found, distances = ground.exact_neighbors(base, base[1:2], "cosine", 4)
    assert found.tolist() == [[1, 0, 3, 2]]
    assert distances.tolist() == [[0, 1, 1, 2]]


def test_as_many_neighbors_as_rows_but_no_more():
    base = np.eye(5, dtype=np.float32)
    assert ground.exact_neighbors(base, base[:1], "l2", 5)[0].tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match="Asked for 6 neighbours of 5 rows"):
        ground.exact_neighbors(base, base[:1], "l2", 6)
    with pytest.raises(ValueError, match="not \\(n, d\\) and \\(m, d\\)"):
        ground.exact_neighbors(base, base[:1, :3], "l2", 1)


def test_disagreements_name_a_wrong_query():
    rng = np.random.default_rng(4)
    base = rng.normal(size=(300, 4)).astype(np.float32)
    queries = rng.normal(size=(3, 4)).astype(np.float32)
    rows, values = ground.exact_neighbors(base, queries, "l2")
    assert ground.disagreements(base, queries, "l2", (rows, values)) == []
    rows[1, [0, 1]] = rows[1, [1, 0]]
    (wrong,) = ground.disagreements(base, queries, "l2", (rows, values))
    assert wrong.startswith("ground truth of query 1 differs")


@pytest.mark.parametrize(
    ("name", "metric"),
    [("glove50", "cosine"), ("fashion784", "l2"), ("wordnet_minilm384", "cosine")],
)
def test_fixtures_hold_their_exact_neighbors(name, metric):
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        base, queries = arrays["base"].astype(np.float32), arrays["query"].astype(np.float32)
        expected = arrays["gt"]
    found, distances = ground.exact_neighbors(base, queries, metric, 10)
    for query, rows, values, given in zip(queries, found, distances, expected, strict=True):
        again = ground.row_distances(base[given], query, metric)
        np.testing.assert_allclose(np.sort(again), values, rtol=1e-5, atol=1e-6)
        assert len(np.intersect1d(rows, given)) >= 9  # a near-tie may fall either way


# --- holding queries out --------------------------------------------------------------------


def test_hold_out_splits_every_row_once_and_columns_with_it():
    vectors = np.arange(60, dtype=np.float64).reshape(20, 3)
    columns = {"tenants": np.arange(20, dtype=np.int32), "words": [str(i) for i in range(20)]}
    parts = recipe.hold_out(vectors, columns, count=6, seed=5)
    assert parts.base.dtype == parts.queries.dtype == np.float32
    for rows, given in ((parts.base, parts.columns), (parts.queries, parts.query_columns)):
        ids = (rows[:, 0] / 3).astype(int)
        assert (np.diff(ids) > 0).all()
        np.testing.assert_array_equal(given["tenants"], ids)
        assert list(given["words"]) == [str(i) for i in ids]
    assert len(parts.base) == 14
    assert len(np.unique(np.vstack([parts.base, parts.queries]), axis=0)) == 20
    again = recipe.hold_out(vectors, columns, count=6, seed=5)
    np.testing.assert_array_equal(parts.queries, again.queries)


@pytest.mark.parametrize("count", [0, 20, 21])
def test_hold_out_leaves_a_base(count):
    with pytest.raises(ValueError, match=f"Cannot hold {count} queries out of 20 rows"):
        recipe.hold_out(np.zeros((20, 2), dtype=np.float32), {}, count=count)


# --- the cache ------------------------------------------------------------------------------


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(data_root):
    path = data_root / "set" / "base.npy"
    cache.save_array(path, np.arange(3))

    def fail():
        with cache.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            assert np.load(path).tolist() == [0, 1, 2]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert np.load(path).tolist() == [0, 1, 2]
    assert [entry.name for entry in path.parent.iterdir()] == ["base.npy"]


def test_saved_arrays_are_c_contiguous(data_root):
    cache.save_array(data_root / "a.npy", np.arange(6).reshape(2, 3).T)
    mapped = np.load(data_root / "a.npy", mmap_mode="r")
    assert mapped.flags.c_contiguous
    assert mapped.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_problems_are_named(data_root):
    for name in ("absent", "short", "changed", "sound"):
        (data_root / name).write_bytes(b"12345678")
    cache.write_manifest(data_root, {"name": "x"})
    manifest = cache.read_manifest(data_root)
    assert manifest is not None
    assert cache.problems(data_root, manifest) == []
    (data_root / "absent").unlink()
    (data_root / "short").write_bytes(b"1234")
    (data_root / "changed").write_bytes(b"12345679")
    assert cache.problems(data_root, manifest) == [
        "absent is absent",
        "changed has another SHA-256 than recorded",
        "short has 4 bytes, expected 8",
    ]
    assert "changed" not in str(cache.problems(data_root, manifest, hashes=False))


def test_the_cache_is_where_the_environment_says(data_root, monkeypatch):
    assert cache.root() == data_root
    monkeypatch.delenv("VECSTORE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.root() == Path("/somewhere/vecstore/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path.home() / ".cache/vecstore/data"


# --- writing, loading, verifying ------------------------------------------------------------


def tiny(report):
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(500, 8)).astype(np.float32)
    vectors[400:] = vectors[:100]
    columns = {"tenants": np.arange(500, dtype=np.int32) % 2, "texts": ["ä"] * 500}
    return recipe.hold_out(vectors, columns, count=50, tenant_names=["even", "odd"])


@pytest.fixture
def tiny_set(monkeypatch):
    known = recipe.Recipe(name="glove", metric="l2", title="", licence="", make=tiny)
    store.write(known, lambda stage, done, total: None)
    return cache.folder("glove")


@pytest.mark.usefixtures("tiny_set")
def test_a_written_set_loads_as_it_was():
    data = datasets.load("glove")
    parts = tiny(None)
    np.testing.assert_array_equal(data.base, parts.base)
    np.testing.assert_array_equal(data.queries, parts.queries)
    np.testing.assert_array_equal(data.tenants, parts.columns["tenants"])
    assert isinstance(data.base, np.memmap)
    assert not data.base.flags.writeable
    assert data.neighbors.shape == data.distances.shape == (50, 100)
    assert data.texts == ["ä"] * 450
    assert data.query_texts == ["ä"] * 50
    assert data.tenant_names == ["even", "odd"]
    assert (data.labels, data.words) == (None, None)
    rows, _ = naive_neighbors(data.base, data.queries[:2], "l2", 100)
    np.testing.assert_array_equal(data.neighbors[:2], rows)


def test_repeats_are_counted():
    base = np.array([[1, 2], [1, 2], [3, 4], [1, 2]], dtype=np.float32)
    queries = np.array([[3, 4], [5, 6]], dtype=np.float32)
    counted = store.repeats(base, queries)
    assert counted == {"repeated_base_rows": 2, "queries_equal_to_a_base_row": 1}


def test_verify_finds_a_changed_byte(tiny_set):
    assert store.verify("glove") == []
    assert main(["verify", "glove"]) == 0
    content = bytearray((tiny_set / "base.npy").read_bytes())
    content[-1] ^= 1
    (tiny_set / "base.npy").write_bytes(content)
    assert store.verify("glove") == ["base.npy has another SHA-256 than recorded"]
    assert main(["verify", "glove"]) == 1


def test_a_cut_file_is_refused(tiny_set):
    with (tiny_set / "base.npy").open("rb+") as stream:
        stream.truncate(1000)
    with pytest.raises(datasets.DatasetCorrupt, match="prepare --force glove") as caught:
        datasets.load("glove")
    assert "base.npy has 1000 bytes" in str(caught.value)


def test_a_set_without_manifest_is_not_prepared(tiny_set):
    (tiny_set / cache.MANIFEST).unlink()
    with pytest.raises(datasets.DatasetMissing):
        datasets.load("glove")


# --- errors name the remedy -----------------------------------------------------------------


@pytest.mark.parametrize("name", datasets.names())
def test_a_missing_set_names_the_command(name, data_root):
    with pytest.raises(datasets.DatasetMissing) as caught:
        datasets.load(name)
    assert str(caught.value) == (
        f"Dataset '{name}' is not prepared in {data_root}. Run: python -m datasets prepare {name}"
    )


def test_an_unknown_set_names_the_known_ones():
    with pytest.raises(datasets.UnknownDataset, match="glove, fashion, sift, sift577k, wordnet"):
        datasets.load("imagenet")
    assert main(["prepare", "imagenet"]) == 1


def test_a_missing_package_names_what_to_install(monkeypatch):
    with pytest.raises(datasets.SourceMissing, match="Run: pip install thing==1"):
        sources.module("no_such_module", "thing==1")
    with pytest.raises(datasets.SourceMissing, match="Run: pip install thing==1"):
        sources.package_file("no_such_module", "a.npy", "thing==1")
    with pytest.raises(datasets.SourceMissing, match="Run: pip install thing==1"):
        sources.package_file("numpy", "no such file", "thing==1")
    monkeypatch.setenv("PATH", "")  # neither dpkg-query nor apt-get
    with pytest.raises(datasets.SourceMissing, match="apt-get install wordnet-base"):
        sources.debian_files("wordnet-base")


def test_list_shows_every_set(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in datasets.names())


# --- decoding sources -----------------------------------------------------------------------


def idx(shape, values):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(values)


def test_idx_of_any_shape_is_decoded():
    assert fashion.parse_idx(idx((2, 3), range(6))).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert fashion.parse_idx(idx((0, 3), [])).shape == (0, 3)
    assert fashion.parse_idx(gzip.decompress(gzip.compress(idx((1,), [255])))).tolist() == [255]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "starts with nothing"),
        (b"\0\0\x0d\1\0\0\0\0", "not IDX of uint8"),
        (b"\1\0\x08\1\0\0\0\0", "not IDX of uint8"),
        (b"\0\0\x08\2\0\0\0\1", "header of 2 dimensions is cut short"),
        (idx((2, 3), range(5)), r"has 17 bytes, shape \(2, 3\) needs 18"),
        (idx((2, 3), range(7)), r"has 19 bytes, shape \(2, 3\) needs 18"),
    ],
)
def test_broken_idx_is_refused(content, problem):
    with pytest.raises(datasets.SourceChanged, match=problem):
        fashion.parse_idx(content, "file")


def test_synsets_are_decoded():
    line = "00014490 00 s 03 a_lot(p) 0 many 1 galore(ip) 0 001 & 00013887 a 0000 | in plenty; x  "
    assert wordnet.parse_synset(line) == (0, "a lot", "a lot, many, galore: in plenty; x")


def test_repeated_texts_and_the_licence_are_dropped(data_root):
    line = "00001740 03 n 01 entity 0 000 | a thing  "
    (data_root / "data.noun").write_text(f"  1 This software\n{line}\n{line}\n")
    assert wordnet.synsets([data_root / "data.noun"]) == [(3, "entity", "entity: a thing")]
    assert wordnet.LEXICAL_FILES[3] == "noun.Tops"


def test_one_picture_is_chosen_of_its_variants(data_root):
    def write(name, size):
        path = data_root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
        return path

    files = [
        write("a/lake_1920x1080.jpg", 200_000),
        write("a/lake_3840x2160.jpg", 400_000),
        write("a/small.png", 1000),
        write("a/tag12.png", 300_000),
        write("a/notes.txt", 300_000),
        write("wallpapers/Hill/contents/images/1.png", 300_000),
        write("wallpapers/Hill/contents/images_dark/1.png", 500_000),
    ]
    assert sift.pictures(files) == [("lake", files[1]), ("Hill", files[5])]


def test_distinct_rows_keep_the_first_in_order():
    rows = np.array([[9, 9], [1, 2], [9, 9], [0, 5], [1, 2]], dtype=np.uint8)
    assert sift.distinct_rows(rows).tolist() == [0, 1, 3]
