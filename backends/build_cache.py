"""Built kernels on disk, so that a program that was built once starts quickly.

In: a key (text, device, driver). Out: the bytes that were kept for it, or None. Invariant: an entry
that is damaged in any way is None; a folder that cannot be written keeps nothing, quietly.

    cache = BuildCache.default()
    cache.put(key, binary);  cache.get(key) == binary
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sdlc.backends.opencl_loader import cache_folder

DIGEST_BYTES = 32
MOST_BYTES = 512 << 20
"""The cache's size from which its oldest entries go."""


@dataclass(frozen=True, slots=True)
class BuildCache:
    """Entries in `folder`; None keeps nothing."""

    folder: Path | None

    @staticmethod
    def default() -> BuildCache:
        return BuildCache(cache_folder("kernels"))

    def get(self, key: str) -> bytes | None:
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if not content or sha256(content).digest() != digest:
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        if self.folder is None:
            return
        path = self._path(key)
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as made:
                made.write(sha256(content).digest() + content)
            os.replace(made.name, path)
            self._trim()
        except OSError:
            return

    def sizes(self) -> list[int]:
        """The bytes of each entry."""
        return [size for _, size, _ in self._entries()]

    def clear(self, unused_seconds: float = 0.0) -> int:
        """Removes the entries that are so old; gives their number."""
        last = time.time() - unused_seconds
        old = [e for made, _, e in self._entries() if unused_seconds == 0 or made < last]
        for entry in old:
            with suppress(OSError):
                entry.unlink()
        return len(old)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each entry was made, its bytes and its file."""
        if self.folder is None:
            return
        for entry in self.folder.glob("*.bin"):
            with suppress(OSError):
                found = entry.stat()
                yield found.st_mtime, found.st_size, entry

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{sha256(key.encode()).hexdigest()[:32]}.bin"

    def _trim(self) -> None:
        assert self.folder is not None
        entries = sorted(((f.stat().st_mtime, f) for f in self.folder.glob("*.bin")), reverse=True)
        total = 0
        for _, entry in entries:
            total += entry.stat().st_size
            if total > MOST_BYTES:
                entry.unlink(missing_ok=True)
