import pytest

from softnce_ext.data.documentation import fault_of, first_paragraph


@pytest.mark.parametrize(
    ("docstring", "query"),
    [
        ("\n    Read the lines\n    of a file.\n\n    More.\n", "Read the lines of a file."),
        ("Read a file.\nArgs:\n    path: where", "Read a file."),
        ("Read a file.\n:param path: where", "Read a file."),
        ("Read a file.\n@return lines", "Read a file."),
        ("Read a file.\n>>> read()", "Read a file."),
        ("Read a file.\nParameters\n----------\npath : str", "Read a file."),
        ("Title of it\n===========\n\nText.", "Title of it"),
        ("where(x, y) -> Tensor\n\nPick by a mask.", "Pick by a mask."),
        (".. deprecated:: 1.0\n   Use b.\n\nPick by a mask.", "Pick by a mask."),
        ("See also :func:`read`.\n\nPick by a mask.", "Pick by a mask."),
        ("Returns: the sum of all values", "Returns: the sum of all values"),
        ("Turn :class:`~torch.nn.Module` into text", "Turn `torch.nn.Module` into text"),
        ("input_ids (`Tensor` of shape `(n,)`): Indices.", ""),
        ("Args:\n    x: a number", ""),
        ("Use as follows::\n\n    x", "Use as follows:".rstrip(":")),
        ("", ""),
        ("  \n \n", ""),
    ],
)
def test_first_paragraph_is_the_first_sentence_as_one_line(docstring: str, query: str) -> None:
    assert first_paragraph(docstring) == query


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("", "no documentation"),
        ("Read file.", "short documentation"),
        ("Read a file.", ""),
        ("word " * 256, ""),
        ("word " * 257, "long documentation"),
        ("读取 文件 的 所有 行", "not English"),
        ("x = (y ** 2 + 3) / 4 - 5 * [1, 2] ** 7", "not English"),
        ("Return the naïve Café of words", ""),
    ],
)
def test_fault_names_the_rule_that_is_broken(query: str, fault: str) -> None:
    assert fault_of(query) == fault


def test_hostile_documentation_takes_no_time() -> None:
    for text in ("(" * 100_000, ":a:" * 50_000, "f(" + ")" * 100_000, "`" * 100_000):
        first_paragraph(text)
