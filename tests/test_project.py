"""The promises that the project makes about itself: arrows between modules, dependencies, and documents that hold."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).resolve().parent.parent

# A module may import from the layers above its own and, where it is a package, from itself; nothing else.
LAYERS = [
    {"errors"},
    {"deadlines", "identity", "rate", "retry", "schema"},
    {"tls"},
    {"codec"},
    {"failure"},
    {"declared"},
    {"definition", "options", "stream"},
    {"command"},
    {"service"},
    {"wire"},
    {"inflight", "parts"},
    {"flow", "messages"},
    {"authentication", "callbacks"},
    {"protocol"},
    {"lanes"},
    {"agreement"},
    {"peer"},
    {"turns"},
    {"answers"},
    {"call"},
    {"dispatch"},
    {"admission", "batches", "factories", "hooks"},
    {"transport"},
    {"common"},
    {"sync", "aio"},
    {"testing"},
    {"__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
DEPENDENCIES = {"msgpack": {"codec"}, "typing_extensions": set(LEVEL)}  # and who may import them
# The libraries that have an adapter, which alone may import them; it is imported when they are in use.
ADAPTERS = {
    "attr": "schema.adapters.attrs",
    "msgspec": "schema.adapters.msgspec",
    "numpy": "schema.adapters.numpy",
    "pydantic": "schema.adapters.pydantic",
}


class Import(NamedTuple):
    module: str  # who imports, "codec.plain"; the package itself is "__init__"
    target: str  # what is imported: "typedrpc.errors", "msgpack", "os.path"
    line: int
    in_function: bool


def modules_of(package: Path) -> dict[str, ast.Module]:
    """The modules of a package by their dotted names below it."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports_of(package: Path) -> Iterator[Import]:
    """Every import statement below a package, those under TYPE_CHECKING and in functions included."""
    modules = modules_of(package)
    for module, tree in modules.items():
        in_functions = {
            id(inner)
            for outer in ast.walk(tree)
            if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for inner in ast.walk(outer)
        }
        is_package = (package / module.replace(".", "/")).is_dir() or module == "__init__"
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                source = absolute(package.name, module, is_package, node)
                # `from package import name` imports the module package.name where there is one.
                below = source.removeprefix(f"{package.name}.") if source != package.name else ""
                targets = [
                    f"{source}.{alias.name}" if f"{below}.{alias.name}".lstrip(".") in modules else source
                    for alias in node.names
                ]
            else:
                continue
            for target in targets:
                yield Import(module, target, node.lineno, id(node) in in_functions)


def absolute(package: str, module: str, is_package: bool, node: ast.ImportFrom) -> str:
    if node.level == 0:
        assert node.module is not None
        return node.module
    parts = [package] if module == "__init__" else [package, *module.split(".")]
    up = node.level - 1 if is_package else node.level
    return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])


def top(dotted: str) -> str:
    return dotted.partition(".")[0]


def faults_of(package: Path) -> list[str]:
    """What is wrong with the imports of a package, one sentence a fault."""
    homeless = {top(module) for module in modules_of(package)} - set(LEVEL)
    faults = [f"{module} has no place in LAYERS" for module in sorted(homeless)]
    imports = sorted(set(imports_of(package)))
    for found in imports:
        where = f"{found.module}, line {found.line}: imports {found.target}"
        importer = top(found.module)
        if importer in homeless:
            continue
        if top(found.target) == package.name:
            target = top(found.target.removeprefix(package.name).lstrip(".")) or "__init__"
            if target != importer and LEVEL.get(target, -1) >= LEVEL[importer]:
                faults.append(f"{where}: {importer} may not import {target}")
            if found.in_function:
                faults.append(f"{where}: inside a function")
        elif top(found.target) in DEPENDENCIES:
            if importer not in DEPENDENCIES[top(found.target)]:
                faults.append(f"{where}: {importer} may not import {top(found.target)}")
        elif found.module == ADAPTERS.get(top(found.target)):
            pass
        elif top(found.target) not in sys.stdlib_module_names and not found.in_function:
            # Inside a function it may be an extra, imported where somebody uses it.
            faults.append(f"{where}: not a dependency")
    return faults + cycles_of(package.name, imports)


