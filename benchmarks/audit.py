"""What CoCoFold is made of: ``python -m benchmarks.audit [--licences FILE]``, or ``make audit``.

Asks, of the environment in which it runs:

- whether every package of requirements.txt is there at the version that is pinned, and its files are those that were
  installed (digests of each package's RECORD);
- under which licence each is, and whether there is one that does not go with GPL-3.0-or-later;
- which known vulnerabilities they have, by pip-audit where that is installed and has a network; where not, it says so;
- whether simulating, checking and fine-tuning ask for anything of a network, by Python's audit events.

The exit status is 1 if something is wrong, vulnerabilities included.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Words of licences that go with GPL-3.0-or-later, in what packages say of themselves
COMPATIBLE = re.compile(
    r"MIT|BSD|Apache|PSF|Python Software Foundation|ISC|zlib|HPND|MPL|Mozilla|LGPL|Lesser|GPL|General Public|Unlicense"
    r"|Public Domain|CC0|OFL|Expat|BlueOak|Boost",
    re.IGNORECASE,
)
_NOT_BY_METADATA = 500  # letters beyond which a licence field is the text itself
# As a user would: a simulation, a check and a run, in a process that notes what it asks of a network
WATCHED = """
import sys
from pathlib import Path
folder, asked = Path(sys.argv[1]), []
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        asked.append((event, str(arguments[-1] if event == "socket.connect" else arguments)))
sys.addaudithook(note)
from cocofold.commands.demo import closed_state, open_state
from cocofold.__main__ import app
def run(*arguments):
    app([str(one) for one in arguments], standalone_mode=False)
run("simulate", "--model", open_state(), "--out", folder / "set", "--box", 32, "--pixel-size", 5, "--count", 60,
    "--snr", 1)
run("finetune", "--particles", folder / "set/particles.star", "--model", closed_state(), "--out", folder / "run",
    "--effort", 0.01, "--device", "cpu", "--no-check")
run("report", folder / "run")
print("ASKED", asked)
"""


def pinned() -> dict[str, str]:
    """Version of each package of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def wrong_versions() -> list[str]:
    """Packages that are not there, or not as pinned; a build's own mark (+cpu) is none of a version."""
    wrong = []
    for name, version in pinned().items():
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name}: not installed, {version} is pinned")
            continue
        if there.partition("+")[0] != version.partition("+")[0]:
            wrong.append(f"{name}: {there} is installed, {version} is pinned")
    return wrong


def changed_files() -> tuple[int, list[str]]:
    """Number of files of the pinned packages whose digest is known, and those that have another one now."""
    count, changed = 0, []
    for name in pinned():
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            path = Path(str(file.locate()))
            if file.hash is None or file.hash.mode != "sha256" or not path.is_file():
                continue
            count += 1
            digest = hashlib.sha256(path.read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                changed.append(f"{name}: {file}")
    return count, changed


def licence_of(name: str) -> str:
    """What a package says of its licence, in a line."""
    known = importlib.metadata.metadata(name)
    classified = [one.rpartition(" :: ")[2] for one in known.get_all("Classifier") or () if one.startswith("License")]
    stated = known.get("License-Expression") or ", ".join(classified) or known.get("License") or ""
    return " ".join(stated.split()) if len(stated) < _NOT_BY_METADATA else " ".join(stated[:100].split())


def licences() -> dict[str, str]:
    """Licence of each pinned package that is installed."""
    there = {one.metadata["Name"].lower().replace("_", "-") for one in importlib.metadata.distributions()}
    return {name: licence_of(name) for name in pinned() if name.lower().replace("_", "-") in there}


def known_vulnerabilities() -> tuple[str, bool]:
    """What pip-audit says, and whether it found any."""
    program = shutil.which("pip-audit", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        return "not looked for: pip-audit is not installed here (pip install pip-audit; it asks pypi.org)", False
    command = [program, "--requirement", str(ROOT / "requirements.txt"), "--no-deps", "--disable-pip"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip(), done.returncode != 0


def asked_of_a_network() -> list[tuple[str, str]]:
    """What a simulation, a run and its report ask of a network."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", WATCHED, folder], capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ASKED ")]
    asked: list[tuple[str, str]] = eval(line.removeprefix("ASKED "), {"__builtins__": {}})
    return asked


def main() -> int:
    """Print what was found; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--licences", type=Path, help="file for a table of all licences")
    given = parser.parse_args()
    wrong = wrong_versions()
    print(f"{len(pinned())} packages are pinned; {len(wrong)} are missing or of another version", *wrong, sep="\n  ")
    count, changed = changed_files()
    print(f"{count} installed files have a digest; {len(changed)} differ from it", *changed, sep="\n  ")
    found = licences()
    doubtful = [f"{name}: {licence or 'not said'}" for name, licence in found.items() if not COMPATIBLE.search(licence)]
    print(f"{len(found)} licences; {len(doubtful)} to be looked at by hand", *doubtful, sep="\n  ")
    if given.licences is not None:
        rows = [f"| {name} | {pinned()[name]} | {licence} |" for name, licence in sorted(found.items())]
        given.licences.write_text("\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows]) + "\n")
    said, vulnerable = known_vulnerabilities()
    print(f"known vulnerabilities: {said}")
    asked = asked_of_a_network()
    print(f"a simulation, a run and its report ask {len(asked)} times for a network", *asked, sep="\n  ")
    return int(bool(wrong or changed or vulnerable or asked))


if __name__ == "__main__":
    sys.exit(main())
