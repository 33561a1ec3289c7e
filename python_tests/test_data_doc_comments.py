import pytest

from softnce_ext.data.doc_comments import block_text, line_text
from softnce_ext.data.documentation import first_paragraph

BLOCKS = {
    "one line": ("/** Reads it all. */", "Reads it all."),
    "banner": ("/********\n * Reads it all.\n ********/", "Reads it all."),
    "no stars": ("/**\n   Reads it\n   all.\n*/", "Reads it all."),
    "tags end it": ("/**\n * Reads it all.\n * @param x y\n * More.\n */", "Reads it all."),
    "tags alone": ("/** @return the rows of it */", ""),
    "described": ("/**\n * @method read\n * @desc Reads it\n * all.\n * @x\n */", "Reads it all."),
    "an address": ("/** Sends it to me@example.org now. */", "Sends it to me@example.org now."),
    "inherited": ("/** {@inheritDoc} */", ""),
    "inherited in PHP": ("/**\n * @inheritdoc\n */", ""),
    "link": ("/** Like {@link Row} does. */", "Like Row does."),
    "link to a member": ("/** Like {@link #read(int, int)} does. */", "Like read(int, int) does."),
    "label": ("/** Like {@linkplain Row#a the row} does. */", "Like the row does."),
    "JSDoc's labels": ("/** Like [the row]{@link Row} or {@link A|b}. */", "Like the row or b."),
    "code": ("/** Reads a {@code Map<K, {V}>} now. */", "Reads a Map<K, {V}> now."),
    "inline HTML": ('/** Reads <b>all</b> <a href="x">rows</a>. */', "Reads all rows."),
    "generics stay": ("/** Reads a List<String> now. */", "Reads a List<String> now."),
    "paragraph": ("/** Reads it all.<p>\n * More of it. */", "Reads it all."),
    "list": ("/** Reads it all: <ul><li>rows</li></ul> */", "Reads it all:"),
    "entities": ("/** Reads a &lt; b &amp;&nbsp;c. */", "Reads a < b & c."),
    "of Ruby": ("=begin rdoc\nReads it all.\n=end", "Reads it all."),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_block_gives_its_first_paragraph_as_it_reads(case: str) -> None:
    comment, text = BLOCKS[case]
    assert first_paragraph(block_text(comment)) == text


LINES = {
    "two": (["// Reads it", "// all."], "Reads it all."),
    "no blank": (["//Reads it all."], "Reads it all."),
    "three marks": (["/// Reads it all."], "Reads it all."),
    "empty line": (["// Reads it all.", "//", "// More."], "Reads it all."),
    "directives": (["//go:generate x", "// Reads it all.", "//export read"], "Reads it all."),
    "build tag": (["// +build linux", "// Reads it all."], "Reads it all."),
    "hash": (["# Reads it", "# all."], "Reads it all."),
    "magic": (["# -*- coding: utf-8 -*-", "# encoding: x", "# Reads it all."], "Reads it all."),
    "RDoc": (["##", "# = Title", "# Reads <tt>it</tt> +all+.", "# :yields: x"], "Reads it all."),
    "signatures": (["# :call-seq:", "#   a(b) -> c", "#", "# Reads it all."], "Reads it all."),
    "YARD": (["# Reads it all.", "# @param x [Row]"], "Reads it all."),
    "YARD's links": (["# Reads {Row} or {Row#all the rows}."], "Reads Row or the rows."),
    "YARD's pointer": (["# (see Row#all)"], ""),
    "sums stay": (["# Adds a+b to c + d here."], "Adds a+b to c + d here."),
}


@pytest.mark.parametrize("case", LINES)
def test_lines_give_their_first_paragraph_as_it_reads(case: str) -> None:
    comments, text = LINES[case]
    assert first_paragraph(line_text(comments)) == text
