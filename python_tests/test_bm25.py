from __future__ import annotations

import importlib.util
import math
import multiprocessing
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch
from rank_bm25 import BM25Okapi

from softnce_ext import bm25, compiled
from softnce_ext.bm25 import BM25, BM25Index, TokenIds
from softnce_ext.factors import BM25Factors

Text = list[int]


def literal_scores(
    queries: list[Text],
    documents: list[Text],
    *,
    k1: float = 1.2,
    b: float = 0.75,
    variant: str = "reference",
    avgdl: float | None = None,
) -> np.ndarray:
    """Write the formulas as they stand on paper, one pair and one term at a time."""
    n = len(documents)
    documents = [[token for token in text if token >= 0] for text in documents]
    length = avgdl or sum(map(len, documents)) / n
    terms = {token for text in documents for token in text}
    idf = {}
    for term in terms:
        df = sum(term in text for text in documents)
        ratio = (n - df + 0.5) / (df + 0.5)
        idf[term] = math.log(1 + ratio) if variant == "lucene" else math.log(ratio)
    if variant == "okapi":
        mean = sum(idf.values()) / len(idf)
        idf = {term: value if value >= 0 else 0.25 * mean for term, value in idf.items()}
    scores = np.zeros((len(queries), n))
    for i, query in enumerate(queries):
        for j, text in enumerate(documents):
            norm = k1 * (1 - b + b * len(text) / length)
            for token in query:
                count = text.count(token)
                if count:
                    factor = 1 if variant == "lucene" else k1 + 1
                    scores[i, j] += idf[token] * factor * count / (count + norm)
    return scores


def random_texts(n: int, vocabulary: int, seed: int, longest: int = 12) -> list[Text]:
    """Make texts with frequent and rare terms, repeats and empty texts."""
    rng = random.Random(seed)
    return [
        [int(vocabulary * rng.random() ** 3) for _ in range(rng.randint(0, longest))]
        for _ in range(n)
    ]


def flat(texts: list[Text], dtype: type = np.int64) -> TokenIds:
    offsets = np.cumsum([0, *map(len, texts)])
    return TokenIds(np.array([token for text in texts for token in text], dtype), offsets)


def assert_close(scores: np.ndarray, expected: np.ndarray) -> None:
    assert scores.dtype == np.float32 and scores.shape == expected.shape
    assert np.abs(scores - expected).max(initial=0) <= 1e-5 * np.abs(expected).max(initial=0)


def product_in_query_order(factors: BM25Factors) -> np.ndarray:
    """Multiply factors in float32, each query's terms in their order, as the kernel does."""
    q_indptr, q_term, q_count, indptr, document, weight, length = (p.numpy() for p in factors)
    scores = np.zeros((q_indptr.size - 1, length.size), np.float32)
    for i in range(len(scores)):
        for p in range(q_indptr[i], q_indptr[i + 1]):
            part = slice(indptr[q_term[p]], indptr[q_term[p] + 1])
            scores[i, document[part]] += q_count[p] * weight[part]
    return scores


def assert_same_factors(factors: BM25Factors, expected: BM25Factors) -> None:
    for name, part, right in zip(BM25Factors._fields, factors, expected, strict=True):
        assert part.dtype == right.dtype and torch.equal(part, right), name


@pytest.mark.parametrize("variant", ["reference", "okapi", "lucene"])
@pytest.mark.parametrize("n, vocabulary", [(1, 5), (2, 6), (3, 4), (17, 30), (40, 400)])
@pytest.mark.parametrize("k1, b, avgdl", [(1.2, 0.75, None), (1.5, 0.0, None), (0.0, 1.0, 7.5)])
def test_scores_equal_the_literal_formula(
    variant: str, n: int, vocabulary: int, k1: float, b: float, avgdl: float | None
) -> None:
    texts = [*random_texts(n - 1, vocabulary, n), [1, 2, 1, 1, 3]]
    queries = random_texts(7, 2 * vocabulary, n + 1)
    rule = {"k1": k1, "b": b, "variant": variant, "avgdl": avgdl}
    model = BM25(**rule)
    assert_close(model.scores(texts), literal_scores(texts, texts, **rule))
    expected = literal_scores(queries, texts, **rule)
    assert_close(model.scores(queries, texts), expected)
    assert_close(model.index(texts).scores(queries), expected)


