from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import static_model, tiny_rows, transformer_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from softnce_ext.estimators import table as table_module
from softnce_ext.estimators.cache import cache_folder, cached_table, model_hash, text_hash
from softnce_ext.estimators.encoder import TeacherEstimator
from softnce_ext.estimators.table import StaleTableError, open_table

TEXTS = [f"text number {i} {'word ' * (i % 7)}" for i in range(10)]


class Encoder:
    """Vectors told from the text alone; counts what it is asked for."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.seen: list[str] = []
        self.fail_at, self.error = fail_at, error

    def __call__(self, texts: Any) -> torch.Tensor:
        if self.error is not None and len(self.seen) >= (self.fail_at or 0):
            raise self.error
        self.seen += texts
        return vectors(texts)


def vectors(texts: Any) -> torch.Tensor:
    return torch.tensor([[len(text), sum(map(ord, text)) / 7, 0.1] for text in texts])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "_CHUNK_TEXTS", 3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_table_is_made_once_and_gives_the_rows(tmp_path: Path, dtype: str) -> None:
    encode = Encoder()
    made = cached_table(encode, TEXTS, {"model": "m"}, dtype=dtype, folder=tmp_path)
    found = cached_table(encode, TEXTS, {"model": "m"}, dtype=dtype, folder=tmp_path)
    assert made.built and not found.built
    assert encode.seen == TEXTS
    assert len(found) == len(TEXTS) and found.seconds == made.seconds > 0
    assert found.megabytes * 1e6 == (found.folder / "vectors.npy").stat().st_size
    rows = torch.tensor([7, 0, 7, 9])
    wanted = vectors(TEXTS)[rows].to(getattr(torch, dtype)).float()
    assert torch.equal(found.take(rows), wanted)
    assert found.take(rows).dtype == torch.float32
    assert copy.deepcopy(found).vectors is found.vectors
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".lock"}


@pytest.mark.parametrize("row", [-1, len(TEXTS)])
def test_a_row_the_table_lacks_is_refused(tmp_path: Path, row: int) -> None:
    found = cached_table(vectors, TEXTS, {}, folder=tmp_path)
    with pytest.raises(IndexError, match=rf"row must be in \[0, 10\), got .*{row}"):
        found.take(torch.tensor([1, row]))


def test_whatever_decides_the_vectors_decides_the_table(tmp_path: Path) -> None:
    first = cached_table(vectors, TEXTS, {"model": "m"}, folder=tmp_path)
    others = [
        cached_table(vectors, TEXTS[::-1], {"model": "m"}, folder=tmp_path),
        cached_table(vectors, TEXTS, {"model": "n"}, folder=tmp_path),
        cached_table(vectors, TEXTS, {"model": "m"}, dtype="float16", folder=tmp_path),
    ]
    assert all(other.built for other in others)
    assert len({first.folder, *(other.folder for other in others)}) == 4


def truncate(folder: Path) -> None:
    data = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(data[:-4])


def flip(folder: Path) -> None:
    data = bytearray((folder / "vectors.npy").read_bytes())
    data[-1] ^= 1
    (folder / "vectors.npy").write_bytes(data)


def break_manifest(folder: Path) -> None:
    (folder / "table.json").write_text("{")


def lose_manifest(folder: Path) -> None:
    (folder / "table.json").unlink()


def lose_vectors(folder: Path) -> None:
    (folder / "vectors.npy").unlink()


@pytest.mark.parametrize("damage", [truncate, flip, break_manifest, lose_manifest, lose_vectors])
def test_a_damaged_table_is_refused_never_used(tmp_path: Path, damage: Any) -> None:
    encode = Encoder()
    folder = cached_table(encode, TEXTS, {}, folder=tmp_path).folder
    damage(folder)
    with pytest.raises(StaleTableError, match="is damaged .*: delete the folder to encode anew"):
        cached_table(encode, TEXTS, {}, folder=tmp_path)
    assert encode.seen == TEXTS


def test_a_table_of_another_model_or_texts_is_refused(tmp_path: Path) -> None:
    folder = cached_table(vectors, TEXTS, {"model": "m"}, folder=tmp_path).folder
    assert len(open_table(folder, {"model": "m", "texts": text_hash(TEXTS)})) == 10
    with pytest.raises(StaleTableError, match="was made with model 'm', not 'n'"):
        open_table(folder, {"model": "n"})
    with pytest.raises(StaleTableError, match="was made with texts"):
        open_table(folder, {"texts": text_hash(TEXTS[1:])})
    other = cached_table(vectors, TEXTS[1:], {"model": "m"}, folder=tmp_path).folder
    shutil.rmtree(other)
    shutil.copytree(folder, other)  # under the other's name it is no more its table
    with pytest.raises(StaleTableError, match="was made with texts"):
        cached_table(vectors, TEXTS[1:], {"model": "m"}, folder=tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_a_stopped_build_goes_on_where_it_was(tmp_path: Path, error: BaseException) -> None:
    stopped = Encoder(fail_at=6, error=error)
    with pytest.raises(type(error)):
        cached_table(stopped, TEXTS, {}, folder=tmp_path)
    assert stopped.seen == TEXTS[:6]
    encode = Encoder()
    found = cached_table(encode, TEXTS, {}, folder=tmp_path)
    assert encode.seen == TEXTS[6:]
    assert np.array_equal(found.vectors, vectors(TEXTS).numpy())
    assert not list(tmp_path.glob("*.part"))


def _stall(folder: Path, stalled: Any) -> None:
    encode = Encoder()

    def encode_some(texts: Any) -> torch.Tensor:
        if len(encode.seen) == 6:
            stalled.set()
            time.sleep(60)
        return encode(texts)

    cached_table(encode_some, TEXTS, {}, folder=folder)


def test_a_killed_process_leaves_no_lock_and_its_rows(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    stalled = context.Event()
    process = context.Process(target=_stall, args=(tmp_path, stalled))
    process.start()
    assert stalled.wait(60)
    process.kill()
    process.join()
    encode = Encoder()
    found = cached_table(encode, TEXTS, {}, folder=tmp_path)
    assert encode.seen == TEXTS[6:]
    assert np.array_equal(found.vectors, vectors(TEXTS).numpy())


def test_what_a_crash_left_wrong_is_encoded_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cached_table(Encoder(6, KeyboardInterrupt()), TEXTS, {}, folder=tmp_path)
    (part,) = tmp_path.glob("*.part")
    flip(part)
    encode = Encoder()
    found = cached_table(encode, TEXTS, {}, folder=tmp_path)
    assert encode.seen == TEXTS
    assert np.array_equal(found.vectors, vectors(TEXTS).numpy())


@pytest.mark.parametrize("calls", range(6))
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    fsync, left = table_module.os.fsync, [calls]

    def full(file: int) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        fsync(file)

    monkeypatch.setattr(table_module.os, "fsync", full)
    with pytest.raises(OSError, match="cannot be kept in .*, no part of it is left there: No"):
        cached_table(vectors, TEXTS, {}, folder=tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}
    monkeypatch.setattr(table_module.os, "fsync", fsync)
    assert cached_table(vectors, TEXTS, {}, folder=tmp_path).built


def test_a_table_stands_for_its_own_texts_alone(tmp_path: Path) -> None:
    """Rows of other data would be found all the same, where the table has enough of them."""
    cached_table(vectors, TEXTS, {}, folder=tmp_path)
    found = cached_table(vectors, TEXTS, {}, folder=tmp_path)
    found.check_texts(TEXTS)
    for other in (TEXTS[:-1], TEXTS[::-1], [*TEXTS[:-1], "another"], [*TEXTS, "one more"]):
        with pytest.raises(StaleTableError, match="of 10 texts was made of other data than the "):
            found.check_texts(other)


def test_too_little_space_is_told_before_the_texts_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(table_module.shutil, "disk_usage", lambda folder: usage)
    encode = Encoder()
    with pytest.raises(OSError, match="it needs 0.0 MB and 0.0 MB are free"):
        cached_table(encode, TEXTS, {}, folder=tmp_path)
    assert encode.seen == TEXTS[:3]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="the table of 10 vectors cannot be kept in .*file"):
        cached_table(vectors, TEXTS, {}, folder=tmp_path / "file")


def test_bad_vectors_and_arguments_are_refused(tmp_path: Path) -> None:
    def infinite(texts: Any) -> torch.Tensor:
        found = vectors(texts)
        found[[text == TEXTS[4] for text in texts], 1] = 1e6  # too large for float16
        return found

    with pytest.raises(ValueError, match="must be finite in float16, that of text 4 is not"):
        cached_table(infinite, TEXTS, {}, dtype="float16", folder=tmp_path)
    with pytest.raises(ValueError, match=r"encode must return shape \[3, 3\], got \[2, 3\]"):
        cached_table(lambda texts: vectors(texts)[:2], TEXTS, {}, folder=tmp_path)
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match="texts must hold at least one text"):
        cached_table(vectors, [], {}, folder=tmp_path)
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, got 'int8'"):
        cached_table(vectors, TEXTS, {}, dtype="int8", folder=tmp_path)


def _ask(folder: Path, start: Any, answers: Any) -> None:
    encode = Encoder()
    start.wait()
    found = cached_table(encode, TEXTS * 50, {}, folder=folder)
    answers.put((found.built, len(encode.seen), float(found.vectors.sum())))


def test_processes_that_ask_at_once_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, answers = context.Event(), context.Queue()
    processes = [context.Process(target=_ask, args=(tmp_path, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(built for built, _, _ in found) == [False, False, False, True]
    assert sum(seen for _, seen, _ in found) == len(TEXTS) * 50
    assert len({total for _, _, total in found}) == 1


def test_the_model_hash_is_of_weights_settings_and_tokenizer() -> None:
    texts = [row["query"] for row in tiny_rows()]
    model = static_model(texts)
    first = model_hash(model)
    assert model_hash(copy.deepcopy(model)) == first
    model.encode(texts[:3])
    assert model_hash(model) == first
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters())[3, 0] += 1e-3
    assert model_hash(other) != first
    shorter = copy.deepcopy(model)
    shorter[0].tokenizer.enable_truncation(3)
    assert model_hash(shorter) != first
    assert model_hash(static_model([*texts, "zebra zebra"])) != first


def test_the_model_hash_is_of_all_that_changes_vectors(tmp_path: Path) -> None:
    """Same weights, other vectors: what no weight and no module's own settings say."""
    model = transformer_model([row["query"] for row in tiny_rows()], tmp_path)
    first = model_hash(model)
    assert model_hash(copy.deepcopy(model)) == first
    model.save_pretrained(str(tmp_path / "saved"))
    assert model_hash(SentenceTransformer(str(tmp_path / "saved"), device="cpu")) == first

    def heads(other: Any) -> None:
        other[0].auto_model.config.num_attention_heads *= 2

    def side(other: Any) -> None:
        other.tokenizer.truncation_side = "left"

    def empty_prompt(other: Any) -> None:
        other.prompts, other.default_prompt_name = {"query": "", "p": "find: "}, "p"

    def no_empty_prompt(other: Any) -> None:
        other.prompts, other.default_prompt_name = {"p": "find: "}, "p"

    def nested(pooling: str) -> Any:
        parts = copy.deepcopy(model)
        inner = SentenceTransformer(modules=[Pooling(32, pooling)], device="cpu")
        parts[1] = inner
        return parts

    found = [first, model_hash(nested("mean")), model_hash(nested("cls"))]
    for change in (heads, side, empty_prompt, no_empty_prompt):
        other = copy.deepcopy(model)
        change(other)
        found.append(model_hash(other))
    assert len(set(found)) == len(found)


def test_a_half_teacher_has_a_table(tmp_path: Path) -> None:
    model = transformer_model([row["query"] for row in tiny_rows()], tmp_path).bfloat16()
    teacher = TeacherEstimator(model, normalize=False)
    query, _ = teacher.cache(TEXTS, TEXTS, folder=tmp_path / "tables")
    assert query.vectors.dtype == np.float32


def test_a_model_that_will_not_do_leaves_nothing(tmp_path: Path) -> None:
    def broken(texts: Any) -> Any:
        raise TypeError("no such type")

    with pytest.raises(TypeError, match="no such type"):
        cached_table(broken, TEXTS, {"model": "m"}, folder=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTNCE_CACHE", "/a")
    assert cache_folder() == Path("/a/teachers")
    monkeypatch.delenv("SOFTNCE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/b/softnce_ext/teachers")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/softnce_ext/teachers"


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    made = cached_table(vectors, TEXTS, {"model": "m", "length": None}, folder=tmp_path)
    manifest = json.loads((made.folder / "table.json").read_text())
    assert manifest["identity"]["rows"] == 10 and manifest["identity"]["length"] is None
