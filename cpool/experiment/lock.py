"""FolderLock: one run at a time writes to a folder."""

import os
from pathlib import Path
from typing import IO

from cpool.errors import ConfigError

try:
    import fcntl
except ImportError:  # not POSIX: two runs in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock"]


class FolderLock:
    """A lock that the system lets go when the process ends, however that happens.

    Args:
        folder: what is locked, by the file `.running` in it; made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".running"
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Lock the folder until `release`, or until the process ends.

        Raises:
            ConfigError: another process has it.
        """
        if fcntl is None or self._file is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            other = file.read().strip() or "unknown"
            file.close()
            raise ConfigError(
                expected=f"a folder to which no other run is writing, {self.path.parent}",
                got=f"a run in it, process {other}",
                remedy="Wait until it ends, or choose another folder with --out.",
            ) from error
        except OSError:
            file.close()  # a file system without locks
            return
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()  # whoever forgot to release it

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)  # while it is ours
            self._file.close()
            self._file = None
