"""Reports as one HTML page that needs nothing but a browser."""

from __future__ import annotations

import html

from tf_opt.report_output import ReportOutput
from tf_opt.report_text import plain_text


def report_page(report: ReportOutput) -> str:
    """Returns the page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>tf_opt report</title>\n</head>\n'
        f"<body>\n<pre>{html.escape(plain_text(report))}</pre>\n</body>\n</html>\n"
    )
