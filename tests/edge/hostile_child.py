"""A process that is shown hostile bundles one after the other, and notes all that it did: `hostile_child.py TASK`.

TASK is a JSON file: `picture`, and `cases` by name with their folders. For each case two lines of JSON come out, its
name before anything is opened, so that a crash is known by its case, and what happened behind it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from cvtune_edge import decision, latency, predict, runtime  # noqa: F401 - loaded before anything is watched
from cvtune_edge.cli import main as cvtune_edge

MEMORY = 3 << 30  # bytes beyond those taken at the start: what asks for more is told that there is none
FORBIDDEN = (
    *("subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "socket.", "pickle.", "shutil."),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate"),
    *("os.utime", "os.putenv", "ctypes.dlopen", "urllib.", "tempfile.", "webbrowser."),
)
LIBRARIES = {"numpy", "cv2", "onnxruntime", "cvtune_edge"}
SYSTEM = ("/sys/fs/cgroup/cpu.max", "/proc/self/status", os.devnull)


class Watch:
    """What a process does while it is on, but for reading the bundle, the picture and Python's own modules."""

    def __init__(self, picture: str) -> None:
        self._picture = picture
        self._modules = tuple(
            {*(str(Path(place).resolve()) for place in sys.path if place), sys.prefix, sys.base_prefix}
        )
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        if event == "open":
            self._opened(*args)
        elif event == "import":
            top = str(args[0]).split(".")[0]
            if top not in LIBRARIES | sys.stdlib_module_names:
                self.seen.append(f"import {args[0]}")
        elif event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {args!r}"[:300])

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int):  # opened before
            return
        name = os.fsdecode(path)
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & writes):
            self.seen.append(f"write {name}")
        elif os.sep not in name:  # a part of a path, within a folder that is open
            return
        elif not self._may_read(name):
            self.seen.append(f"read {name}")

    def _may_read(self, name: str) -> bool:
        inside = name == self.folder or name.startswith(self.folder + os.sep)
        module = name.startswith(self._modules) and name.endswith((".py", ".pyc", ".so"))
        return (inside and ".." not in name) or module or name in (self._picture, *SYSTEM)


class Capture:
    """Standard output and error of this process and of every library in it."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._files = [os.memfd_create(name) for name in ("out", "err")]
        for number, file in zip((1, 2), self._files, strict=True):
            os.dup2(file, number)

    def take(self) -> tuple[str, str]:
        sys.stdout.flush()
        sys.stderr.flush()
        texts = []
        for file in self._files:
            texts.append(os.pread(file, 1 << 20, 0).decode("utf-8", "backslashreplace"))
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
        return texts[0], texts[1]


def show(folder: str, picture: str, watch: Watch, capture: Capture) -> list[dict[str, Any]]:
    found = []
    for verb in (
        ["verify", folder, "--threads", "1"],
        ["predict", folder, picture, "--threads", "1"],
        ["info", folder],
    ):
        began = time.perf_counter()
        watch.folder, watch.seen = folder, []
        try:
            code, raised = cvtune_edge(verb), ""
        except BaseException as error:  # whatever comes out is what the test asks about
            code, raised = -1, repr(error)[:500]
        watch.folder = ""
        out, err = capture.take()
        seconds = time.perf_counter() - began
        answer = {"verb": verb[0], "code": code, "raised": raised, "out": out, "err": err, "seconds": seconds}
        found.append({**answer, "did": watch.seen})
    return found


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    capture, watch = Capture(), Watch(task["picture"])
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, folder in task["cases"].items():
        print(json.dumps({"begun": name}), file=capture.answers, flush=True)
        print(json.dumps({"name": name, "did": show(folder, task["picture"], watch, capture)}), file=capture.answers)
        capture.answers.flush()


if __name__ == "__main__":
    main()
