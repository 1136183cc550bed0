"""Digests of the packages that an environment is made of: ``python -m benchmarks.hashes FILE``, or ``make hashes``.

Asks pip which files it would install for requirements.txt on this machine and from its indexes, and writes the digest
of each as ``pip install --require-hashes --no-deps`` reads it. torch is left out: builds for processors and for GPUs
have one version and different digests, and which of them an index gives is not the same everywhere. The file is for
machines with the same Python, platform and indexes; nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.audit import pinned

# Its builds differ under one version.
LEFT_OUT = ("torch",)


def ask_pip(wanted: Sequence[str]) -> dict[str, Any]:
    """pip's report on what it would install for requirements, none of which takes others along."""
    with tempfile.TemporaryDirectory() as folder:
        report, listed = Path(folder, "report.json"), Path(folder, "requirements.txt")
        listed.write_text("\n".join(wanted) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
        subprocess.run([*command, "--report", str(report), "--requirement", str(listed)], check=True)
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def lines_of(report: dict[str, Any]) -> list[str]:
    """A requirement with its digest for each package of a report, by name.

    Raises
    ------
    ValueError
        If a package has no sha256, as one that is taken from a folder or a repository.
    """
    lines = []
    for one in report["install"]:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"{name} {version}: {one['download_info']['url']} has no sha256; take it from an index")
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    return sorted(lines, key=str.lower)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    lines = lines_of(ask_pip([f"{name}=={version}" for name, version in pinned().items() if name not in LEFT_OUT]))
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: digests of {len(lines)} packages; without {', '.join(LEFT_OUT)}")


if __name__ == "__main__":
    main()
