from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cvtune.data.groups import Proposal, name_groups, propose_grouping
from cvtune.data.index import DatasetIndex, Image, build_index
from cvtune.errors import ConfigError

MakeFolder = Callable[..., Path]
PATHS = ["train/ok/part1_0.png", "train/ok/part1_1.png", "test/bad/part2_0.png", "test/bad/other.png"]
DEEP = ["ok/day1/part1/0.png", "ok/day2/part1/0.png", "bad/day1/part1/1.png", "bad/day1/2.png", "bad/3.png"]


@pytest.mark.parametrize(
    ("spec", "paths", "expected"),
    [
        (r"(part\d+)_", PATHS, ["part1", "part1", "part2", None]),
        (r"(part1)_|(part2)_", PATHS, ["part1", "part1", "part2", None]),
        ("level:1", DEEP, ["day1", "day2", "day1", "day1", None]),
        ("level:2", DEEP, ["day1/part1", "day2/part1", "day1/part1", None, None]),
        ("level:-1", DEEP, ["day1/part1", "day2/part1", "day1/part1", "day1", None]),
        ("level:-2", DEEP, ["day1", "day2", "day1", None, None]),
        ("level:1", [f"train/{path}" for path in DEEP], ["day1", "day2", "day1", "day1", None]),
        ("level:1", ["train/ok/0.png", "test/ok/part1/0.png"], [None, "part1"]),
        ("level:1", ["test/0.png", "ok/part1/0.png"], [None, "part1"]),  # a class that is called test
        ("column:part", PATHS, ["7", "7", "8", None]),
        ("column:PART ", PATHS, ["7", "7", "8", None]),
    ],
)
def test_named(spec: str, paths: list[str], expected: list[str | None], tmp_path: Path) -> None:
    assert name_groups(spec, tmp_path, paths, columns={"Part": ["7", " 7", "8", " "]}) == expected


def test_no_images_have_no_groups(tmp_path: Path) -> None:
    assert name_groups("level:1", tmp_path, []) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("(part", r"--group-by '\(part' is no regular expression"),
        (r"part\d+", "has no group in parentheses"),
        (r"(piece\d+)", r"matches none of the 4 paths, for example 'train/ok/part1_0.png'"),
        ("level:1", "matches none of the 4 paths"),
        ("level:0", "level is a number that counts folders below the class folder"),
        ("level:two", "level is a number"),
        ("column:piece", r"no column 'piece' in the table of labels; its columns are: part"),
        ("missing.csv:part", r"'missing.csv:part': .*missing.csv: no such file"),
        ("there.csv:piece", r"there.csv has no column 'piece'; its columns are: path, part"),
        ("twice.csv:part", r"names two groups for 'train/ok/part1_0.png': '1' and '2'"),
    ],
)
def test_refused(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("path,part\na.png,1\n")
    (tmp_path / "twice.csv").write_text("path,part\ntrain/ok/part1_0.png,1\ntrain/ok/part1_0.png,2\n")
    with pytest.raises(ConfigError, match=message):
        name_groups(spec, tmp_path, PATHS, columns={"part": ["", "", "", ""]})


def test_a_folder_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"come from no table with more columns\nhint: .*FILE\.csv:COLUMN"):
        name_groups("column:part", tmp_path, PATHS)


def test_a_table_beside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "parts"
    root.mkdir()
    rows = [
        "Path;Part",
        "train/ok/part1_0.png;7",  # from the root
        f"{root.as_posix()}/train/ok/part1_1.png;7",
        r"parts\test\bad\part2_0.png;8",  # from the table's folder, as Windows writes it
        "test/bad/other.png;",
        "train/ok/gone.png;9",
    ]
    (tmp_path / "groups.csv").write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")
    expected = ["7", "7", "8", None]
    assert name_groups(f"{tmp_path / 'groups.csv'}:part", root, PATHS) == expected
    monkeypatch.chdir(tmp_path)
    assert name_groups("groups.csv:part", root, PATHS) == expected
    (tmp_path / "groups.csv").rename(root / "inside.csv")
    (root / "inside.csv").write_text("path,Part\ntrain/ok/part1_0.png,1\n")
    assert name_groups("inside.csv:part", root, PATHS) == ["1", None, None, None]


