"""Formulas of the pages, `$…$` and ```math blocks, as MathML: browsers draw it without a script.

Reads the part of TeX that the pages use; anything else is an error, and so fails the build.

>>> mathml(r"\\lambda_1")
'<math><msub><mi>λ</mi><mn>1</mn></msub></math>'
"""

from __future__ import annotations

import re
from html import escape
from typing import Any
from unicodedata import normalize

LETTERS = {
    **{"alpha": "α", "lambda": "λ", "mu": "μ", "rho": "ρ", "tau": "τ", "theta": "θ"},
    **{"varepsilon": "ε", "varphi": "φ", "ell": "ℓ", "infty": "∞", "top": "⊤"},
}
OPERATORS = {
    **{"le": "≤", "ge": "≥", "cdot": "·", "mid": "|", "to": "→", "mapsto": "↦", "sim": "∼"},
    **{"in": "∈", "cap": "∩", "pm": "±", "propto": "∝", "nabla": "∇", "Vert": "∥", "int": "∫"},
    **{"lVert": "∥", "rVert": "∥", "langle": "⟨", "rangle": "⟩", "lbrace": "{", "rbrace": "}"},
}
FUNCTIONS = ("log", "min", "max", "exp")
SPACES = {" ": "0.3em", ",": "0.2em", ";": "0.3em", "quad": "1em"}
BLACKBOARD = {"E": "𝔼", "R": "ℝ"}

_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\s+|.", re.DOTALL)
_MATHS = re.compile(
    r"^```math\n(?P<block>.*?)^```\s*?$"
    r"|(?P<code>^(?P<fence>```+).*?^(?P=fence)\s*?$|(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))"
    r"|(?<![\\$])\$(?P<inline>[^\s$](?:[^$]*?[^\s$])?)\$(?!\d)",
    re.DOTALL | re.MULTILINE,
)
_PLACE = "\ue000{}\ue001"

_formulas: list[str] = []


def mathml(formula: str, display: bool = False) -> str:
    """The formula as a <math> element. Raises ValueError: it is no TeX that is known here."""
    inside = _Reader(formula).read_all()
    return f'<math display="block">{inside}</math>' if display else f"<math>{inside}</math>"


def on_page_markdown(markdown: str, **handed: Any) -> str:
    """Put a mark in each formula's place, so that Markdown leaves it alone."""
    if not handed["page"].file.src_uri.startswith("theory"):
        return markdown
    return _MATHS.sub(_marked, markdown)


def on_page_content(html: str, **handed: Any) -> str:
    """Put the formulas where their marks are."""
    return re.sub("\ue000(\\d+)\ue001", lambda mark: _formulas[int(mark[1])], html)


def _marked(match: re.Match[str]) -> str:
    if match["code"]:
        return match[0]
    _formulas.append(mathml(match["block"] or match["inline"], bool(match["block"])))
    return _PLACE.format(len(_formulas) - 1)