@pytest.mark.parametrize("variant", ["reference", "okapi", "lucene"])
@pytest.mark.parametrize("n, m, vocabulary", [(1, 1, 3), (1, 33, 9), (7, 2, 5), (127, 65, 300)])
@pytest.mark.parametrize("k1, b, avgdl", [(1.2, 0.75, None), (0.0, 1.0, 7.5)])
def test_factors_multiply_to_the_scores(
    variant: str, n: int, m: int, vocabulary: int, k1: float, b: float, avgdl: float | None
) -> None:
    queries = [[], [-1, -1], *random_texts(n, 2 * vocabulary, n), [1, -5, 1, 2]]
    documents = [[2, -1, 1, 2], *random_texts(m, vocabulary, m + 1), [-3], []]
    rule = {"k1": k1, "b": b, "variant": variant, "avgdl": avgdl}
    for texts in ((queries, documents), (documents,)):
        factors = BM25(**rule).factors(*texts)
        scores = BM25(**rule).scores(*texts)
        np.testing.assert_array_equal(product_in_query_order(factors), scores)
        expected = literal_scores(texts[0], documents, **rule)
        assert_close(factors.dense().numpy(), expected)
        exact = factors.dense(torch.float64).numpy()
        assert np.abs(exact - scores).max() <= 1e-6 * np.abs(expected).max()


def test_factors_hold_what_the_loss_relies_on() -> None:
    queries, documents = random_texts(40, 90, 14), [[], *random_texts(60, 50, 15), [-1, 3]]
    for texts in ((queries, documents), (documents,)):
        factors = BM25().factors(*texts)
        q_indptr, q_term, q_count, indptr, document, weight, length = factors
        types = [torch.int64, torch.int32, torch.float32] * 2 + [torch.int64]
        assert [part.dtype for part in factors] == types
        assert all(part.is_contiguous() and part.ndim == 1 for part in factors)
        terms = {token for text in documents for token in text if token >= 0}
        assert indptr[0] == 0 and indptr[-1] == len(document) == len(weight)
        assert len(indptr) == len(terms) + 1 and (indptr.diff() > 0).all()
        for first, last in zip(indptr, indptr[1:], strict=False):
            assert len(set(document[first:last].tolist())) == last - first
        assert document.min() >= 0 and document.max() < len(length) == len(documents)
        assert length.tolist() == [sum(token >= 0 for token in text) for text in documents]
        assert q_indptr[0] == 0 and q_indptr[-1] == len(q_term) == len(q_count)
        assert q_term.min() >= 0 and q_term.max() < len(terms)
        known = [sum(token in terms for token in text) for text in texts[0]]
        assert [int(part.sum()) for part in q_count.split(q_indptr.diff().tolist())] == known


def test_scores_need_no_torch() -> None:
    code = (
        "import sys; from softnce_ext import BM25; BM25().scores([[1, 2]])\n"
        "assert 'torch' not in sys.modules; BM25().factors([[1, 2]]).dense()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "texts",
    [
        *[random_texts(n, v, n) + [[0, 1]] for n, v in ((31, 20), (90, 60), (200, 500))],
        [[1]],  # the floor is negative
        [[1, 2], [2, 3]],  # idf 0 in one of two texts
        [[1], [1], [2], [3]],  # raw idf exactly 0
        [[], [1, 2], [2, 2, 2]],
    ],
)
def test_okapi_equals_rank_bm25(texts: list[Text]) -> None:
    oracle = BM25Okapi(texts)
    expected = np.array([oracle.get_scores(query) for query in texts])
    assert_close(BM25(k1=1.5, variant="okapi").scores(texts), expected)


