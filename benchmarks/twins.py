"""How much of one text the two connections are, the one with threads and the one on an event loop: `make twins`.

A line counts if it has code on it: no blank ones, no comments, no docstrings. Two lines are the same if they are so
without their indentation, wherever they stand; a line that is there twice is shared twice if the other has it twice.
"""

import ast
import tokenize
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
TWINS: Final = (ROOT / "typedrpc" / "sync" / "connection.py", ROOT / "typedrpc" / "aio" / "connection.py")

MOST_LINES: Final = 300
"""Either twin has fewer lines of code."""

MOST_SHARED: Final = 1 / 3
"""The part of either that may stand in the other too."""

_NO_CODE: Final = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> list[str]:
    """The lines of a module that have code on them, without their indentation."""
    words: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            words.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    lines = source.splitlines()
    return [lines[number - 1].strip() for number in sorted(code - words)]


def shared_lines(one: list[str], other: list[str]) -> list[str]:
    """The lines that both have, as often as both have them."""
    return list((Counter(one) & Counter(other)).elements())


class Likeness(NamedTuple):
    """How alike two modules are."""

    lines: tuple[int, int]
    shared: list[str]

    @property
    def share(self) -> float:
        """What is shared, as a part of the smaller one."""
        return len(self.shared) / min(self.lines)


def compare(one: Path = TWINS[0], other: Path = TWINS[1]) -> Likeness:
    """Compare two modules."""
    ours, theirs = (code_lines(path.read_text(encoding="utf-8")) for path in (one, other))
    return Likeness((len(ours), len(theirs)), shared_lines(ours, theirs))


def main() -> None:
    likeness = compare()
    for path, lines in zip(TWINS, likeness.lines, strict=True):
        print(f"{path.relative_to(ROOT)!s:28} {lines:4} lines of code, fewer than {MOST_LINES} promised")
    share = f"{likeness.share:.0%} of the smaller, at most {MOST_SHARED:.0%} promised"
    print(f"{'in both':28} {len(likeness.shared):4} lines, {share}")


if __name__ == "__main__":
    main()