def cycles_of(package: str, imports: Iterable[Import]) -> list[str]:
    """The cycles between modules; inside one layer only this keeps the arrows in one direction."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        if top(found.target) == package:
            target = found.target.removeprefix(package).lstrip(".") or "__init__"
            graph.setdefault(found.module, set()).add(target)
    faults = []
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            faults.append("cycle: " + " -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return faults


def test_every_import_follows_the_arrows() -> None:
    assert faults_of(ROOT / "typedrpc") == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"errors.py": "from typedrpc.schema import Node"}, "errors may not import schema"),
        ({"errors.py": "from typedrpc import schema", "schema.py": ""}, "errors may not import schema"),
        ({"errors.py": "from . import schema", "schema.py": ""}, "errors may not import schema"),
        ({"errors.py": "from .schema import Node"}, "errors may not import schema"),
        ({"errors.py": "import typedrpc.schema"}, "errors may not import schema"),
        ({"errors.py": "import typedrpc"}, "errors may not import __init__"),
        ({"errors.py": "if TYPE_CHECKING:\n    from typedrpc.codec import x"}, "errors may not import codec"),
        ({"sync/client.py": "from typedrpc.aio.client import Client"}, "sync may not import aio"),
        ({"common/client.py": "from typedrpc.sync.client import Client"}, "common may not import sync"),
        ({"aio/__init__.py": "from ..sync.client import Client"}, "aio may not import sync"),
        ({"sync/client.py": "def f() -> None:\n    from typedrpc.errors import RpcError"}, "inside a function"),
        ({"wire.py": "import msgpack"}, "wire may not import msgpack"),
        ({"wire.py": "import attrs"}, "not a dependency"),
        ({"schema/adapters/attrs.py": "import numpy"}, "not a dependency"),
        ({"schema/nodes.py": "import numpy"}, "not a dependency"),
        ({"helpers.py": "import os"}, "helpers has no place in LAYERS"),
        ({"helpers/a.py": "import os"}, "helpers has no place in LAYERS"),
        (
            {"codec/a.py": "from typedrpc.codec import b", "codec/b.py": "from typedrpc.codec.a import x"},
            "cycle: codec.a -> codec.b -> codec.a",
        ),
    ],
)
def test_an_arrow_that_is_not_allowed_is_found(tmp_path: Path, files: dict[str, str], fault: str) -> None:
    package = write_package(tmp_path, files)
    assert [found for found in faults_of(package) if fault in found]


@pytest.mark.parametrize(
    "files",
    [
        {"schema/adapters/numpy.py": "import numpy as np"},
        {"schema.py": "import os.path\nfrom typedrpc.errors import RpcError\nimport typing_extensions"},
        {"codec/__init__.py": "from typedrpc.codec.a import x", "codec/a.py": "import msgpack"},
        {"codec/a.py": "def f() -> None:\n    import numpy"},
        {"__init__.py": "from .sync.client import connect\nfrom typedrpc.errors import RpcError"},
    ],
)
def test_an_allowed_arrow_is_no_fault(tmp_path: Path, files: dict[str, str]) -> None:
    assert faults_of(write_package(tmp_path, files)) == []


def write_package(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "typedrpc"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    return package


def test_the_run_time_dependencies_are_two() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w.-]", dependency)[0] for dependency in project["dependencies"]}
    assert names == {"msgpack", "typing_extensions"}


def test_importing_typedrpc_brings_nothing_but_its_dependencies() -> None:
    program = (
        "import sys; before = set(sys.modules); import typedrpc;"
        # Compiled modules of Cython put entries into sys.modules that no file stands behind.
        "new = (name for name in set(sys.modules) - before if getattr(sys.modules[name], '__file__', None));"
        "print(*{name.partition('.')[0] for name in new})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(run.stdout.split()) - set(sys.stdlib_module_names)
    assert imported == {"typedrpc", "msgpack", "typing_extensions"}


# What `import typedrpc` imports of the standard library besides what its dependencies do. Every program that uses it
# waits for these and for what they import in turn; what is needed later, or by few, is imported where it is used.
IMPORTED_AT_ONCE = {
    "__future__",
    "concurrent.futures",
    "contextvars",
    "dataclasses",
    "errno",
    "heapq",
    "logging",
    "math",
    "socket",
    "threading",
}


def imported_by(*modules: str, after: Iterable[str]) -> set[str]:
    """What importing modules adds to ``sys.modules`` of an interpreter that has imported those which come before."""
    program = (
        f"import sys; sys.path[:] = {[str(ROOT), *sys.path]!r}; import {', '.join(after)};"
        f"before = set(sys.modules); import {', '.join(modules)}; print(*set(sys.modules) - before)"
    )
    # Without site: what it runs, coverage for one, imports much and would hide it.
    run = subprocess.run([sys.executable, "-ISc", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_typedrpc_imports_little_of_the_standard_library() -> None:
    imported = imported_by("typedrpc", after=[*DEPENDENCIES, *sorted(IMPORTED_AT_ONCE)])
    assert {name for name in imported if top(name) != "typedrpc"} == set()


def test_importing_typedrpc_needs_what_is_said_to_be_imported_at_once() -> None:
    imported = imported_by("typedrpc", *DEPENDENCIES, after=["sys"])
    assert imported >= IMPORTED_AT_ONCE - set(sys.builtin_module_names)


def test_the_asyncio_side_is_imported_by_who_asks_for_it() -> None:
    """IMPORTED_AT_ONCE has no asyncio for the same reason: programs of threads would wait for it."""
    imported = imported_by("typedrpc", after=["sys"])
    assert {name for name in imported if top(name) == "asyncio" or name.startswith("typedrpc.aio")} == set()
    assert "typedrpc.aio.client" in imported_by("typedrpc.aio", after=["typedrpc"])


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^( *)```.*?^\1```", "", text))


def anchors_of(text: str) -> set[str]:
    """The anchors of a document's headings, as the usual renderers of Markdown make them."""
    headings = re.findall(r"(?m)^#+ +(.*?) *#*$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    text = document.read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_local_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "# One Two!\n[a](a.md#one-two) [b](#one-two) [c](b.md) [d](#three) `[e](e.md)`", encoding="utf-8"
    )
    assert broken_links(document) == ["b.md", "#three"]


