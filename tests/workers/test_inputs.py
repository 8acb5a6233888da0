"""The files that INPUT names in mode files: a file, a folder, a pattern, a list."""

from __future__ import annotations

import gzip
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from fanfold import plan, settings
from fanfold.errors import OldViewError, WorkerError
from fanfold.inputs import find_inputs
from fanfold.plan import Input, Inputs, Plan, make_plan
from fanfold.storage import open_storage
from hypothesis import given
from hypothesis import strategies as st
from pipeline import Volume

pytestmark = pytest.mark.usefixtures("storage")


def find(volume: Volume, source: str, mode: str = "files") -> Inputs:
    """Return the inputs that split finds, with a RUN_DIR that matches no pattern of these tests."""
    environ = volume.environ({"RUN_DIR": "run/a/b/c"})
    return find_inputs(open_storage(environ)[0], source, mode, environ)


def names(inputs: Inputs) -> list[str]:
    """Return their names."""
    return [json.loads(line)[0] for line in inputs.lines]


def items(inputs: Inputs) -> list[Any]:
    """Return their items."""
    return [Input(*json.loads(line)).item for line in inputs.lines]


def as_stored(volume: Volume, name: str) -> list[object]:
    """Return the line of an input without an item."""
    with open_storage(volume.environ({}))[0].open(name) as file:
        return [name, file.size, file.version]


def put_list(volume: Volume, *lines: object, name: str = "items.jsonl") -> None:
    """Write a list with these lines."""
    volume.write(name, "".join(json.dumps(line) + "\n" for line in lines).encode())


TREE = ["in/a", "in/b/a", "in/b/b", "in/b.c", "in/c d", "in/.hidden", "in/b/c/d", "in/é", "in*"]
SOURCES: dict[str, Callable[[str], bool]] = {
    "in/": lambda name: name.startswith("in/"),
    "in/a": lambda name: name == "in/a",
    "in/*": lambda name: name.startswith("in/") and name.count("/") == 1,
    "in/**": lambda name: name.startswith("in/"),
    "in/**/?": lambda name: len(name.rpartition("/")[2]) == 1,
    "in/b/*": lambda name: name in ("in/b/a", "in/b/b"),
    "in/b*": lambda name: name == "in/b.c",
    "*/[!a]/a": lambda name: name == "in/b/a",
    "in[*]": lambda name: name == "in*",
    "*": lambda name: name == "in*",
    "in/a/*": lambda name: False,
    "no/*": lambda name: False,
}


@hypothesis.settings(max_examples=20)
@given(tree=st.sets(st.sampled_from(TREE), min_size=1))
def test_files_folders_and_patterns(tree: set[str]) -> None:
    """Exactly the named files are found, in byte order, as stored. If there are none, the error
    names the source."""
    with Volume.temporary() as volume:
        for name in tree:
            volume.write(name, name.encode())
        for source, wanted in SOURCES.items():
            expected = sorted(filter(wanted, tree), key=os.fsencode)
            if expected:
                inputs = find(volume, source)
                assert [json.loads(line) for line in inputs.lines] == [
                    as_stored(volume, name) for name in expected
                ]
                assert inputs.bytes == inputs.ends[-1] == sum(len(n.encode()) for n in expected)
            else:
                with pytest.raises(WorkerError) as error:
                    find(volume, source)
                assert re.match(f"INPUT must .* got {re.escape(repr(source))}", str(error.value))
                assert error.value.exit_code == 2


def test_first_bytes(volume: Volume) -> None:
    """A file need not be text, unless it is read as text."""
    for name in ("in/a", "in/b"):
        volume.write(name, gzip.compress(b"x"))
    volume.write("list", b"in/a\nin/b\n")
    for source in ("in/", "in/*", "@list"):
        assert names(find(volume, source)) == ["in/a", "in/b"]
    assert names(find(volume, "in/a")) == ["in/a"]
    for mode in ("copy", "range"):
        with pytest.raises(WorkerError, match="in/a is gzip"):
            find(volume, "in/", mode)


