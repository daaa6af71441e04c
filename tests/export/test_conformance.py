"""The check of foreign clients: it believes nobody, and says what is wrong."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPO, load_script
from tests.export.bundles import GOOD, PLAIN, SEVERAL, golden_tree, snapshot, write_bundle

Check = Callable[..., tuple[int, str, str]]
REFERENCE = str(REPO / "export/clients/reference.py")

# A client that answers as the lab did, until `lie` changes its lines.
CLIENT = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[-1])
manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
good = manifest["limits"]["ok"]
frames = json.loads((folder / "golden/golden.json").read_text(encoding="utf-8"))["frames"]
keys = ("file", "decision", "probabilities", "novelty")
lines = [{k: one[k] for k in keys} | {"ok": one["decision"] in good if good else None} for one in frames]
LIE
for line in lines:
    print(line if isinstance(line, str) else json.dumps(line))
"""


@pytest.fixture
def conformance() -> ModuleType:
    return load_script("export/conformance.py")


@pytest.fixture
def check(conformance: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """`check(bundle, "lines.pop()")`: exit code, stdout and stderr for a client that lies so."""

    def run(bundle: Path, lie: str = "", *options: str) -> tuple[int, str, str]:
        client = tmp_path / "client.py"
        client.write_text(CLIENT.replace("LIE", lie), encoding="utf-8")
        code: int = conformance.main(["--bundle", str(bundle), *options, "--", sys.executable, str(client), "--fast"])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize("point", [GOOD, PLAIN, SEVERAL])
@pytest.mark.parametrize("far", [None, 0.8])
def test_the_reference_client_keeps_the_contract(
    point: Any, far: float | None, conformance: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle", point, far=far)
    before = snapshot(bundle)
    assert conformance.main(["--bundle", str(bundle), "--", sys.executable, REFERENCE]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{shlex.join([sys.executable, REFERENCE])} on {bundle.as_posix()}"
    assert out[1] == "decisions      24 of 24 as in the lab"
    assert out[2] == "probabilities  24 of 24 within 0.001, worst difference 0 (golden/00.bin)"
    assert out[3].startswith(
        "novelty        " + ("this bundle measures none" if far is None else "24 of 24 within 1 %")
    )
    assert out[4:] == ["ok             24 of 24 right", "keeps the contract"]
    assert snapshot(bundle) == before


@pytest.mark.parametrize("pixels", ["uint16", "float32"])
def test_the_reference_client_reads_deep_frames(
    pixels: str, conformance: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle", pixels=pixels)
    assert conformance.main(["--bundle", str(bundle), "--", sys.executable, REFERENCE]) == 0


def test_the_reference_client_refuses_a_bundle_that_was_changed(
    tiny: Path, conformance: ModuleType, tmp_path: Path
) -> None:
    changed = write_bundle(tmp_path / "bundle")
    (changed / "golden/03.bin").write_bytes(b"nothing")
    with pytest.raises(conformance.ClientError) as error:
        conformance.ask([sys.executable, REFERENCE], changed, (), timeout=60)
    assert "ended with exit code 1" in str(error.value)
    assert "golden/03.bin: changed after the export" in str(error.value)


def test_a_true_client(check: Check, tiny: Path) -> None:
    code, out, err = check(tiny)
    assert (code, err) == (0, "")
    assert out.endswith("ok             24 of 24 right\nkeeps the contract\n")


LIES = {
    "lines[3]['decision'] = 1 - lines[3]['decision']": ("golden/03.bin: decision ", "decisions      23 of 24"),
    "lines[5]['probabilities'][1] += 0.01": (
        "golden/05.bin: a probability off by 0.01, allowed 0.001",
        "probabilities  23 of 24 within 0.001, worst difference 0.01 (golden/05.bin)",
    ),
    "lines[5]['probabilities'][2] = None": ("a probability off by nan", "worst difference nan (golden/05.bin)"),
    "lines[6]['probabilities'].pop()": ("golden/06.bin: a probability off by nan", "probabilities  23 of 24"),
    "lines[7]['novelty'] += 0.02 * manifest['limits']['novelty']": ("golden/07.bin: novelty ", "novelty        23 of"),
    "lines[7]['novelty'] = None": ("golden/07.bin: novelty None, expected ", "novelty        23 of 24"),
    "lines[8]['ok'] = not lines[8]['ok']": ("golden/08.bin: ok ", "ok             23 of 24 right"),
    "lines[9]['ok'] = None": ("golden/09.bin: ok null, expected ", "ok             23 of 24 right"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_client_that_answers_otherwise(lie: str, check: Check, tiny: Path) -> None:
    sentence, counted = LIES[lie]
    code, out, err = check(tiny, lie)
    assert code == 3
    assert err.startswith(f"error: 1 of 24 golden frames of {tiny.as_posix()} answered otherwise than in the lab")
    assert sentence in err
    assert "\nhint: " in err
    assert counted in out
    assert "keeps" not in out


def test_small_differences_are_allowed_as_asked(check: Check, tiny: Path) -> None:
    off = "lines[5]['probabilities'][1] += 0.01"
    assert check(tiny, off, "--tolerance", "0.02")[0] == 0
    assert check(tiny, "for line in lines: line['probabilities'][0] -= 0.0009")[0] == 0
    assert check(tiny, "for line in lines: line['novelty'] *= 1.0001; line['more'] = 'ignored'")[0] == 0
    assert check(tiny, "lines[7]['novelty'] += 0.009 * manifest['limits']['novelty']")[0] == 0


def test_five_wrong_frames_are_shown_and_the_others_counted(check: Check, tiny: Path) -> None:
    code, _, err = check(tiny, "for line in lines[:8]: line['probabilities'][0] += 0.5")
    assert code == 3
    assert err.count("a probability off by 0.5") == 5
    assert "  and 3 more\n" in err


BROKEN = {
    "lines.pop()": "23 lines for 24 golden frames",
    "lines = []": "0 lines for 24 golden frames",
    "lines.append(lines[0])": "25 lines for 24 golden frames",
    "lines.reverse()": "a line for 'golden/23.bin' where golden/00.bin is due",
    "lines[2] = 'starting up'": "line 3 is no answer: Expecting value",
    "lines[2] = '[1, 2]'": "line 3 is no answer: not an answer",
    "lines[2] = '{}'": "line 3 is no answer: no 'decision' in it",
    "del lines[2]['ok']": "line 3 is no answer: no 'ok' in it",
    "lines[2]['ok'] = 1": "line 3 is no answer: ok = 1",
    "lines[2]['decision'] = 'OK'": "line 3 is no answer: decision = 'OK'",
    "lines[2]['decision'] = True": "line 3 is no answer: decision = True",
    "lines[2]['probabilities'][0] = '0.5'": "line 3 is no answer: '0.5' is no number",
    "lines[2]['novelty'] = float('nan')": "line 3 is no answer: NaN is not JSON; null stands for a number that is none",
    "print('no model', file=sys.stderr); sys.exit(7)": "ended with exit code 7\n  no model",
    "os.abort()": "ended with exit code -6",
}


@pytest.mark.parametrize("lie", BROKEN)
@pytest.mark.skipif(os.name == "nt", reason="exit codes of signals are POSIX's")
def test_a_client_that_cannot_be_judged(lie: str, check: Check, tiny: Path) -> None:
    code, out, err = check(tiny, lie)
    assert code == 2
    assert err.startswith(f"error: {sys.executable}")
    assert BROKEN[lie] in err
    assert "keeps" not in out


def test_a_client_that_never_ends_is_ended_with_all_that_it_started(check: Check, tiny: Path, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time; from pathlib import Path\nwhile True: Path({str(alive)!r}).touch(); time.sleep(0.05)"
    start = time.monotonic()
    lie = f"import subprocess; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    code, _, err = check(tiny, lie, "--timeout", "3")
    assert code == 2
    assert "no end after 3 s" in err
    assert time.monotonic() - start < 60
    assert alive.exists()
    time.sleep(0.3)
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists(), "the client's child still runs"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "no client: write -- and its command at the end"),
        (["--"], "no client: write -- and its command at the end"),
        (["--tolerance", "0", "--", "x"], "0: expected a number above 0"),
        (["--timeout", "nan", "--", "x"], "nan: expected a number above 0"),
    ],
)
def test_wrong_usage(
    arguments: list[str], sentence: str, conformance: ModuleType, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        conformance.main(["--bundle", str(tiny), *arguments])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_wrong_bundles_and_programs(
    conformance: ModuleType, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def err(bundle: Path, *command: str) -> str:
        assert conformance.main(["--bundle", str(bundle), "--", *command]) == 2
        return capsys.readouterr().err

    assert "no-such-program-at-all: no such program" in err(tiny, "no-such-program-at-all")
    assert "is not a cvtune bundle: no such folder" in err(tmp_path / "nothing", sys.executable)
    bare = write_bundle(tmp_path / "bare")
    tree = json.loads((bare / "manifest.json").read_text(encoding="utf-8"))
    tree["files"] = {"model.onnx": tree["files"]["model.onnx"]}
    (bare / "manifest.json").write_text(json.dumps(tree), encoding="utf-8")
    (bare / "golden/golden.json").unlink()
    assert "no golden frames, nothing to compare with" in err(bare, sys.executable)
    (bare / "model.onnx").write_bytes(b"changed")
    assert "model.onnx: changed after the export" in err(bare, sys.executable)


def test_several_labels_are_compared_one_by_one(check: Check, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", SEVERAL)
    decision = golden_tree(bundle)["frames"][4]["decision"]
    assert check(bundle)[0] == 0
    code, _, err = check(bundle, "lines[4]['decision'][1] = 1 if lines[4]['decision'][1] != 1 else 0")
    assert code == 3
    assert f"expected {json.dumps(decision)}" in err