def test_the_index_uses_them(make_folder: MakeFolder) -> None:
    root = make_folder("ok/part1/0.png", "ok/part1/1.png", "bad/part2/0.png", "bad/1.png")
    index = build_index(root, group_by="level:-1")
    assert [image.group for image in index.images] == ["bad/1.png", "part2", "part1", "part1"]
    assert index.ungrouped == 1


def index_of(paths: Iterable[str]) -> DatasetIndex:
    """Images without files; the folder above the file, or above its part's folder, is the class."""
    names = [path.split("/") for path in paths]
    sided = [parts[1:] if parts[0] in ("train", "test") else parts for parts in names]
    classes = tuple(sorted({parts[0] for parts in sided}))
    images = tuple(
        Image("/".join(parts), classes.index(rest[0]), parts[0] if rest is not parts else None, "/".join(parts))
        for parts, rest in zip(names, sided, strict=True)
    )
    return DatasetIndex(Path("parts"), classes, images)


def check(index: DatasetIndex, proposal: Proposal | None, spec: str, groups: int, images: int) -> None:
    """The proposal is the expected one, and `--group-by` with it does what it says."""
    assert proposal is not None
    assert (proposal.spec, proposal.groups, proposal.images) == (spec, groups, images)
    paths = [image.path for image in index.images]
    names = name_groups(proposal.spec, index.root, paths)
    several = [count for name, count in Counter(names).items() if name and count > 1]
    assert (len(several), sum(several)) == (groups, images)
    one, other = (names[paths.index(path)] for path in proposal.example.split(" and "))
    assert one == other is not None
    assert proposal.example in proposal.reason


def stamped(times: Iterable[datetime], form: str) -> list[str]:
    return [f"{'ok' if i % 6 < 3 else 'bad'}/{time.strftime(form)}" for i, time in enumerate(times)]


START = datetime(2025, 1, 31, 8)
BURSTS = [START + timedelta(minutes=3 * i, seconds=7 * i % 60 + 2 * shot) for i in range(40) for shot in range(3)]