@pytest.mark.parametrize("name", ["@a", "a*", "[a]", "b?"])
def test_letters(volume: Volume, name: str) -> None:
    """In the other modes there are no wildcards."""
    for other in (name, "a", "ab", "bb"):
        volume.write(other, b"INFO\n")
    for mode in ("copy", "range"):
        assert names(find(volume, name, mode)) == [name]


FILES = ["a", "b/a", "b/c/d", "b.c", "é", "c d", ".h"]


@hypothesis.settings(max_examples=40)
@given(
    st.permutations(FILES).flatmap(lambda names: st.integers(1, 7).map(lambda n: names[:n])),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r\n\n"]),
    st.booleans(),
)
def test_lists(listed: list[str], end: str, closed: bool) -> None:
    """Lists of names and of objects, in any order: the files are in byte order, each with its
    object."""
    with Volume.temporary() as volume:
        for name in FILES:
            volume.write(name, name.encode())
        objects = [
            {"name": name, "id": number, "more": [0.5]} for number, name in enumerate(listed)
        ]
        rows = {"txt": listed, "jsonl": [json.dumps(item) for item in objects]}
        for kind, lines in rows.items():
            volume.write(f"l.{kind}", (end.join(lines) + end * closed).encode())
        expected = [as_stored(volume, name) for name in sorted(listed, key=os.fsencode)]

        inputs = find(volume, "@l.txt")
        assert [json.loads(line) for line in inputs.lines] == expected
        inputs = find(volume, "@l.jsonl")
        ordered = sorted(objects, key=lambda item: os.fsencode(str(item["name"])))
        assert [json.loads(line) for line in inputs.lines] == [
            [*line, item] for line, item in zip(expected, ordered, strict=True)
        ]
        assert inputs.left_out == 0


@pytest.mark.folder
def test_a_name_of_bytes(volume: Volume) -> None:
    """In a folder a name need not be UTF-8, in both kinds of lists. Different spellings of a path
    mean the same file."""
    volume.write("\udcff", b"x")
    volume.write("l.txt", b".//\xff")
    volume.write("l.jsonl", b'{"name":"\xff"}\r\n')
    assert names(find(volume, "@l.txt")) == names(find(volume, "@l.jsonl")) == ["\udcff"]
    assert names(find(volume, "[!l]")) == ["\udcff"]


