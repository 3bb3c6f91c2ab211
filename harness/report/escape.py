"""Names are data: what a suite calls its variants and classes must not act as markup, formula or terminal control."""

from __future__ import annotations

import unicodedata

from anyascii import anyascii

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after a line's end they would be its options
    "|": r"\textbar{}", '"': "''", "`": "{`}",
    "×": r"$\times$", "±": r"$\pm$", "≈": r"$\approx$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "…": r"\ldots{}", "–": "--",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "ε": r"$\varepsilon$", "λ": r"$\lambda$", "τ": r"$\tau$",
}  # fmt: skip
_MARKDOWN = set("\\`*_{}[]#|~$")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ASCII = {
    "–": "-", "−": "-", "—": "-", "·": "-", "±": "+-", "×": "x", "≈": "~", "≤": "<=", "≥": ">=", "…": "...",
    "↑": "^", "↓": "v", "→": "->", "Δ": "d", "α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "λ": "lambda",
    "τ": "tau",
}  # fmt: skip
_UNSEEN = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def one_line(text: object) -> str:
    """The text on one line, without control and invisible formatting characters."""
    return " ".join(visible(" ".join(str(text).split())).split())


def visible(text: str) -> str:
    """The text without control and invisible formatting characters; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in _UNSEEN)


def ascii_letters(char: str) -> str:
    """A character in ASCII letters, of whatever script it is; `?` where there are none."""
    return _ASCII.get(char) or anyascii(char) or "?"


def latex(text: object) -> str:
    """For the body of a LaTeX document, of any engine; letters that pdflatex does not know become ASCII ones."""
    return "".join(_LATEX.get(char) or _latin(char) for char in one_line(text))


def markdown(text: object) -> str:
    """For a cell of a Markdown table: no markup, no HTML, no link."""
    return "".join(_ENTITIES.get(char) or (f"\\{char}" if char in _MARKDOWN else char) for char in one_line(text))


def csv(text: object) -> str:
    """For a cell of a CSV file: text that a spreadsheet would take for a formula starts with an apostrophe."""
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line


def _latin(char: str) -> str:
    if ord(char) < 128 or (char.isalpha() and ord(char) < 256):
        return char
    return "".join(_LATEX.get(part) or part for part in ascii_letters(char))
