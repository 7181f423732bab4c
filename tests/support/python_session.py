"""An interpreter that runs the Python blocks of one page, one after another.

Reads one JSON string per line, a block, and writes a NUL, the exit code (0 or 1) and a NUL to
stdout after each. An expression statement followed by a comment that looks like a value,
`len(rows)  # 111`, is compared with it; `…` in the comment stands for anything.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import traceback
from typing import Any

VALUE = re.compile(r"""[\[({'"\d-]|True\b|False\b|None\b""")
"""How a comment begins that shows a value."""


def shown_value(statement: ast.stmt, lines: list[str]) -> str:
    """The value in the comment behind an expression statement; empty if there is none."""
    if not isinstance(statement, ast.Expr) or statement.end_lineno is None:
        return ""
    end = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode().strip()
    comment = end.removeprefix("#").strip()
    return comment if end.startswith("#") and VALUE.match(comment) else ""


def matches(value: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), value, re.S) is not None


def run(block: str, names: dict[str, Any]) -> None:
    """Raises what the block raises, and AssertionError for another value than the page shows."""
    lines = block.splitlines()
    for statement in ast.parse(block).body:
        expected = shown_value(statement, lines)
        if expected:
            expression = ast.Expression(statement.value)  # type: ignore[attr-defined]
            value = repr(eval(compile(expression, "<page>", "eval"), names))
            assert matches(value, expected), f"the page shows {expected}, the value is {value}"
        else:
            exec(compile(ast.Module([statement], []), "<page>", "exec"), names)


def main() -> None:
    sys.path[0] = ""  # as in an interactive interpreter: the working directory
    names: dict[str, Any] = {"__name__": "__main__"}
    for line in sys.stdin:
        code = 0
        try:
            run(json.loads(line), names)
        except BaseException:
            traceback.print_exc()
            code = 1
        print(f"\0{code}\0", end="", flush=True)


if __name__ == "__main__":
    main()