DONE = {
    "name": "a",
    "exit": 0,
    "output": "a",
    "output_version": "1",
    "output_bytes": 1,
    "digest": "",
}
NO_OBJECT = "Line 2 of l.jsonl must be a JSON object with a string as name"
NO_LINE = "Line 2 of l.jsonl must be unchanged from an outputs.jsonl"


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("txt", b"/b", "The name in line 2 of l.txt must be a name in WORK_DIR, .* got '/b'"),
        ("txt", b"../b", "The name in line 2 of l.txt must be a name in WORK_DIR, .* got '../b'"),
        ("txt", b"b\0", "The name in line 2 of l.txt must be a name in WORK_DIR, .* got 'b.x00'"),
        ("txt", b"b/", "The name in line 2 of l.txt must name a file, got 'b/'"),
        ("txt", b"a", "l.txt must name a file once, got 'a' in lines 1 and 2"),
        ("txt", b"none", r"none \(in line 2 of l.txt\) must be a file in WORK_DIR"),
        ("txt", b"a/b", r"a/b \(in line 2 of l.txt\) must be a file in WORK_DIR"),
        ("txt", b"x" * 1048577, "Line 2 of l.txt must have at most 1048576 bytes"),
        ("txt", b"x" * 3_000_000, "Line 2 of l.txt must have at most 1048576 bytes"),
        ("jsonl", b"b", NO_OBJECT),
        ("jsonl", b"[]", NO_OBJECT),
        ("jsonl", b'"name"', NO_OBJECT),
        ("jsonl", b"{}", NO_OBJECT),
        ("jsonl", b" ", NO_OBJECT),
        ("jsonl", b'{"name":1}', NO_OBJECT),
        ("jsonl", b'{"name":"b","x":NaN}', NO_OBJECT),
        ("jsonl", b'{"name":"b","x":1e999}', NO_OBJECT),
        ("jsonl", b'{"name":"b","x":' + b"[" * 900 + b"]" * 900 + b"}", NO_OBJECT),
        ("jsonl", b'{"name":"b"}{"name":"c"}', NO_OBJECT),
        ("jsonl", b'{"name":""}', "The name in line 2 of l.jsonl must name a file, got ''"),
        ("jsonl", rb'{"name":"b\ud83d"}', "The name in line 2 of l.jsonl must be UTF-8"),
        ("jsonl", b'{"name":"a"}', "l.jsonl must name a file once, got 'a' in lines 1 and 2"),
        (
            "jsonl",
            b'{"name":"%b"}' % (b"x" * 1048576),
            "Line 2 of l.jsonl must have at most 1048576",
        ),
        ("jsonl", {**DONE, "output": None}, "Line 2 of l.jsonl must have an output, got 'a'"),
        ("jsonl", {**DONE, "output": 1}, NO_LINE),
        ("jsonl", {**DONE, "output_version": None}, NO_LINE),
        ("jsonl", {**DONE, "output_bytes": None}, NO_LINE),
        ("jsonl", {**DONE, "digest": 1}, NO_LINE),
        ("jsonl", {**DONE, "exit": None}, NO_LINE),
        ("jsonl", {**DONE, "exit": False}, NO_LINE),
        ("jsonl", {"name": "a", "output": "b"}, NO_LINE),
        (
            "jsonl",
            {**DONE, "output": "../x"},
            "The output in line 2 of l.jsonl must be a name in WORK_DIR, .* got '../x'",
        ),
        ("jsonl", {**DONE, "output": "none"}, r"none \(in line 2 of l.jsonl\) must be a file"),
    ],
)
def test_lines_that_are_refused(volume: Volume, kind: str, line: Any, message: str) -> None:
    """Each is an error for the operator that names the line."""
    volume.write("a", b"x")
    text = line if isinstance(line, bytes) else json.dumps(line).encode()
    first = b"a" if kind == "txt" else b'{"name":"a"}'
    volume.write(f"l.{kind}", first + b"\n" + text)
    with pytest.raises(WorkerError, match=message) as error:
        find(volume, f"@l.{kind}")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("@", "INPUT must name a list after its @, got '@'"),
        ("@in/", "INPUT must name a list after its @, got '@in/'"),
        ("@/list", "The list in INPUT must be a name in WORK_DIR, .* got '/list'"),
        ("@../list", "The list in INPUT must be a name in WORK_DIR, .* got '../list'"),
        ("@none", r"none \(in INPUT @none\) must be a file in WORK_DIR"),
        ("@empty/none", r"empty/none \(in INPUT @empty/none\) must be a file in WORK_DIR"),
        ("@empty", "INPUT must be a list that names a file, got @empty: "),
    ],
)
def test_lists_that_are_refused(volume: Volume, source: str, message: str) -> None:
    """Lists that cannot be read, and lists without a name, are refused."""
    volume.write("empty", b"\n\r\n\n")
    with pytest.raises(WorkerError, match=message) as error:
        find(volume, source)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("missing", ["list", "a"])