@pytest.mark.parametrize(
    ("paths", "spec", "groups", "images"),
    [
        pytest.param(
            [f"{c}/part{k}{i}_{view}.png" for k, c in enumerate(("ok", "bad")) for i in range(9) for view in range(3)],
            r"(?:^|/)(part\d+)_[^/]*$",
            18,
            54,
            id="views of a part",
        ),
        pytest.param(
            [
                f"{c}/{c}_{i}-{view}.png"
                for c in ("ok", "dent", "scratch", "stain", "hole")
                for i in (1, 3)
                for view in "abc"
            ]
            + [
                f"{c}/{c}_{i}-{view}.png"
                for c in ("ok", "dent", "scratch", "stain", "hole")
                for i in (5, 6)
                for view in "a"
            ],
            r"(?:^|/)([^/\d]*\d+)-[^/]*$",
            10,
            30,
            id="the class in the name",
        ),
        pytest.param(
            [f"{c}/{i:05d}_{view:05d}.ppm" for c in ("20", "30", "50") for i in range(3) for view in range(10)],
            r"([^/]+/\d+)_[^/]*$",
            9,
            90,
            id="tracks that begin anew in each class",
        ),
        pytest.param(
            [
                f"{s}/{c}/{i}_{view}.png"
                for s in ("train", "test")
                for c in ("ok", "bad")
                for i in range(9)
                for view in "ab"
            ],
            r"([^/]+/[^/]+/\d+)_[^/]*$",
            36,
            72,
            id="and on each side",
        ),
        pytest.param(
            [f"{'ok' if view else 'bad'}/part{i}_{view}.png" for i in range(30) for view in range(3)],
            r"(?:^|/)(part\d+)_[^/]*$",
            30,
            90,
            id="good and bad views of one part",
        ),
        pytest.param(
            [
                f"{'ok' if i % 2 else 'bad'}/cam{c}_part{i}_{shot}.png"
                for i in range(20)
                for c in (1, 2)
                for shot in (1, 2)
            ],
            r"(?:^|/)(cam\d+_part\d+)_[^/]*$",
            40,
            80,
            id="the second number",
        ),
        pytest.param(
            [
                f"{'ok' if i % 2 else 'bad'}/IMG_{i:04d}_jpg.rf.{hash((i, a)) % 2**32:08x}.jpg"
                for i in range(30)
                for a in (1, 2)
            ],
            r"(?:^|/)(IMG_\d+)_[^/]*$",
            30,
            60,
            id="augmented by a labelling tool",
        ),
        pytest.param(
            [f"{'ok' if v % 2 else 'bad'}/video{v}_frame{i:06d}.png" for v in range(8) for i in range(50)],
            r"(?:^|/)(video\d+)_[^/]*$",
            8,
            400,
            id="frames of a video",
        ),
        pytest.param(
            [f"{'ok' if i % 2 else 'bad'}/part{i}/{view}.png" for i in range(30) for view in range(3)],
            "level:1",
            30,
            90,
            id="a folder a part",
        ),
        pytest.param(
            [f"{c}/{i}/{view}.png" for c in ("ok", "bad") for i in range(30) for view in range(3)],
            "^([^/]+/[^/]+)/",
            60,
            180,
            id="folders that begin anew in each class",
        ),
        pytest.param(stamped(BURSTS, "IMG_%Y%m%d_%H%M%S.jpg"), r"(\d{8}_\d{4})\d{2}[^/]*$", 40, 117, id="bursts"),
        pytest.param(
            stamped(BURSTS, "Image_%Y%m%d%H%M%S017.bmp"), r"(\d{12})\d{2}[^/]*$", 40, 117, id="a line's camera"
        ),
        pytest.param(
            stamped(BURSTS, "WIN_%Y-%m-%d_%H_%M_%S_Pro.jpg"),
            r"(\d{4}-\d{2}-\d{2}_\d{2}_\d{2})_\d{2}[^/]*$",
            40,
            117,
            id="times with separators",
        ),
        pytest.param(
            [
                f"{'ok' if i % 2 else 'bad'}/{t:%Y%m%d_%H%M%S}_{n:03d}.jpg"
                for i, t in enumerate(BURSTS[::3])
                for n in (1, 2)
            ],
            r"(?:^|/)(\d+_\d+)_[^/]*$",
            40,
            80,
            id="numbered within a second",
        ),
    ],
)
def test_proposed(paths: list[str], spec: str, groups: int, images: int) -> None:
    index = index_of(paths)
    check(index, propose_grouping(index), spec, groups, images)
    random.Random(0).shuffle(paths)
    shuffled = propose_grouping(index_of(paths))
    assert shuffled is not None
    assert (shuffled.spec, shuffled.groups, shuffled.images) == (spec, groups, images)


def sides(paths: Iterable[str]) -> list[str]:
    """Class folders that have nothing to do with the names."""
    chance = random.Random(0)
    return [f"{chance.choice(('ok', 'bad'))}/{path}" for path in paths]


