"""Installs what `make bench` measures beside, one library at a time; one that will not install is left out with a line.

The libraries are those of the extra `peers`. Exit code 0 whatever happens: the benchmark shows what there is.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[1] / "pyproject.toml"
PIP: Final = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def requirements() -> list[str]:
    """The extra as it is declared, markers and all: pip passes over those that are not for this Python."""
    with PROJECT.open("rb") as file:
        peers: list[str] = tomllib.load(file)["project"]["optional-dependencies"]["peers"]
    return peers


def install(requirement: str) -> bool:
    """Whether pip could install it."""
    return subprocess.run([*PIP, requirement], capture_output=True, check=False).returncode == 0


def install_all(wanted: Iterable[str], install: Callable[[str], bool]) -> list[str]:
    """Install one after another; a line for each that is left out."""
    return [
        f"{_name(requirement)} is left out: it will not install" for requirement in wanted if not install(requirement)
    ]


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


if __name__ == "__main__":
    for line in install_all(requirements(), install):
        print(line)