def test_what_only_a_listing_has(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """A listed file that cannot be opened may appear later: a retry can help."""
    volume.write("a", b"x")
    volume.write("list", b"a\n")
    environ = volume.environ({})
    store, _ = open_storage(environ)

    def none(_: object) -> Any:
        if missing == "list":
            raise FileNotFoundError
        return iter([None])

    monkeypatch.setattr(store, "stream" if missing == "list" else "versions", none)
    with pytest.raises(FileNotFoundError) as error:
        find_inputs(store, "@list", "files", environ)
    assert str(error.value.filename).endswith(f"/{missing}")


@pytest.mark.parametrize("source", ["in/", "in/*", "@list", "@list.jsonl"])
def test_too_many(volume: Volume, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """The maximum number of files is accepted, and one more is refused."""
    for number in range(3):
        volume.write(f"in/{number}", b"x")
    volume.write("list", b"in/0\nin/1\nin/2\n")
    put_list(volume, *({"name": f"in/{number}"} for number in range(3)), name="list.jsonl")
    monkeypatch.setattr(settings, "MAX_INPUTS", 3)
    assert len(find(volume, source).lines) == 3
    monkeypatch.setattr(settings, "MAX_INPUTS", 2)
    with pytest.raises(WorkerError, match="must name at most 2 files, got more"):
        find(volume, source)


def test_outputs_of_an_earlier_job(volume: Volume) -> None:
    """Outputs are the inputs, at their published versions. Failed files are left out."""
    lines: list[dict[str, object]] = []
    for name in ("c", "a", "b"):
        volume.write(f"out/{name}.gz", name.encode())
        _, size, version = as_stored(volume, f"out/{name}.gz")
        made = {"output": f"out/{name}.gz", "output_version": version, "output_bytes": size}
        lines.append({"name": name, "item": [name], "exit": 0, "digest": "", **made})
    failed: dict[str, object] = {"name": "d", "exit": 7, "output": None, "output_version": None}
    put_list(volume, failed, *lines, {**failed, "name": "e"})

    inputs = find(volume, "@items.jsonl")

    assert names(inputs) == ["out/a.gz", "out/b.gz", "out/c.gz"]
    assert items(inputs) == [["a"], ["b"], ["c"]]
    assert inputs.left_out == 2
    volume.write("out/b.gz", b"another")
    with pytest.raises(OldViewError, match=r"out/b\.gz is not the output in line 4 of"):
        find(volume, "@items.jsonl")
    put_list(volume, failed)
    with pytest.raises(
        WorkerError, match=r"must be a list that names a file, got .*, where 1 files have failed: "
    ):
        find(volume, "@items.jsonl")


def test_items_in_a_plan(volume: Volume) -> None:
    """Items are written and read with their inputs. Readers of segments ignore them."""
    given = [
        Input("a", 1, "v"),
        Input("b", 2, "w", {"name": "b", "x": [None, "é"]}),
        Input("c", 3, "x", {"name": "c"}, taken=True),
        Input("d", 4, "y", taken=True),
    ]
    inputs = Inputs()
    for one in given:
        inputs.add(one)
    assert [len(json.loads(line)) for line in inputs.lines] == [3, 4, 5, 5]
    plan_id, text = make_plan("in/", "range", inputs, [0, 10])
    found = Plan("plan.json", text, plan_id)
    assert list(found.inputs()) == given
    assert list(inputs.segments(0, 10)) == [(n, v, 0, size) for n, size, v, *_ in given]
    volume.write("plan.json", b"".join(text))
    assert json.loads((volume.root / "plan.json").read_bytes())["inputs"][2][3] == {"name": "c"}
    for wrong in ("[1]", '["a",1]', '["a",1,"v",null,1,1]'):
        broken = Inputs()
        broken.add(given[0])
        broken.lines[0] = wrong.encode()
        _, text = make_plan("in/", "range", broken, [0, 1])
        with pytest.raises(WorkerError, match="is not a plan"):
            list(Plan("plan.json", text).inputs())
    assert plan.encode(given[0][:3]) == '["a",1,"v"]'


@pytest.mark.folder
@pytest.mark.parametrize("source", ["in/", "in/**"])
def test_memory(volume: Volume, source: str) -> None:
    """At most 200 bytes per file with a name of 40 bytes."""
    count = 2000
    for number in range(count):
        volume.write(f"in/{number:037}", b"")
    find(volume, source)
    tracemalloc.start()
    inputs = find(volume, source)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(inputs.lines) == count
    assert most < count * 200 + 100_000