def test_all_forms_of_input_give_the_same_scores(tmp_path) -> None:
    texts = random_texts(23, 50, 0, longest=9)
    model = BM25()
    expected = model.scores(texts)
    padded = np.full((23, 11), -1)
    for row, text in zip(padded, texts, strict=True):
        row[2 : 2 + len(text)] = text
    whole = flat([[7, 7], *texts, [3, 9, 9]], np.int32)
    np.save(tmp_path / "ids.npy", whole.ids)
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    forms = [
        flat(texts),
        flat(texts, np.uint16),
        TokenIds(mapped, whole.offsets[1:-1]),
        TokenIds(np.repeat(flat(texts).ids, 2)[::2], flat(texts).offsets.astype(np.int32)),
        padded,
        np.asfortranarray(padded.astype(np.int16)),
        padded.tolist(),
        [np.array(text, np.uint8) for text in texts],
        tuple(texts),
    ]
    for form in forms:
        np.testing.assert_array_equal(model.scores(form), expected)
        assert_same_factors(model.factors(form), model.factors(texts))
    # Whatever the type: compiled once.
    assert len(bm25.score_batch.signatures) == len(bm25.batch_factors.signatures) == 1


@pytest.mark.parametrize("variant", ["reference", "okapi", "lucene"])
def test_large_ids_are_renumbered(variant: str) -> None:
    texts = random_texts(30, 40, 3)
    queries = random_texts(9, 60, 4)
    far = [[-1, *(token * 10**15 + 5 for token in text), -7] for text in texts]
    far_queries = [[token * 10**15 + 5 for token in text] + [-1] for text in queries]
    model = BM25(variant=variant)
    np.testing.assert_array_equal(model.scores(far), model.scores(texts))
    expected = model.scores(queries, texts)
    np.testing.assert_array_equal(model.scores(far_queries, far), expected)
    np.testing.assert_array_equal(model.index(far).scores(far_queries), expected)
    factors = model.factors(far_queries, far)
    np.testing.assert_array_equal(product_in_query_order(factors), expected)
    assert len(factors.indptr) == len({token for text in texts for token in text}) + 1
    # Unknown large ids beside small documents are only unknown.
    assert not model.scores([[2**62], [2**40]], texts).any()


@pytest.mark.parametrize("variant", ["reference", "okapi", "lucene"])
def test_texts_without_terms_score_zero(variant: str) -> None:
    model = BM25(variant=variant)
    assert model.scores([]).shape == (0, 0)
    assert model.scores([[1]], []).shape == (1, 0)
    assert model.scores([], [[1]]).shape == (0, 1)
    assert model.index([]).scores([[1], [2]]).shape == (2, 0)
    for texts in (([],), ([[1]], []), ([], [[1]])):
        assert model.factors(*texts).dense().shape == model.scores(*texts).shape
    for empty in ([[], []], np.full((2, 3), -1), np.zeros((2, 0), np.int64)):
        np.testing.assert_array_equal(model.scores(empty), np.zeros((2, 2)))
        np.testing.assert_array_equal(model.factors(empty).dense(), np.zeros((2, 2)))
        np.testing.assert_array_equal(model.factors([[1]], empty).known(3), [False] * 3)
        np.testing.assert_array_equal(model.index(empty).scores([[1], [0]]), np.zeros((2, 2)))


@pytest.mark.parametrize("variant", ["reference", "okapi", "lucene"])
def test_permuting_texts_permutes_scores(variant: str) -> None:
    queries, documents = random_texts(20, 30, 5), random_texts(33, 30, 6)
    rows = np.random.default_rng(0).permutation(20)
    columns = np.random.default_rng(1).permutation(33)
    model = BM25(variant=variant)
    permuted = model.scores([queries[i] for i in rows], [documents[j] for j in columns])
    assert_close(permuted, model.scores(queries, documents)[rows][:, columns])


def test_repeated_query_terms_count_again() -> None:
    documents = random_texts(12, 20, 7)
    once = BM25().scores([[1, 2]], documents)
    assert_close(BM25().scores([[1, 2, 1, 2]], documents), 2 * once)


@pytest.fixture
def pool_for_all(monkeypatch) -> None:
    """Let small batches use the pool, too."""
    monkeypatch.setattr(bm25, "_POOL_SCORES", 100)


