"""What mypy and pyright say of contracts and calls, and that the run time says the same.

The files in ``cases`` say beside each line what the checkers must find there::

    greeter.hello(1)  # E: arg-type | reportArgumentType        the codes that mypy | pyright may give, none elsewhere
    reveal_type(x)    # R: def (a: int) | (a: int)              what mypy | pyright reveal

``corpus.py`` lists values by type. From these two modules are made whose lines the checkers judge and the run time
executes: one with the calls that the corpus lists, with the verdict that it says; and one in which the values of all
types are tried against the annotations of all others, where nobody has said a verdict and the three have to agree. Each
checker runs once, over everything.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from typedrpc import ArgumentError, ArgumentMissing, ArgumentTypeError, RemoteError, Server, connect
from typedrpc.codec import CommandCodec
from typedrpc.schema import schema_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.unmeasured]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TYPES = (ROOT / "docs" / "types.md").read_text(encoding="utf-8")
CASES = sorted(HERE.glob("cases/*.py"))

# The corpus as a module


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


corpus: Any = load("typedrpc_corpus", HERE / "corpus.py")


class Case(NamedTuple):
    """One call of the corpus.

    Attributes:
        name: Says what it is about.
        line: Where it stands in the generated module: what the checkers judge.
        call: The source text of the call, on a variable that is named as the service is.
        arrives: The source text of what must arrive, or None where the call is wrong.
        error: What the run time raises where it is wrong.
    """

    name: str
    line: int
    call: str
    arrives: str | None
    error: type[Exception] = ArgumentError


class Generator:
    """Writes the generated module: a service for each type, and the calls in one function."""

    def __init__(self) -> None:
        self.lines: list[str] = corpus.PREAMBLE.splitlines()
        self.cases: list[Case] = []
        self.services: list[str] = []
        self.commands = 0
        calls = [call for number, row in enumerate(corpus.ROWS) for call in self.add_service(f"Row{number}", row)]
        calls += self.add_binding("Binding")
        self.lines += ["", f"def calls({', '.join(f'{name.lower()}: {name}' for name in self.services)}) -> None:"]
        for name, call, arrives, error in calls:
            self.add_case(name, f"    {call}", call, arrives, error)

    def add_case(self, name: str, line: str, call: str, arrives: str | None, error: type[Exception]) -> None:
        self.lines.append(line)
        self.cases.append(Case(name, len(self.lines), call, arrives, error))

    def add_class(self, name: str) -> None:
        self.lines += ["", f"class {name}(Service):"]
        self.services.append(name)

    def add_command(self, head: str, body: str) -> None:
        # So many commands would meet under one derived id.
        self.lines += [f"    @rpc(id={self.commands})", f"    def {head}:", f"        {body}"]
        self.commands += 1

    def add_service(self, name: str, row: Any) -> Iterator[tuple[str, str, str | None, type[Exception]]]:
        self.add_class(name)
        self.add_command(f"take(self, value: {row.annotation}) -> {row.annotation}", "return value")
        right = [tuple(text.split(corpus.ARROW)) for text in row.right]
        values = [(texts[0], texts[-1]) for texts in right] + [(text, None) for text in row.wrong]
        for number, (value, arrives) in enumerate(values):
            self.add_command(f"give{number}(self) -> {row.annotation}", f"return {value}")
            verdict = "right" if arrives else "wrong"
            call = f"{name.lower()}.give{number}()"
            case = Case(f"{row.annotation}: {verdict} result {value}", len(self.lines), call, arrives, RemoteError)
            self.cases.append(case)
            yield (
                f"{row.annotation}: {verdict} argument {value}",
                f"{name.lower()}.take({value})",
                arrives,
                ArgumentError,
            )
        value, arrives = values[0]
        yield f"{row.annotation}: by keyword", f"{name.lower()}.take(value={value})", arrives, ArgumentError
        yield f"{row.annotation}: missing argument", f"{name.lower()}.take()", None, ArgumentMissing
        unknown = f"{name.lower()}.take({value}, unknown=1)"
        yield f"{row.annotation}: unknown keyword", unknown, None, ArgumentTypeError

    def add_binding(self, name: str) -> Iterator[tuple[str, str, str | None, type[Exception]]]:
        self.add_class(name)
        self.add_command(
            "f(self, a: int, /, b: str = '', *args: float, key: bool, **rest: bytes) -> str",
            "return repr((a, b, [float(arg) for arg in args], key, rest))",
        )
        for call, right in corpus.CALLS.items():
            yield f"binding: {call}", f"{name.lower()}.{call}", f"{name}().{call}" if right else None, ArgumentError


GENERATED = Generator()


class Pair(NamedTuple):
    """A value that is tried against an annotation, and the line of the generated module that the checkers judge."""

    annotation: str
    value: str
    line: int


SAMPLE = max(1, round(20 / float(os.environ.get("TYPEDRPC_EXAMPLES", "1"))))
"""Of the pairs that the run time refuses, one in so many is shown to the checkers."""


class Cross:
    """Writes the module in which every value is tried against every annotation.

    All pairs that the run time takes are in it, all that the corpus lists as apart, and a sample of the others, by a
    checksum of their text: the checkers need some minutes for all of them. Then every type within another one.
    """

    def __init__(self) -> None:
        self.lines: list[str] = corpus.PREAMBLE.splitlines()
        self.pairs: list[Pair] = []
        self.services: dict[str, str] = {}
        values = self.values()
        names = namespace_of(corpus.PREAMBLE)
        for row in corpus.ROWS:
            own = {text.split(corpus.ARROW)[0] for text in (*row.right, *row.wrong)}
            exec(f"def take(value: {row.annotation}) -> {row.annotation}: ...", names)
            codec = CommandCodec("take", schema_of(names["take"], method=False))
            chosen = [
                text
                for text, code in values.items()
                if text not in own
                and (takes(codec, code, names) or zlib.crc32(f"{row.annotation}: {text}".encode()) % SAMPLE == 0)
            ]
            chosen += [text for text in corpus.apart(row.annotation) if text not in chosen]
            self.add(row.annotation, chosen)
        for annotation, texts in corpus.held():
            self.add(annotation, texts)

    def values(self) -> dict[str, Any]:
        """The source text of every value of the corpus, compiled."""
        texts = [text.split(corpus.ARROW)[0] for row in corpus.ROWS for text in (*row.right, *row.wrong)]
        return {text: compile(text, "value", "eval") for text in texts}

    def add(self, annotation: str, values: list[str]) -> None:
        number = len(self.services)
        self.services[annotation] = name = f"Row{number}"
        self.lines += ["", f"class {name}(Service):", f"    @rpc(id={number})"]
        self.lines += [f"    def take(self, value: {annotation}) -> {annotation}:", "        return value"]
        self.lines += ["", f"def call_{name}({name.lower()}: {name}) -> None:", "    pass"]
        for value in values:
            self.lines.append(f"    {name.lower()}.take({value})")
            self.pairs.append(Pair(annotation, value, len(self.lines)))


def namespace_of(source: str) -> dict[str, Any]:
    module = ModuleType("typedrpc_crossed")
    sys.modules[module.__name__] = module
    exec(source, vars(module))
    return vars(module)


def takes(codec: CommandCodec, value: Any, names: dict[str, Any]) -> bool:
    try:
        codec.pack_arguments(eval(value, names))
    except ArgumentError:
        return False
    return True


# The checkers


class Finding(NamedTuple):
    """What a checker says of a line: an error with its code, or a type that it reveals."""

    code: str
    text: str


Findings = dict[tuple[str, int], list[Finding]]


@pytest.fixture(scope="module")
def cross() -> Cross:
    return Cross()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, cross: Cross) -> Path:
    """The directory that the checkers look at."""
    directory = tmp_path_factory.mktemp("typing")
    for path in CASES:
        shutil.copy(path, directory)
    (directory / "generated_corpus.py").write_text("\n".join(GENERATED.lines) + "\n")
    (directory / "generated_cross.py").write_text("\n".join(cross.lines) + "\n")
    without_libraries = TYPES.partition("<!-- other libraries: begin")[0] + TYPES.partition("libraries: end -->")[2]
    examples = re.findall(r"(?ms)^```python\n(.*?)^```", without_libraries)
    (directory / "generated_examples.py").write_text("\n".join(examples))
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": [str(ROOT)]}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="module")
def findings(workplace: Path) -> dict[str, Findings]:
    """Checker to file and line to what it finds there."""
    mypy = ["mypy", "--strict", "--python-version=3.11", "--config-file=", "--follow-imports=silent", "--output=json"]
    commands = {
        "mypy": [*mypy, f"--cache-dir={ROOT / '.mypy_cache' / 'verdicts'}", "."],
        "pyright": ["pyright", "--outputjson", f"--pythonpath={sys.executable}"],
    }
    running = {
        checker: subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=workplace,
            env=os.environ | {"MYPYPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for checker, command in commands.items()
    }
    outputs = {}
    for checker, process in running.items():
        output, complaints = process.communicate()
        assert process.returncode == 1, f"{checker} did not find the errors that it should: {output} {complaints}"
        outputs[checker] = output
    return {"mypy": read_mypy(outputs["mypy"]), "pyright": read_pyright(outputs["pyright"])}


def read_mypy(output: str) -> Findings:
    findings: Findings = {}
    for line in output.splitlines():
        item = json.loads(line)
        place = (item["file"], item["line"])
        if item["severity"] == "error":
            findings.setdefault(place, []).append(Finding(item["code"], item["message"]))
        elif revealed := re.fullmatch(r'Revealed type is "(.*)"', item["message"]):
            findings.setdefault(place, []).append(Finding("revealed", without_modules(revealed[1])))
    return findings


def read_pyright(output: str) -> Findings:
    findings: Findings = {}
    for item in json.loads(output)["generalDiagnostics"]:
        place = (Path(item["file"]).name, item["range"]["start"]["line"] + 1)
        if item["severity"] == "error":
            findings.setdefault(place, []).append(Finding(item.get("rule", "syntax"), item["message"]))
        elif revealed := re.fullmatch(r'Type of ".*" is "(.*)"', item["message"]):
            findings.setdefault(place, []).append(Finding("revealed", revealed[1]))
    return findings


def without_modules(text: str) -> str:
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


FOLLOWERS = {"untyped-decorator", "reportUntypedFunctionDecorator", "reportUnknownMemberType"}
"""Codes that the checkers give beside another, as its consequence."""

MARK = re.compile(r"# (?P<kind>[ER]): (?P<mypy>[^|]*)\|(?P<pyright>.*)$")


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_verdicts_of_the_checkers(findings: dict[str, Findings], path: Path, checker: str) -> None:
    surprises = []
    marks = 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = findings[checker].get((path.name, number), [])
        mark = MARK.search(line)
        marks += mark is not None
        if mark is None:
            as_expected = not found
        elif mark["kind"] == "R":
            as_expected = [finding.text for finding in found if finding.code == "revealed"] == [mark[checker].strip()]
        else:
            allowed = {code.strip() for code in mark[checker].split(",")} - {""}
            codes = {finding.code for finding in found} - FOLLOWERS
            as_expected = codes <= allowed and bool(codes) == bool(allowed)
        if not as_expected:
            surprises.append(f"{number}: {line.strip()}\n    {checker}: {found or 'nothing'}")
    assert marks > 5
    assert not surprises, "\n" + "\n".join(surprises)


# The run time


@pytest.fixture(scope="module")
def namespace(workplace: Path) -> Iterator[dict[str, Any]]:
    """The generated module's names, and a proxy of each service, over a socket, under the name that the calls use."""
    names = vars(load("generated_corpus", workplace / "generated_corpus.py"))
    services = [names[name]() for name in GENERATED.services]
    with Server(*services, url="tcp://127.0.0.1:0") as server, connect(server.url) as client:
        yield names | {name.lower(): client.proxy(names[name]) for name in GENERATED.services}


