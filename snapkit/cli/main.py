"""``snapkit VERB ...``: finding the verb, running it, and the exit status.

0: done. 1: refused, or failed and undone. 2: usage. 3: the outcome is not known. 128 + n:
ended by signal n.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from snapkit.cli.console import Console
from snapkit.cli.demo import DEMO
from snapkit.cli.doctor import DOCTOR
from snapkit.cli.lab import LAB
from snapkit.cli.look import DEVICES, DISCOVER, LAYERS, SNAPSHOTS
from snapkit.cli.record import JOURNAL, RECOVER
from snapkit.cli.snapshot import SNAPSHOT
from snapkit.cli.verb import UsageError, Verb
from snapkit.errors import SnapkitError

__all__ = ["VERBS", "main"]

_ORDER = (DEMO, LAB, DOCTOR, DISCOVER, DEVICES, LAYERS, SNAPSHOT, SNAPSHOTS, JOURNAL, RECOVER)
VERBS = {verb.name: verb for verb in _ORDER}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    console = Console()
    try:
        with _signals_interrupt():
            return _run(list(sys.argv[1:] if argv is None else argv), console)
    except SnapkitError as error:
        _trace()
        console.say(f"snapkit: {error}")
        return error.exit_code
    except _EndedBySignal as end:
        console.say(f"snapkit: ended by {signal.Signals(end.number).name}.")
        return 128 + end.number
    except KeyboardInterrupt:
        console.say("snapkit: interrupted.")
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        _trace()
        console.say(
            f"snapkit: the Python package that has {error.name!r} is not installed. "
            "`snapkit doctor` says what is missing."
        )
        return 1
    except Exception as error:  # noqa: BLE001  people get a sentence, not a traceback
        _trace()
        console.say(
            f"snapkit: something unexpected happened ({type(error).__name__}: {error}). "
            "SNAPKIT_DEBUG=1 shows where."
        )
        return 1


def _run(words: list[str], console: Console) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        return _help(words[1:], console)
    if words[0] in ("-V", "--version"):
        from snapkit import __version__

        console.write(f"snapkit {__version__}")
        return 0
    verb = _verb(words[0])
    try:
        arguments = verb.parser().parse_intermixed_args(words[1:])
    except SystemExit as end:
        # Help was shown, or what is wrong was said.
        return end.code if isinstance(end.code, int) else UsageError.exit_code
    console.form = arguments.form
    try:
        return verb.run(arguments, console)
    except UsageError as error:
        msg = f"{error} `snapkit {verb.name} --help` shows how."
        raise UsageError(msg) from error


def _verb(name: str) -> Verb:
    if name in VERBS:
        return VERBS[name]
    close = difflib.get_close_matches(name, VERBS, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "`snapkit --help` lists the verbs."
    msg = f"There is no verb {name!r}. {hint}"
    raise UsageError(msg)


def _help(words: list[str], console: Console) -> int:
    if words:
        console.write(_verb(words[0]).parser().format_help().rstrip())
        return 0
    width = max(map(len, VERBS))
    lines = [
        "usage: snapkit VERB ...",
        "",
        "Snapshot all of a running VM's disks at one instant.",
        "",
        *(f"  {verb.name:{width}}  {verb.help}" for verb in VERBS.values()),
        "",
        "`snapkit VERB --help` shows the arguments of a verb. --version shows the version.",
        "Exit status: 0 done, 1 refused or failed (the message says what was undone), 2 usage,",
        "3 outcome unknown.",
    ]
    console.write("\n".join(lines))
    return 0


def _trace() -> None:
    if os.environ.get("SNAPKIT_DEBUG"):
        traceback.print_exc()


class _EndedBySignal(KeyboardInterrupt):
    """Someone asked the process to end. Handled like Ctrl-C: what was begun is undone."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """While in here, SIGTERM and SIGHUP interrupt like Ctrl-C, unless they are ignored."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise _EndedBySignal(number)

    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread: nothing to set
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
