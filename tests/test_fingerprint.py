"""Files are told apart by their size and their ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftmtl.fingerprint import END, fingerprint


@pytest.mark.parametrize("size", [1, END - 1, END, END + 1, 2 * END, 5 * END])
def test_size_and_ends_tell(tmp_path: Path, size: int) -> None:
    """Neither name nor time do; a changed byte at either end does, and one more in the middle."""
    content = bytes(i % 251 for i in range(size))
    others = [b"x" + content[1:], content[:-1] + b"x", content + content[-1:]]
    for n, own in enumerate((content, content, *others)):
        (tmp_path / str(n)).write_bytes(own)
    first, same, *different = (fingerprint(tmp_path / str(n)) for n in range(5))
    assert first == same and first not in different
