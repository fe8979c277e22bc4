"""What a verb of the terminal is, and the arguments that several verbs have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapkit.cli.console import Console
from snapkit.errors import SnapkitError

if TYPE_CHECKING:
    from snapkit.vm import VirtualMachine

__all__ = [
    "UsageError",
    "Verb",
    "add_domain",
    "add_endpoint",
    "add_timeout",
    "connect",
    "domain_of",
]


class UsageError(SnapkitError):
    """The command line cannot be understood."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb. ``run`` gets the parsed arguments and returns the exit status.

    ``forms`` are the options that choose the form of the output.
    """

    name: str
    help: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Console], int]
    forms: tuple[str, ...] = ("json", "csv")

    def parser(self) -> argparse.ArgumentParser:
        """The parser of what follows the verb."""
        parser = argparse.ArgumentParser(
            prog=f"snapkit {self.name}",
            description=self.help,
            epilog=f"example:\n  {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.arguments(parser)
        group = parser.add_mutually_exclusive_group()
        for form in self.forms:
            group.add_argument(
                f"--{form}",
                dest="form",
                action="store_const",
                const=form,
                default="text",
                help=f"write {form.upper()} instead of text",
            )
        return parser


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """The arguments of a verb that connects."""
    parser.add_argument(
        "endpoint",
        metavar="ENDPOINT",
        help="unix:/path, a path, tcp:host:port or host:port of a QMP monitor; or a libvirt URI, "
        "such as qemu:///system",
    )
    add_timeout(parser)


def add_domain(parser: argparse.ArgumentParser) -> None:
    """The domain, where it is the last word."""
    parser.add_argument(
        "domain",
        metavar="DOMAIN",
        nargs="?",
        help="the domain of a libvirt URI, by name, uuid or id (none: the only one that runs)",
    )


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """The time limit for connecting."""
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=5.0,
        metavar="S",
        help="seconds for the connection and the first look (default: 5)",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


_seconds.__name__ = "time in seconds"


def domain_of(endpoint: str, domain: str | None) -> str | None:
    """The libvirt domain. Raises UsageError where the endpoint has no domains."""
    if domain is not None and "://" not in endpoint:
        msg = (
            f"{domain!r} follows {endpoint}, which is a QMP monitor: only a libvirt URI, such as "
            "qemu:///system, has a domain after it."
        )
        raise UsageError(msg)
    return domain


def connect(
    arguments: argparse.Namespace, domain: str | None, *, readonly: bool = True
) -> VirtualMachine:
    """Connect as the arguments say. Raises ConnectError."""
    from snapkit.vm import connect as connect_to

    domain = domain_of(arguments.endpoint, domain)
    return connect_to(arguments.endpoint, domain, readonly=readonly, timeout=arguments.timeout)
