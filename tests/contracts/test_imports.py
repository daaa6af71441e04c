"""Who may import whom: the order of rooms, the heavy libraries' places, and nothing that is not declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

# A room may import those after it. `cvtune_edge` lies below all of them and imports none.
ROOMS = (
    *(
        "__main__",
        "cli",
        "doctor",
        "tables",
        "api",
        "assess",
        "pipeline",
        "book",
        "summary",
        "steps",
    ),  # book and steps are the pipeline's two halves
    *("report", "bundle", "evaluation", "training", "audit", "models", "data"),
    *("console", "rundir", "config", "cores", "errors"),
)
# library: where it may be imported; doctor looks whether it loads, steps writes down its threads.
PLACES = {
    "torch": (
        *("cvtune.bundle", "cvtune.training", "cvtune.models", "cvtune.steps", "cvtune.doctor"),
        "cvtune.evaluation.explanation",
    ),
    "torchvision": ("cvtune.training", "cvtune.models"),
    "timm": ("cvtune.models",),
    "lightning": ("cvtune.training",),
    "albumentations": ("cvtune.data.augment",),
    "onnxruntime": ("cvtune_edge.session", "cvtune.bundle.lighter.quantizer"),
    "typer": ("cvtune.cli",),
}
EDGE_ONLY = {"numpy", "onnxruntime", "cv2"}
EDGE_EXTRAS = {  # library of an extra: the one module that imports it
    "pydicom": "cvtune_edge.dicom",
    **dict.fromkeys(("model_signing", "cryptography"), "cvtune_edge.signature"),
}

REPO = Path(__file__).resolve().parents[2]
SOURCES = sorted((REPO / "cvtune").rglob("*.py")) + sorted((REPO / "export/edge/cvtune_edge").rglob("*.py"))


def module_name(file: Path) -> str:
    base = REPO if file.is_relative_to(REPO / "cvtune") else REPO / "export/edge"
    parts = file.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in the file, inside functions too, with its line."""
    package = module_name(file) if file.name == "__init__.py" else module_name(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


ALL = [
    (module_name(file), name, f"{file.relative_to(REPO)}:{line}") for file in SOURCES for name, line in imports(file)
]


def below(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {room(module_name(file)) for file in SOURCES if below(module_name(file), "cvtune")} - {""}
    assert rooms <= set(ROOMS), f"give them a place in DESIGN's order and here: {sorted(rooms - set(ROOMS))}"


def test_rooms_import_only_those_below() -> None:
    wrong = []
    for module, name, place in ALL:
        if not below(module, "cvtune") or not below(name, "cvtune"):
            continue
        mine, other = room(module), room(name)
        # cvtune/__init__.py joins the public names, lazily; the version alone may be asked of it.
        if mine in ROOMS and other in ROOMS and ROOMS.index(other) < ROOMS.index(mine):
            wrong.append(f"{place}: {mine} imports {other}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(PLACES))
def test_heavy_libraries_stay_in_their_rooms(library: str) -> None:
    wrong = [
        f"{place}: {module} imports {name}"
        for module, name, place in ALL
        if below(name, library) and not any(below(module, allowed) for allowed in PLACES[library])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_edge_needs_numpy_onnxruntime_and_opencv_alone() -> None:
    wrong = [
        f"{place}: {name}"
        for module, name, place in ALL
        if below(module, "cvtune_edge")
        and name.split(".")[0] not in sys.stdlib_module_names | EDGE_ONLY | {"cvtune_edge"}
        and EDGE_EXTRAS.get(name.split(".")[0]) != module
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_pickles() -> None:
    modules = ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib.dump", "joblib.load")
    wrong = [f"{place}: {name}" for _, name, place in ALL if any(below(name, module) for module in modules)]
    assert not wrong, "\n".join(wrong)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(pyproject: Path) -> set[str]:
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = [entry for group in project.get("optional-dependencies", {}).values() for entry in group]
    return {normal(re.split(r"[^\w.-]", entry, maxsplit=1)[0]) for entry in (*project["dependencies"], *extras)}


def test_every_library_imported_is_declared() -> None:
    owners = metadata.packages_distributions()
    edge = declared(REPO / "export/edge/pyproject.toml")
    known = {"cvtune": declared(REPO / "pyproject.toml") | edge, "cvtune_edge": edge}
    wrong = []
    for module, name, place in ALL:
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top in ("cvtune", "cvtune_edge"):
            continue
        if not {normal(owner) for owner in owners.get(top, [top])} & known[module.split(".")[0]]:
            wrong.append(f"{place}: {top} is in no pyproject.toml")
    assert not wrong, "\n".join(wrong)