@pytest.mark.parametrize(
    "paths",
    [
        pytest.param(sides(f"img_{i:04d}.png" for i in range(300)), id="a counter"),
        pytest.param(sides(f"{i:04d}-mono.png" for i in range(300)), id="a word after it"),
        pytest.param(sides(f"{i:04d}_0.{i % 89 + 10}.png" for i in range(300)), id="a score after it"),
        pytest.param([f"{c}/{c}_{i}.png" for c in "0123456789" for i in range(50)], id="the class before it"),
        pytest.param(sides(f"{hash(i) * 7919 % 2**32:08x}-{i * 31 % 65536:04x}.png" for i in range(900)), id="hashes"),
        pytest.param(sides(f"cam{c}_{i:04d}.png" for i in range(60) for c in range(6)), id="cameras"),
        pytest.param(sides(f"line{c}_{6 * i + c:06d}.png" for i in range(60) for c in range(6)), id="lines"),
        pytest.param(sides(f"202105{d:02d}_{i:04d}.png" for d in range(1, 29) for i in range(9)), id="days"),
        pytest.param(sides(f"2021-05-{d:02d}-{i:04d}.png" for d in range(1, 29) for i in range(9)), id="days again"),
        pytest.param(
            sides(f"{START + timedelta(seconds=i):%Y%m%d_%H%M%S}.png" for i in range(2000)), id="a belt, every second"
        ),
        pytest.param(
            sides(f"{START + timedelta(seconds=45 * i):%Y%m%d_%H%M%S}.png" for i in range(300)), id="a belt, no bursts"
        ),
        pytest.param(
            sides([f"IMG_{i}.png" for i in range(300)] + [f"IMG_{i} (1).png" for i in range(20)]), id="a few copies"
        ),
        pytest.param(
            [f"{c}/batch{i}/{n}.png" for c in ("ok", "bad") for i in (1, 2) for n in range(9)], id="few folders"
        ),
        pytest.param([f"{c}/all/{i}.png" for c in ("ok", "bad") for i in range(90)], id="one folder a class"),
        pytest.param(["ok/part1_1.png", "ok/part1_2.png", "bad/part2_1.png", "bad/part2_2.png"], id="too few images"),
    ],
)
def test_not_proposed(paths: list[str]) -> None:
    assert propose_grouping(index_of(paths)) is None


def test_a_burst_says_what_a_pattern_cannot_do() -> None:
    proposal = propose_grouping(index_of(stamped(BURSTS, "IMG_%Y%m%d_%H%M%S.jpg")))
    assert proposal is not None
    assert proposal.reason.endswith(
        "a pattern can only group by minute, which cuts 3 of the series (a table with FILE.csv:COLUMN would keep them "
        "whole)"
    )
    assert proposal.reason.startswith("120 of 120 images were taken within 10 s of another one, in 40 series")


def test_what_is_grouped_already_is_left_alone() -> None:
    index = index_of(f"{c}/part{i}_{view}.png" for c in ("ok", "bad") for i in range(9) for view in range(3))
    assert propose_grouping(index) is not None
    grouped = DatasetIndex(
        index.root, index.classes, tuple(Image(i.path, i.label, None, i.path.split("_")[0]) for i in index.images)
    )
    assert propose_grouping(grouped) is None


def test_real_folders(real_data: Path) -> None:
    signs = build_index(real_data / "gtsrb")
    check(signs, propose_grouping(signs), r"([^/]+/\d+)_[^/]*$", 255, 1920)
    lungs = build_index(real_data / "chest_xray_pneumonia")
    spec = r"(?:^|/)(?:(person\d+)|(NORMAL2-IM-\d+)|(IM-\d+))[_-][^/]*$"
    check(lungs, propose_grouping(lungs), spec, 1184, 3921)
    assert propose_grouping(build_index(real_data / "neu_steel")) is None


def test_synthetic_parts_and_solar_cells(script: Callable[[str], object], tmp_path: Path) -> None:
    script("datasets/synthetic.py").generate(tmp_path / "parts", per_class=4, size=16, views=3)  # type: ignore[attr-defined]
    parts = build_index(tmp_path / "parts")
    assert len(parts) % 3 == 0
    check(parts, propose_grouping(parts), r"(?:^|/)(p\d+)-[^/]*$", len(parts) // 3, len(parts))
    elpv = script("datasets/elpv.py")
    cells = elpv.read_cells(elpv.source_folder())  # type: ignore[attr-defined]
    assert propose_grouping(index_of(f"{cell.label}/{cell.name}" for cell in cells)) is None
