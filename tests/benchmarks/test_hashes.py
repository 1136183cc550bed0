"""Digests of packages, as pip reads them again."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.audit import pinned
from benchmarks.hashes import LEFT_OUT, ask_pip, lines_of


def make_wheel(folder: Path, name: str) -> Path:
    """A wheel of one empty module."""
    wheel, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.mark.slow
def test_pip_takes_the_files_whose_digests_were_written_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder alone, without a network."""
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path)), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    wheel = make_wheel(tmp_path, "cocofold_made_up")
    (line,) = lines_of(ask_pip(["cocofold_made_up==1.0"]))
    assert line == f"cocofold_made_up==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    (tmp_path / "hashes.txt").write_text(line + "\n")
    install = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--require-hashes", "--no-deps"]
    again = [*install, "--requirement", str(tmp_path / "hashes.txt")]
    assert subprocess.run(again, check=False).returncode == 0
    with zipfile.ZipFile(wheel, "a") as file:
        file.writestr("other.py", "")
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_what_has_no_digest_is_named() -> None:
    download = {"url": "file:///here", "dir_info": {}}
    with pytest.raises(ValueError, match=r"made-up 1\.0: file:///here has no sha256"):
        lines_of({"install": [{"metadata": {"name": "made-up", "version": "1.0"}, "download_info": download}]})


def test_what_is_left_out_is_pinned() -> None:
    assert set(LEFT_OUT) < set(pinned())
