"""What a panel looks like without a kernel: text for a terminal, HTML for a saved notebook.

Both say the same and hold only what is the same in every run: no sizes that grow, no times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from snapkit.widgets.words import visible

__all__ = ["Static"]


@dataclass(frozen=True)
class Static:
    """A title, sentences, a table and a piece of code; any of them may be empty."""

    title: str
    sentences: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    code: str = ""

    def to_text(self) -> str:
        """Lines of plain text."""
        lines = [" ".join([f"{self.title}:", *map(visible, self.sentences)])]
        if self.rows:
            lines += map(_line, [self.columns, *self.rows])
        if self.code:
            lines += [f"    {line}".rstrip() for line in self.code.splitlines()]
        return "\n".join(lines)

    def to_html(self) -> str:
        """HTML in which all text is escaped and nothing runs."""
        sentences = " ".join(escape(visible(sentence)) for sentence in self.sentences)
        parts = [f"<p><strong>{escape(self.title)}</strong> {sentences}</p>"]
        if self.rows:
            head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns)
            body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in self.rows)
            caption = f"<caption>{escape(self.title)}</caption>"
            parts.append(
                f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            )
        if self.code:
            parts.append(f"<pre>{escape(self.code)}</pre>")
        return "".join(parts)


def _cell(text: str) -> str:
    return f"<td>{escape(visible(text))}</td>"


def _line(cells: Iterable[str]) -> str:
    """Cells side by side, not aligned: widths would differ with the lab's directory."""
    return "    " + " | ".join(map(visible, cells)).rstrip()
