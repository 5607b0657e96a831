"""What the exit code of a command says."""

from __future__ import annotations

ERROR = 1
"""Something failed, or does not work here; the message is on stderr."""

USAGE = 2
"""The command line itself is wrong: nothing was read."""

DIFFERENT = 3
"""`compare` found outputs beyond the tolerance."""

NOT_COMPARED = 4
"""`compare` found no difference, but could not compare every signature of the first model."""

INTERRUPTED = 130
"""Ctrl-C, which is what a shell reports of a process that SIGINT ended."""

SIGNALLED = 128
"""Added to the number of a signal that ended the command, as shells do: 143 for SIGTERM, 129 for SIGHUP."""

HELP = (
    "Exit codes: 0 done; 1 an error, whose message is on stderr (for doctor: nothing can be optimized here); "
    "2 the command line is wrong; 3 compare found outputs beyond the tolerance; 4 compare found none, but could not "
    "compare every signature; 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP."
)
