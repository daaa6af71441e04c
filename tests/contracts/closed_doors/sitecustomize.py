"""Loaded by Python itself in the programs that test_offline.py starts: refuses every connection and writes it down."""

from __future__ import annotations

import os
import socket
import traceback
from pathlib import Path
from typing import Any, NoReturn

_LOG = Path(os.environ["CVTUNE_TEST_CONNECTIONS"])
_connect = socket.socket.connect


def _refuse(what: object) -> NoReturn:
    with _LOG.open("a", encoding="utf-8") as log:
        log.write(f"{what}\n{''.join(traceback.format_stack(limit=8))}\n")
    raise OSError(f"network refused: {what}")


def _connect_local_only(self: socket.socket, address: Any) -> None:
    if self.family != getattr(socket, "AF_UNIX", None):
        _refuse(address)
    _connect(self, address)


def _no_lookup(*args: Any, **_: Any) -> NoReturn:
    _refuse(args)


socket.socket.connect = _connect_local_only  # type: ignore[method-assign,assignment]
socket.socket.connect_ex = _connect_local_only  # type: ignore[method-assign,assignment]
socket.getaddrinfo = _no_lookup
socket.gethostbyname = _no_lookup
