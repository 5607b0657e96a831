"""Writes docs/bad_input.md, the list of bad input that tests/cli/test_bad_input.py goes through.

python -m tests.cli.bad_input_page
"""

from __future__ import annotations

from pathlib import Path

from tests.cli.bad_options import FEEDS, OPTIONS
from tests.cli.bad_paths import MODELS, RESULTS, Case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad_input.md"

GROUPS: dict[str, dict[str, Case]] = {"model": MODELS, "result": RESULTS, "option": OPTIONS, "feeds": FEEDS}

_HEAD = """\
# Bad input at the command line

Each of these ends with the exit code shown, a message on stderr that holds these parts, and nothing on stdout; nothing
is written, and the model stays as it was. `python -m tests.cli.bad_input_page` writes this page; the tests go through
the same list. Values out of an option's range (exit code 2) are in
`tests/cli/test_option_values.py`.
"""


def page() -> str:
    """Returns the page."""
    lines = [_HEAD]
    for group, cases in GROUPS.items():
        lines += [f"## {group.capitalize()}", "", "| case | exit code | the message has |", "|---|---|---|"]
        for name, (_, code, parts) in cases.items():
            shown = " … ".join(parts).replace("|", "/")
            lines.append(f"| {name} | {code} | {shown} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