class _Reader:
    def __init__(self, formula: str) -> None:
        self.formula = formula
        self.tokens = [token for token in _TOKEN.findall(formula.strip()) if not token.isspace()]
        self.place = 0

    def read_all(self) -> str:
        inside = self._until(())
        if self.place < len(self.tokens):
            raise ValueError(f"{self.formula!r}: {self.tokens[self.place]!r} closes nothing")
        return inside

    def _peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def _next(self) -> str:
        if self.place == len(self.tokens):
            raise ValueError(f"{self.formula!r} ends too soon")
        self.place += 1
        return self.tokens[self.place - 1]

    def _until(self, closing: tuple[str, ...]) -> str:
        parts = []
        while self._peek() and self._peek() not in ("}", "\\right", "\\end", *closing):
            parts.append(self._scripted())
        return "".join(parts)

    def _scripted(self) -> str:
        under = self._peek() in ("\\sum", "\\underbrace")
        base, scripts = self._atom(), {}
        while self._peek() in ("^", "_"):
            sign = self._next()
            scripts[sign] = self._argument()
        if not scripts:
            return base
        kind = {"_": "under", "^": "over", "_^": "underover"} if under else {}
        kind = kind or {"_": "sub", "^": "sup", "_^": "subsup"}
        name = kind["".join(sorted(scripts, reverse=True))]
        inside = "".join(scripts[sign] for sign in ("_", "^") if sign in scripts)
        return f"<m{name}>{base}{inside}</m{name}>"

    def _argument(self) -> str:
        # One token, as TeX takes it: \frac12 is a half.
        if self._peek().isdigit():
            return f"<mn>{self._next()}</mn>"
        return self._atom()

    def _atom(self) -> str:
        token = self._next()
        if token == "{":
            inside = self._until(())
            self._close("}")
            return f"<mrow>{inside}</mrow>"
        if token.isdigit():
            while self._peek().isdigit() or (self._peek() == "." and self._after().isdigit()):
                token += self._next()
            return f"<mn>{token}</mn>"
        if token.startswith("\\"):
            return self._command(token[1:])
        if token.isalpha():
            return f"<mi>{token}</mi>"
        stretch = ' stretchy="false"' if token in "()[]|" else ""
        return f"<mo{stretch}>{escape({'-': '−', '*': '∗', chr(39): '′'}.get(token, token))}</mo>"

    def _command(self, name: str) -> str:
        if name in LETTERS:
            return f"<mi>{LETTERS[name]}</mi>"
        if name in OPERATORS:
            return f'<mo stretchy="false">{OPERATORS[name]}</mo>'
        if name in FUNCTIONS:
            return f'<mi>{name}</mi><mspace width="0.15em"></mspace>'
        if name in SPACES:
            return f'<mspace width="{SPACES[name]}"></mspace>'
        if name == "sum":
            return '<mo movablelimits="true">∑</mo>'
        if name in ("frac", "tfrac"):
            return f"<mfrac>{self._argument()}{self._argument()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self._argument()}</msqrt>"
        if name == "hat":
            return f"<mi>{normalize('NFC', self._words() + chr(0x302))}</mi>"
        if name == "underbrace":
            return f"<munder>{self._argument()}<mo>⏟</mo></munder>"
        if name == "mathbb":
            return f"<mi>{BLACKBOARD[self._words()]}</mi>"
        if name == "mathrm":
            return f'<mi mathvariant="normal">{escape(self._words())}</mi>'
        if name == "text":
            return f"<mtext>{escape(self._text())}</mtext>"
        if name == "left":
            return self._fenced()
        if name == "begin" and self._words() == "aligned":
            return self._aligned()
        raise ValueError(f"{self.formula!r}: \\{name} is not known to docs/hooks/formulas.py")

    def _fenced(self) -> str:
        opening = self._delimiter()
        inside = self._until(())
        self._close("\\right")
        return f"<mrow><mo>{opening}</mo>{inside}<mo>{self._delimiter()}</mo></mrow>"

    def _delimiter(self) -> str:
        token = self._next()
        return OPERATORS[token[1:]] if token.startswith("\\") else token

    def _aligned(self) -> str:
        rows, cells = [], []
        while True:
            cells.append(f"<mtd>{self._until(('&', chr(92) * 2))}</mtd>")
            if self._peek() == "&":
                self._next()
                continue
            rows.append(f"<mtr>{''.join(cells)}</mtr>")
            cells = []
            if self._peek() != "\\\\":
                break
            self._next()
        self._close("\\end")
        self._words()
        return f'<mtable displaystyle="true" class="aligned">{"".join(rows)}</mtable>'

    def _words(self) -> str:
        if self._peek() != "{":
            return self._next()
        self._close("{")
        words = ""
        while self._peek() != "}":
            words += self._next()
        self._close("}")
        return words

    def _text(self) -> str:
        # Spaces count here, and were dropped: read it from the formula itself.
        words = self._words()
        spaced = r"\s*".join(re.escape(character) for character in words)
        match = re.search(rf"\\text\s*\{{(\s*{spaced}\s*)\}}", self.formula)
        assert match is not None
        return match[1].replace(" ", "\u00a0")

    def _after(self) -> str:
        return self.tokens[self.place + 1] if self.place + 1 < len(self.tokens) else ""

    def _close(self, expected: str) -> None:
        token = self._next()
        if token != expected:
            raise ValueError(f"{self.formula!r}: {token!r} stands where {expected!r} should")
