"""What a program uses and leaves, where the kernel sets no limit of its own: threads of a user, files in a folder."""

import contextlib
import os


def tasks(uid: int) -> int:
    """How many threads a user has now."""
    count = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def threads(pid: int) -> int:
    """How many threads a process has; 0 if that cannot be seen."""
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0


def bytes_in(folder: str, most: int) -> int:
    """Bytes of the files in a folder, as far as `most`; a file counts as a page at least."""
    total, todo = 0, [folder]
    while todo and total <= most:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                total += max(4096, entry.stat(follow_symlinks=False).st_blocks * 512)
                if total > most:
                    break
    return total


def empty(folder: bytes) -> None:
    """Remove everything in a folder, however deep, whatever its modes: folders are moved up before they are removed."""
    while names := os.listdir(folder):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isdir(path):
                os.unlink(path)
                continue
            os.chmod(path, 0o700)
            for inner in os.listdir(path):
                below = os.path.join(path, inner)
                if os.path.isdir(below) and not os.path.islink(below):
                    os.chmod(below, 0o700)
                os.rename(below, os.path.join(folder, os.urandom(16).hex().encode()))
            os.rmdir(path)
