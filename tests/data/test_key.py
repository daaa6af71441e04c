from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest

from cvtune.data import key
from cvtune.data.key import store_key
from cvtune.data.preprocess import Preprocessing

SMALL = Preprocessing(8)


def test_what_decides_the_pixels_decides_the_key() -> None:
    deep = Preprocessing(8, pixels="uint16")
    others = [
        Preprocessing(9),
        Preprocessing(8, roi=(0, 0, 3, 3)),
        Preprocessing(8, interpolation="linear"),
        Preprocessing(8, background=(0, 0, 0)),
        Preprocessing(8, mask=np.eye(4)),
        deep,
    ]
    keys = {store_key(pre) for pre in (SMALL, *others)}
    assert len(keys) == 7
    assert store_key(replace(deep, window=(1, 99))) == store_key(deep)  # it is applied behind the cache
    assert store_key(Preprocessing(8)) == store_key(SMALL)


def test_another_decoder_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {store_key(SMALL)}
    with monkeypatch.context() as patch:
        patch.setattr(key, "_version", lambda name: "9.9")
        keys.add(store_key(SMALL))
    names = [source.name for source in key._sources(resources.files("cvtune_edge"))]
    assert {"decode.py", "headers.py", "tiff.py"} <= set(names)
    monkeypatch.setattr(key, "_CODE", "other lines")
    keys.add(store_key(SMALL))
    assert len(keys) == 3


def test_every_process_names_it_alike() -> None:
    code = "from cvtune.data import key; print(key.store_key(key.Preprocessing(8)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == store_key(SMALL)