@pytest.mark.usefixtures("pool_for_all")
@pytest.mark.parametrize("threads", [None, 2, 3, 7])
def test_scores_do_not_depend_on_the_thread_count(threads: int | None) -> None:
    texts = flat(random_texts(601, 3000, 8))
    expected = BM25(threads=1).scores(texts)
    np.testing.assert_array_equal(BM25(threads=threads).scores(texts), expected)
    index = BM25(threads=threads).index(texts)
    np.testing.assert_array_equal(index.scores(texts), expected)


@pytest.mark.usefixtures("pool_for_all")
def test_threads_can_score_at_once() -> None:
    batches = [flat(random_texts(n, 5 * n + 1, n)) for n in (2, 40, 300, 550, 33, 700)] * 4
    model = BM25()
    expected = [model.scores(batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        for scores, right in zip(pool.map(model.scores, batches), expected, strict=True):
            np.testing.assert_array_equal(scores, right)
        for factors, batch in zip(pool.map(model.factors, batches), batches, strict=True):
            assert_same_factors(factors, model.factors(batch))


def test_threads_share_no_table(monkeypatch) -> None:
    both_inside = threading.Barrier(2)
    tables = []

    def meet(scores: np.ndarray, *batch: object) -> None:
        tables.append(next(part for part in batch if getattr(part, "dtype", None) == np.int32))
        both_inside.wait(timeout=30)

    monkeypatch.setattr(bm25, "score_batch", meet)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(BM25().scores, [[[1, 2]], [[2, 3]]]))
    assert not np.shares_memory(*tables)


def _scores_in_child(texts: TokenIds, queue: multiprocessing.Queue) -> None:
    queue.put(BM25(threads=2).scores(texts))


@pytest.mark.usefixtures("pool_for_all")
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the system has no fork"
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_scores_after_the_parent_used_the_pool() -> None:
    texts = flat(random_texts(600, 2000, 9))
    expected = BM25(threads=2).scores(texts)
    assert any(thread.name.startswith("softnce-bm25") for thread in threading.enumerate())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_scores_in_child, args=(texts, queue))
    child.start()
    try:
        np.testing.assert_array_equal(queue.get(timeout=30), expected)
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()
    np.testing.assert_array_equal(BM25(threads=2).scores(texts), expected)


@pytest.mark.parametrize(
    "kernel, call", [("score_batch", BM25().scores), ("batch_factors", BM25().factors)]
)
def test_an_interrupted_call_leaves_no_trace(monkeypatch, kernel: str, call: Callable) -> None:
    texts = random_texts(10, 12, 10)
    expected = BM25().scores(texts)

    def out_of_memory(*batch: object) -> None:
        table = next(part for part in batch if getattr(part, "dtype", None) == np.int32)
        table[:] = 3
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(bm25, kernel, out_of_memory)
        with pytest.raises(MemoryError):
            call(texts)
    np.testing.assert_array_equal(BM25().scores(texts), expected)


