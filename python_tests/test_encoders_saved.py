from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import save_tiny_encoder

from softnce_ext.encoders import saved
from softnce_ext.encoders.saved import (
    EncoderSettings,
    check_model_name,
    encode,
    load_encoder,
    local_folder,
    settings_of,
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must hold JSON"),
        ("[]", "must hold a JSON object, got list"),
        ('{"name_boost": "3"}', "name_boost in .* must be a number >= 0, got '3'"),
        ('{"name_boost": 2.5}', "name_boost in .* must be a whole number, got 2.5"),
        ('{"hybrid_weight": -1}', "hybrid_weight in .* must be a number >= 0, got -1"),
    ],
)
def test_bad_encoder_settings_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "softnce.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_encoder(str(tmp_path))


def test_settings_are_read_and_missing_ones_are_for_encoders_of_others(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, name_boost=3, hybrid_weight=0.25, code_length=64)
    assert load_encoder(str(tmp_path))[1] == EncoderSettings(name_boost=3, hybrid_weight=0.25)
    (tmp_path / "softnce.json").write_text('{"hybrid_weight": 0.5}')
    assert load_encoder(str(tmp_path))[1] == EncoderSettings(name_boost=0, hybrid_weight=0.5)
    (tmp_path / "softnce.json").unlink()
    assert load_encoder(str(tmp_path))[1] == EncoderSettings()


def test_vectors_have_length_1_and_do_not_depend_on_the_portion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_encoder(tmp_path)
    model, _ = load_encoder(str(tmp_path))
    texts = ["send mail", "image width height", "", "path file read", "send"]
    vectors = encode(model, texts, "query")
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 0, 1, 1])
    monkeypatch.setattr(saved, "_TEXTS_AT_ONCE", 2)
    np.testing.assert_allclose(encode(model, texts, "query", batch_size=1), vectors, atol=1e-6)
    with pytest.raises(ValueError, match="texts must hold at least one text"):
        encode(model, [], "code")


def test_the_prompts_of_the_model_are_put_before_the_texts(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path)
    config = tmp_path / "config_sentence_transformers.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "prompts": {"query": "send ", "document": "mail "}}))
    model, _ = load_encoder(str(tmp_path))
    plain = model.encode(["send mail", "mail send"], prompt="", normalize_embeddings=True)
    np.testing.assert_allclose(encode(model, ["mail"], "query")[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(encode(model, ["send"], "code")[0], plain[1], atol=1e-6)


def test_a_model_in_the_cache_is_found_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for repository in ("org--mine", "sentence-transformers--bare"):
        repo = tmp_path / f"models--{repository}"
        save_tiny_encoder(repo / "snapshots" / "abc", name_boost=3, hybrid_weight=0.25)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("abc")
    assert local_folder("org/mine") == tmp_path / "models--org--mine" / "snapshots" / "abc"
    assert local_folder("org/other") is None
    for name in ("org/mine", "bare"):
        model, settings = load_encoder(name)
        assert model.get_embedding_dimension() == 64
        assert settings == settings_of(name) == EncoderSettings(3, 0.25)


def test_how_texts_were_made_is_fetched_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "softnce.json").write_text('{"form": "tokens", "name_boost": 2}')
    hub = {("org/far", "softnce.json"): str(tmp_path / "softnce.json")}
    monkeypatch.setattr("sentence_transformers.util.load_file_path", lambda *key: hub.get(key))
    monkeypatch.setattr("softnce_ext.encoders.load.load_model", lambda name: name)
    monkeypatch.setattr(saved, "check_model_name", lambda name: None)
    assert load_encoder("org/far") == ("org/far", EncoderSettings(name_boost=2, form="tokens"))
    assert settings_of("org/bare") == settings_of("mistyped") == EncoderSettings()


@pytest.mark.parametrize("name", ["mistyped", "/no/such/folder", "./here", "a/b/c"])
def test_what_is_no_hub_name_is_not_looked_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the loader was asked")

    monkeypatch.setattr("softnce_ext.encoders.load.load_model", fail)
    with pytest.raises(FileNotFoundError, match=f"model {name}: there is no such folder"):
        load_encoder(name)


def test_a_broken_model_of_ours_says_so_once(tmp_path: Path) -> None:
    from tiny_backbones import save_tiny_backbone

    from softnce_ext.encoders.backbones import build_backbone

    save_tiny_backbone(tmp_path / "roberta", ["read a file"])
    build_backbone("codebert", tmp_path / "roberta").save(str(tmp_path / "saved"))
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(FileNotFoundError) as refused:
        load_encoder(str(tmp_path / "saved"))
    assert str(refused.value).count("cannot be loaded") == 1
    (tmp_path / "saved" / "softnce_backbone.json").unlink()
    with pytest.raises(FileNotFoundError, match="loaded: it must have softnce_backbone.json"):
        load_encoder(str(tmp_path / "saved"))


def test_the_hub_is_asked_for_a_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, constants

    asked: list[tuple[str, str]] = []

    def exists(self: HfApi, name: str, file: str) -> bool:
        asked.append((name, file))
        if name == "far/away":
            raise OSError("no route\nto it")
        return name == "org/there" and file == "config.json"

    monkeypatch.setattr(HfApi, "file_exists", exists)
    with pytest.raises(FileNotFoundError, match="and HF_HUB_OFFLINE forbids to ask the hub"):
        check_model_name("org/there")
    assert not asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    check_model_name("org/there")
    assert asked == [("org/there", "modules.json"), ("org/there", "config.json")]
    with pytest.raises(FileNotFoundError, match="model org/none is not on .* hub has none of that"):
        check_model_name("org/none")
    with pytest.raises(FileNotFoundError, match="and the hub cannot be asked: no route$"):
        check_model_name("far/away")
