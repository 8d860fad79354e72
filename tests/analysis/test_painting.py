"""Painted text has a span for each token, and no token becomes markup."""

from html.parser import HTMLParser

import pytest
import torch

from tost.analysis import painted_text
from tost.analysis.painting import token_texts


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.spans, self.styles, self.titles = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "span":
            self.spans.append("")
            self.styles.append(dict(attributes)["style"])
            self.titles.append(dict(attributes)["title"])

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "span":
            self.spans[-1] += data


TOKENS = ["<script>", "a&b", "'>\"", "plain"]
PI = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.6, 0.4]])


def read(block):
    page = Reader()
    page.feed(block.html)
    return page


def test_tokens_are_escaped_and_painted_by_their_strongest_head():
    page = read(painted_text(TOKENS, {"block 1": PI, "<2>": PI.flip(1)}))
    assert "script" not in page.tags and page.tags.count("input") == 2
    assert page.spans == TOKENS * 2
    assert page.titles[:4] == ["head 1: 0.900", "head 2: 0.800", "head 1: 0.500", "head 1: 0.600"]
    assert page.titles[4].startswith("head 2")
    colour = [style.rpartition(",")[0] for style in page.styles]
    strength = [float(style.rpartition(",")[2].rstrip(")")) for style in page.styles]
    assert colour[0] == colour[3] == colour[5] != colour[1]
    assert strength[0] == max(strength) and strength[2] == min(strength)


def test_another_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match=r"\[3, heads\], got \[4, 2\] for b"):
        painted_text(TOKENS[:3], {"b": PI})


def test_token_texts_join_to_the_text():
    from tost.data.tokens import byte_tokenizer

    words = byte_tokenizer()
    found = token_texts(words, words("a<b>\n c")["input_ids"])
    assert "".join(found) == "a<b>\u21b5\n c"