@pytest.mark.parametrize(
    "texts, error, message",
    [
        ([[1.5]], TypeError, r"query_ids\[0\] must hold integers, got float64"),
        (["words"], TypeError, "must hold integers, got <U5"),
        ([[True]], TypeError, "must hold integers, got bool"),
        ([[None]], TypeError, "must hold integers, got object"),
        ([1, 2, 3], ValueError, r"query_ids\[0\] must have 1 dimension, got shape \[\]"),
        (np.arange(3), ValueError, r"integer array \[N, L\], got shape \[3\]"),
        (np.zeros((2, 2)), TypeError, "must hold integers, got float64"),
        (7, ValueError, r"got shape \[\]"),
        (np.array([[2**63]], np.uint64), ValueError, r"must be below 2\*\*63, got 9223372036854"),
        (TokenIds(np.arange(3), np.array([0, 4])), ValueError, r"offsets must lie in \[0, 3\]"),
        (TokenIds(np.arange(3), np.array([-1, 3])), ValueError, r"got -1 to 3"),
        (TokenIds(np.arange(3), np.array([2, 1])), ValueError, "got 2 to 1"),
        (TokenIds(np.arange(3), np.array([0, 3, 1, 3])), ValueError, "must never fall, got"),
        (TokenIds(np.arange(3), np.array([0, 9, 3])), ValueError, "must never fall, got"),
        (TokenIds(np.arange(3), np.array([], int)), ValueError, r"offsets \[N \+ 1\]"),
        (TokenIds(np.zeros((1, 3), int), np.array([0, 3])), ValueError, r"shapes \[1, 3\]"),
        (TokenIds(np.ones(3), np.array([0, 3])), TypeError, "query_ids.ids must hold integers"),
        (TokenIds(np.arange(3), np.array([0, 3.0])), TypeError, "query_ids.offsets must hold"),
    ],
)
def test_texts_that_are_none_are_refused(texts, error: type, message: str) -> None:
    for call in (BM25().scores, BM25().factors):
        with pytest.raises(error, match=message):
            call(texts)
        with pytest.raises(error, match=message.replace("query_ids", "document_ids")):
            call([[1]], texts)
    with pytest.raises(error):
        BM25().index([[1]]).scores(texts)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"k1": -0.1}, ValueError, "k1 must be >= 0, got -0.1"),
        ({"k1": math.nan}, ValueError, "k1 must be finite, got nan"),
        ({"k1": "1.2"}, TypeError, "k1 must be a number, got str"),
        ({"b": 1.5}, ValueError, r"b must be in \[0, 1\], got 1.5"),
        ({"b": True}, TypeError, "b must be a number, got bool"),
        ({"avgdl": 0}, ValueError, "avgdl must be > 0 or None, got 0"),
        ({"avgdl": math.inf}, ValueError, "avgdl must be finite, got inf"),
        ({"variant": "bm25+"}, ValueError, "one of reference, okapi, lucene, got 'bm25\\+'"),
        ({"threads": 0}, ValueError, "threads must be >= 1 or None, got 0"),
        ({"threads": 1.0}, TypeError, "threads must be an int or None, got float"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        BM25(**arguments)


@pytest.mark.parametrize("spread", [1, 10**9])
def test_index_is_the_same_when_saved_and_loaded(tmp_path, spread: int) -> None:
    texts = [[token * spread for token in text] for text in random_texts(50, 80, 11)]
    index = BM25(variant="lucene").index(texts)
    index.save(tmp_path / "index")
    loaded = BM25Index.load(tmp_path / "index")
    assert loaded.documents == 50
    for queries in (texts, texts[:1]):
        np.testing.assert_array_equal(loaded.scores(queries), index.scores(queries))
    BM25().index([]).save(tmp_path / "empty")
    assert BM25Index.load(tmp_path / "empty").scores([[1]]).shape == (1, 0)


def test_one_query_scores_as_in_a_block() -> None:
    texts = random_texts(64, 40, 12)
    index = BM25().index(texts)
    block = index.scores(texts)
    alone = np.concatenate([index.scores([text]) for text in texts])
    np.testing.assert_array_equal(alone, block)


@pytest.mark.parametrize(
    "name, value",
    [
        ("document", np.int32(50)),
        ("document", np.int32(-1)),
        ("indptr", np.int64(10**6)),
        ("table", np.int32(10**6)),
    ],
)
def test_damaged_index_is_refused(tmp_path, name: str, value: np.integer) -> None:
    BM25().index(random_texts(50, 80, 13)).save(tmp_path)
    array = np.load(tmp_path / f"{name}.npy")
    array[3] = value
    np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(ValueError, match="must hold an index as BM25Index.save writes it"):
        BM25Index.load(tmp_path)


def _module(folder):
    """Import a module with one function to compile, from a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "one.py").write_text("def one(x):\n    return x + 1\n")
    spec = importlib.util.spec_from_file_location("one", folder / "one.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernels_compile_where_no_folder_can_be_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    module = _module(tmp_path / "package")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("os.makedirs", _refuse)
    assert compiled.kernel(module.one)(1) == 2


def test_kernels_run_where_the_disk_is_full(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", _refuse)
    assert compiled.kernel(_module(tmp_path / "package").one)(1) == 2


def _refuse(*_: object, **__: object) -> None:
    raise OSError("no space left on device")