@pytest.mark.parametrize("case", GENERATED.cases, ids=lambda case: case.name)
def test_checkers_and_run_time_agree(findings: dict[str, Findings], namespace: dict[str, Any], case: Case) -> None:
    errors = {checker: found.get(("generated_corpus.py", case.line)) for checker, found in findings.items()}
    if case.arrives is None:
        assert all(errors.values()), errors
        with pytest.raises(case.error):
            eval(case.call, namespace)
    else:
        assert not any(errors.values()), errors
        assert eval(case.call, namespace) == eval(case.arrives, namespace)


@pytest.fixture(scope="module")
def crossed(workplace: Path, cross: Cross) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The names of the module of pairs, and a proxy for each annotation."""
    names = vars(load("generated_cross", workplace / "generated_cross.py"))
    services = [names[name]() for name in cross.services.values()]
    with Server(*services, url="tcp://127.0.0.1:0") as server, connect(server.url) as client:
        yield names, {annotation: client.proxy(names[name]) for annotation, name in cross.services.items()}


UNKNOWN = {"reportUnknownArgumentType"}
"""pyright does not know the type of the value, which is no verdict on it."""


@pytest.mark.parametrize(
    "annotation", [row.annotation for row in corpus.ROWS] + [annotation for annotation, _ in corpus.held()]
)
def test_values_of_all_types_are_judged_alike(
    findings: dict[str, Findings], crossed: tuple[dict[str, Any], dict[str, Any]], cross: Cross, annotation: str
) -> None:
    names, proxies = crossed
    take = proxies[annotation].take
    apart = corpus.apart(annotation)
    surprises = []
    for pair in cross.pairs:
        if pair.annotation != annotation:
            continue
        verdict = set()
        for checker, found in findings.items():
            if {finding.code for finding in found.get(("generated_cross.py", pair.line), [])} <= UNKNOWN:
                verdict.add(checker)
        value = eval(pair.value, names)
        try:
            arrived = take(value)
        except ArgumentError:
            pass
        else:
            verdict.add("run time")
            again = take(arrived)
            assert type(again) is type(arrived)
            assert again == arrived, "what arrives does not travel"
        expected = apart.get(pair.value)
        if (verdict != expected) if expected else len(verdict) not in (0, 3):
            surprises.append(f"{pair.value}: taken by {sorted(verdict)}, listed as {expected and sorted(expected)}")
    assert not surprises, "\n" + "\n".join(surprises)


def test_what_is_apart_has_its_reason_in_the_documents() -> None:
    annotations = {row.annotation for row in corpus.ROWS} | {annotation for annotation, _ in corpus.held()}
    for entry in corpus.APART:
        assert f"**{entry.reason}.**" in TYPES
        assert entry.annotation in annotations
        assert 0 < len(entry.taken_by) < 3


def test_the_corpus_covers_every_kind() -> None:
    names = [case.name for case in GENERATED.cases]
    assert len(names) >= 300
    assert len(set(names)) == len(names)
    assert len({row.annotation for row in corpus.ROWS}) == len(corpus.ROWS)
    for row in corpus.ROWS:
        assert row.right
        assert row.wrong or row.annotation == "Any"


def test_checkers_find_nothing_beside_the_cases(findings: dict[str, Findings], cross: Cross) -> None:
    known = {("generated_corpus.py", case.line) for case in GENERATED.cases}
    known |= {("generated_cross.py", pair.line) for pair in cross.pairs}
    for checker, found in findings.items():
        beside = {place: what for place, what in found.items() if "generated" in place[0] and place not in known}
        assert not beside, checker
