"""What clients sent is shown as it is, and is never Markdown of the page."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from headgate.verdicts import Disagreement, ShadowReport
from tasks import artifacts
from tasks.markdown import as_code

BREAKS_OUT = "` [approve](http://elsewhere.example) <img src=x> ``\n\n# Approved"


@pytest.mark.parametrize("text", ["plain", "", "`", "``", "a`b", "`a", "a`", BREAKS_OUT, "a\n\n- b", "\\`", "<b>"])
def test_a_text_is_one_piece_of_code(text):
    paragraph, said, end = MarkdownIt().parse(f"- before {as_code(text)} after")[2:5]
    assert (paragraph.type, end.type) == ("paragraph_open", "paragraph_close")
    assert [one.type for one in said.children] == ["text", "code_inline", "text"]
    assert said.children[1].content.split() == text.split()


def test_an_example_of_the_shadow_gate_stays_within_its_place(monkeypatch):
    left = {}
    monkeypatch.setattr(artifacts, "_leave", lambda _make, text, **_: left.update(text=text))
    example = Disagreement(request_id=BREAKS_OUT, request="{}", champion=BREAKS_OUT, challenger=BREAKS_OUT)
    report = ShadowReport(
        pairs=10, unmatched=1, disagreements=2, errors=1, rate=0.2, limit=0.1, e_value=3, latency_ratio=1.1,
        passed=False, reason="2 of 10 answers differ", examples=(example,),
    )  # fmt: skip
    artifacts.show_shadow("wine", report)
    page = MarkdownIt().enable("table").render(left["text"])
    assert page.count("<code>") == 3
    assert not any(mark in page for mark in ("<a ", "<h1>", "<img"))