def examples_of(document: str) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"))


README_EXAMPLES = examples_of("README.md")
EXAMPLES = [
    example
    for document in (
        "README.md",
        "docs/asyncio.md",
        "docs/broadcast.md",
        "docs/callbacks.md",
        "docs/deadlines.md",
        "docs/errors.md",
        "docs/peers.md",
        "docs/reliability.md",
        "docs/security.md",
        "docs/streams.md",
    )
    for example in examples_of(document)
]


@pytest.mark.parametrize("example", EXAMPLES, ids=itertools.count(1))
def test_an_example_of_a_page_runs_as_it_stands_and_prints_what_it_says(tmp_path: Path, example: str) -> None:
    program = tmp_path / "example.py"
    program.write_text(example, encoding="utf-8")
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=30)
    assert (run.stderr, run.returncode) == ("", 0)
    promised = re.findall(r"(?m)^ *print\(.*\)  # (.*)$", example)
    assert promised
    assert run.stdout.splitlines() == promised


def test_the_readme_opens_with_an_example_of_15_lines_at_most() -> None:
    assert len(README_EXAMPLES[0].splitlines()) <= 15


def test_mypy_accepts_the_examples(tmp_path: Path) -> None:
    programs = [tmp_path / f"example_{number}.py" for number, _ in enumerate(EXAMPLES)]
    for program, example in zip(programs, EXAMPLES, strict=True):
        program.write_text(example, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, programs)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (run.stdout, run.returncode) == (f"Success: no issues found in {len(programs)} source files\n", 0)


def contributing_table() -> list[str]:
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|")][2:]


def test_every_file_that_the_contributing_table_names_exists() -> None:
    cells = [cell for row in contributing_table() for cell in row.split("|")[2:4]]
    files = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(files) > len(cells) / 2
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_contributing_table_names_every_module() -> None:
    modules = [path.relative_to(ROOT).as_posix() for path in (ROOT / "typedrpc").rglob("*.py")]
    table = "\n".join(contributing_table())
    assert [name for name in modules if not name.endswith("__init__.py") and f"`{name}`" not in table] == []
