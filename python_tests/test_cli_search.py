from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny import SOURCE, save_tiny_encoder

from softnce_ext.cli.main import main


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(folder, name_boost=3, hybrid_weight=0.5)
    return str(folder)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTNCE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "tools.py").write_text(SOURCE)
    return folder


def test_prints_place_score_and_first_lines_and_keeps_the_index(
    encoder: str, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", encoder, "send a mail to an address", "--code", str(code), "--top", "2"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    lines = first.split("\n")
    assert lines[0].startswith(f"1. {code}/tools.py:9  send_mail  ")
    assert lines[1] == "    def send_mail(self, address, body):"
    assert [line[:2] for line in lines if line and line[0] != " "] == ["1.", "2."]
    assert "\x1b" not in first
    assert len(list((tmp_path / "cache" / "index").iterdir())) == 1
    assert main(arguments) == 0
    second = capsys.readouterr()
    assert second.out == first
    assert second.err == ""


def test_json_says_what_was_found_and_whether_the_index_was_reused(
    encoder: str, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "mine"
    arguments = ["search", encoder, "resize", "--code", str(code), "--index", str(index), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {
        *("query", "mode", "results", "functions", "index", "reused", "seconds"),
    }
    assert (report["functions"], report["reused"]) == (3, False)
    assert set(report["results"][0]) == {
        *("path", "line", "name", "score", "documentation", "code"),
    }
    assert report["results"][0]["name"] == "resize_image"
    assert Path(report["index"]).parent == index

    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is True

    (code / "more.py").write_text("def resize(image):\n    return image\n")
    assert main(arguments) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["functions"], report["reused"]) == (4, False)
    assert "changed since the last search" in captured.err
    assert report["results"][0]["name"] == "resize"
    assert len(list(index.iterdir())) == 1


def test_one_file_is_a_code_base(
    encoder: str, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", encoder, "mail", "--code", str(code / "tools.py")]) == 0
    assert capsys.readouterr().out.startswith(f"1. {code}/tools.py:9  send_mail")


def test_files_that_do_not_parse_are_counted(
    encoder: str, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code / "broken.py").write_text("def f(:\n    pass\n")
    assert main(["search", encoder, "mail", "--code", str(code)]) == 0
    captured = capsys.readouterr()
    assert "send_mail" in captured.out
    assert "files left out: 1 unparsable\n" in captured.err


def test_other_languages_are_searched_and_shown_with_their_comments(
    encoder: str, code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "package a\n\n// SendMail posts one.\nfunc SendMail(to string) error {\n\treturn nil\n}"
    )
    (code / "mail.go").write_text(source)
    arguments = ["search", encoder, "send a mail", "--code", str(code), "--json", "--top", "9"]
    assert main(arguments) == 0
    names = {each["name"] for each in json.loads(capsys.readouterr().out)["results"]}
    assert names == {"read_lines", "send_mail", "resize_image", "SendMail"}
    go = ["search", encoder, "send a mail", "--code", str(code), "--language", "go"]
    assert main(go) == 0
    shown = capsys.readouterr().out.split("\n")
    assert shown[0].startswith(f"1. {code}/mail.go:4  SendMail  ")
    assert shown[1:3] == ["    // SendMail posts one.", "    func SendMail(to string) error {"]
    assert main([*go[:-1], "php"]) == 1
    assert "holds no php file" in one_sentence(capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "tree_sitter_go", None)
    with pytest.warns(UserWarning, match=r"1 go files cannot be read without .*softnce-ext\[mine"):
        assert main(arguments) == 0  # indexed again, as other files are read
    assert json.loads(capsys.readouterr().out)["functions"] == 3
    assert main(go) == 1
    assert "pip install 'softnce-ext[mine]'" in one_sentence(capsys.readouterr().err)


def test_words_that_no_function_has_find_nothing(
    encoder: str, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", encoder, "zebra", "--code", str(code), "--mode", "lexical"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == ""
    assert "no function shares a word with the query" in captured.err


def test_colours_are_for_terminals_that_want_them(
    encoder: str, code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", encoder, "send a mail", "--code", str(code)]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(arguments)
    assert "def \x1b[1;33msend\x1b[0m_\x1b[1;33mmail\x1b[0m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(arguments)
    assert "\x1b" not in capsys.readouterr().out


def one_sentence(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("softnce search: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def test_what_is_missing_is_told_in_one_sentence(
    encoder: str, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, blank = tmp_path / "empty", tmp_path / "blank"
    empty.mkdir()
    blank.mkdir()
    (blank / "a.py").write_text("x = 1\n")
    nowhere = str(tmp_path / "nowhere")
    for model, path, message in (
        (encoder, nowhere, "there is no such file or folder"),
        (encoder, str(empty), "holds no source file"),
        (encoder, str(blank), "holds no function"),
        (nowhere, str(code), f"model {nowhere}: there is no such folder"),
        ("no-such-model", str(code), "no such folder, nor a model of that name on this machine"),
        (str(empty), str(code), f"model {empty} cannot be loaded"),
    ):
        assert main(["search", model, "x", "--code", path]) == 1
        assert message in one_sentence(capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    [["m"], ["m", "x"], ["m", " ", "--code", "."], ["m", "x", "--code", ".", "--top", "0"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["search", *arguments])
    assert stopped.value.code == 2
    assert "usage: softnce search" in capsys.readouterr().err
