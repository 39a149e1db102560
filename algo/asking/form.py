"""A question that a method asks again and again: its template, and how its reply is read.

    form = Form(template, window, "ropd.yesno.v1", {"yes": {"type": "boolean"}}, read)
    query = form.query(judgement.question, {"answer": [Block("ANSWER", text)]})
    value = await judge.ask(query, judge.deadline(), judgement.transcript)

One query shows the question and some answers, which are cut where the context is too small for
them. Asks nobody. What is divided over several calls, such as ROPD's verification, makes its own
`Query`s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from algo.asking.context import ContextWindow
from algo.asking.extraction import reply_schema
from algo.asking.query import Query
from algo.asking.templates import Block, PromptTemplate, draw_nonce

Read = TypeVar("Read")


@dataclass(frozen=True)
class Form(Generic[Read]):
    """The template holds `nonce`, `question` and a placeholder for each group of answers."""

    template: PromptTemplate
    window: ContextWindow
    """With `overflow` "cut" or "fail": a form is one call."""
    schema_version: str
    properties: Mapping[str, Any]
    """The JSON schemas of the reply's keys beside `schema_version`."""
    read: Callable[[Mapping[str, Any]], Read]
    """The value in a reply's JSON object; raises `InvalidReply`."""
    values: Mapping[str, str] = field(default_factory=dict)
    """The method's own words for further placeholders."""

    def query(
        self, question: str, answers: Mapping[str, Sequence[Block]], nonce: str | None = None
    ) -> Query[Read]:
        """The question with `answers` by placeholder; raises `JudgeFailure(context_overflow)`.

        Queries under one `nonce` begin with the same bytes as far as they show the same, which a
        server's prefix cache serves; it is drawn over all their texts then (`draw_nonce`).
        """
        inert = self.window.inert
        question = inert(question)
        texts = [inert(block.text) for blocks in answers.values() for block in blocks]
        nonce = nonce or draw_nonce([question, *texts])
        (call,) = self.window.plan([self.template.text, question], texts, nonce)
        fitted = iter(call.texts)
        shown = {
            name: [replace(block, text=next(fitted)) for block in blocks]
            for name, blocks in answers.items()
        }
        data = {"question": [Block("QUESTION", question)], **shown}
        return Query(
            self.template.show(data, self.values, nonce, inert),
            self.schema_version,
            reply_schema(self.schema_version, self.properties),
            self.read,
            call,
        )
