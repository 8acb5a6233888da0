"""The content of the images, and their runs under the settings of the manifests."""

import collections
import json
import os
import re
import signal
import stat
import subprocess
import time
from email import message_from_bytes
from hashlib import sha256
from pathlib import Path

import pytest
from container import (
    MEBIBYTE,
    NAMES,
    ROOT,
    TAG,
    VOLUME,
    Container,
    Image,
    bash,
    build,
    build_from_map,
    builder,
    own_storage,
    run,
    unpack,
)
from fake import FakeOSS

pytestmark = pytest.mark.images
each = pytest.mark.parametrize("name", NAMES)

USER = 65532
LIMIT = 30 * MEBIBYTE
WORKERS = {"split": {"split"}, "map": {"count", "map", "process"}, "reduce": {"merge"}}
SOURCES = ROOT / "workers"
PACKAGES = "/usr/lib/python3/dist-packages"
Images = dict[str, Image]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder that the user of the images may write."""
    os.chown(tmp_path, USER, USER)
    return tmp_path


def python(image: Image, volume: Path, code: str) -> str:
    """The output of a few lines of Python in a container."""
    done = run(image, volume, "-c", code)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def run_on_our_network(
    image: Image, volume: Path, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a container to its end that can reach servers on this machine."""
    with Container(image, volume, *arguments, environ=environ, networks=()) as container:
        return container.wait()


def files(image: Image) -> list[Path]:
    """All files of the image, without following links."""
    return [path for path in image.root.rglob("*") if not path.is_dir() or path.is_symlink()]


def assert_same(one: Image, other: Image) -> None:
    """The digests are the same. If not, the message names the part of the config or the files."""
    if one.digest == other.digest:
        return
    assert one.config == other.config
    contents = [
        {
            str(path.relative_to(image.root)): (
                oct(path.lstat().st_mode),
                os.readlink(path) if path.is_symlink() else sha256(path.read_bytes()).hexdigest(),
            )
            for path in files(image)
        }
        for image in (one, other)
    ]
    assert contents[0] == contents[1]
    assert one.digest == other.digest


# --- metadata ---------------------------------------------------------------------------------


@each
def test_config(images: Images, name: str) -> None:
    """The user, folder and entrypoint that the manifests expect."""
    config = images[name].config["config"]

    assert config["User"] == f"{USER}:{USER}"
    assert config["WorkingDir"] == "/fanfold"
    assert config["Entrypoint"] == ["python"]
    assert config["Env"] == ["PATH=/usr/bin", "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1"]


@each
def test_labels(images: Images, base: str, name: str) -> None:
    """The labels name the image and its commit."""
    labels = images[name].config["config"]["Labels"]
    prefix = "org.opencontainers.image."
    description = labels.pop(prefix + "description")

    assert description
    assert labels == {
        prefix + "title": f"fanfold-{name}",
        prefix + "licenses": "Apache-2.0",
        prefix + "created": "2023-11-14T22:13:20Z",
        prefix + "version": "1.2.3",
        prefix + "revision": "0" * 40,
        prefix + "base.name": base,
    }


@each
def test_size(images: Images, name: str) -> None:
    """An image is small, because a node may pull it for one pod."""
    size = images[name].compressed

    assert size <= LIMIT, f"{name} has {size / MEBIBYTE:.1f} MiB compressed"


def test_they_share_the_layers_of_python_and_oss2(images: Images) -> None:
    """A node that has one image has most of the other two."""
    assert {len(image.layers) for image in images.values()} == {3}
    assert len({image.layers[:2] for image in images.values()}) == 1


def test_two_builds_have_the_same_digest(images: Images, base: str, tmp_path: Path) -> None:
    """A second full build, at another time, and a build that may use the cache have one digest."""
    build(base, tmp_path, "--no-cache", "split")

    assert_same(unpack(tmp_path / "split.tar", tmp_path / "split"), images["split"])


def test_nothing_on_the_machine_gets_into_an_image(
    images: Images, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's storage has a wrong image for every name that a build uses. A build in another
    storage still has the same digest."""
    if builder("echo $builder").strip() == "docker":
        pytest.skip("docker has one storage")
    found = re.search(r'graphDriverName"?: "?(\w+)', builder("run_builder info"), re.IGNORECASE)
    assert found
    machine = tmp_path / "machine"
    settings = f"""
        [storage]
        driver = "{found[1]}"
        graphroot = "{machine}/root"
        runroot = "{machine}/run"
    """
    (tmp_path / "storage.conf").write_text(settings)
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /usr/bin/python\n")
    monkeypatch.delenv("STORAGE")
    for name in (base, "build", *(f"localhost/fanfold-{name}:{TAG}" for name in NAMES)):
        builder(f"build --tag {name} {wrong}")
    planted = builder("run_builder images --no-trunc")

    with own_storage(tmp_path / "own"):
        bash(f"{ROOT}/images/base.sh", os.environ)
        build(base, tmp_path, "split")

    assert builder("run_builder images --no-trunc") == planted
    assert_same(unpack(tmp_path / "split.tar", tmp_path / "split"), images["split"])


# --- content ----------------------------------------------------------------------------------


@each
def test_python_is_the_only_program(images: Images, name: str) -> None:
    """The image has no shell, no package manager and no other program."""
    root = images[name].root
    programs = {path.name for path in root.rglob("*") if path.parent.name in ("bin", "sbin")}
    executable = {
        path.name
        for path in files(images[name])
        if not path.is_symlink()
        and path.stat().st_mode & 0o111
        and path.suffix != ".py"
        and ".so" not in path.name
    }

    assert programs == {"python", "python3", "python3.13"}
    assert executable == {"python3.13"}


@each
def test_nothing_is_setuid_or_writable_for_all(images: Images, name: str) -> None:
    """Except /tmp, which is sticky."""
    special = {
        str(path.relative_to(images[name].root)): oct(stat.S_IMODE(mode))
        for path in images[name].root.rglob("*")
        if not path.is_symlink()
        and (mode := path.stat().st_mode) & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)
    }

    assert special == {"tmp": "0o1777"}


@each
def test_an_image_has_only_its_workers(images: Images, name: str) -> None:
    """The image has only its own workers, no local runner, and the whole package."""
    folder, package = images[name].root / "fanfold", Path("fanfold")
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.py")}

    entrypoints = [Path(f"{module}.py") for module in WORKERS[name]]
    modules = (path.relative_to(SOURCES) for path in (SOURCES / package).rglob("*.py"))
    assert found == {str(path): (SOURCES / path).read_bytes() for path in (*entrypoints, *modules)}


@each
def test_all_bytecode_exists_and_is_never_checked(images: Images, volume: Path, name: str) -> None:
    """The bytecode matches its source, and does not depend on file times."""
    code = """
import importlib.util as util, pathlib
for folder in "/fanfold", "/usr/lib/python3.13", "/usr/lib/python3/dist-packages":
    for source in pathlib.Path(folder).rglob("*.py"):
        header = pathlib.Path(util.cache_from_source(source)).read_bytes()[:16]
        text = source.read_bytes()
        assert header == util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + util.source_hash(text), source
        print(source)
"""

    assert len(python(images[name], volume, code).splitlines()) > 1000


def test_every_extension_of_the_standard_library_loads(images: Images, volume: Path) -> None:
    """Every extension finds its shared libraries."""
    code = """
import importlib, pathlib
for path in pathlib.Path("/usr/lib/python3.13/lib-dynload").iterdir():
    importlib.import_module(path.name.split(".")[0])
    print(path.name)
"""

    assert len(python(images["map"], volume, code).splitlines()) > 30


def test_certificates_are_found(images: Images, volume: Path) -> None:
    """Python finds the certificates without a setting."""
    code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"

    assert int(python(images["map"], volume, code)) > 100


def test_a_thread_may_outlive_the_program(images: Images, volume: Path) -> None:
    """Without libgcc_s, the C library would abort the process here."""
    code = """
import threading, time
def work():
    while True: time.sleep(0.001)
for _ in range(8): threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
print("over")
"""

    assert python(images["map"], volume, code) == "over"


def test_text_is_utf_8(images: Images, volume: Path) -> None:
    """Names, files and output are UTF-8 without a locale."""
    code = "open('/mnt/vol/größe', 'w').write('日志'); print('日志')"

    assert python(images["map"], volume, code) == "日志"
    assert (volume / "größe").read_text() == "日志"


# --- oss2 -------------------------------------------------------------------------------------


def test_import_of_oss2_prints_nothing(images: Images, volume: Path) -> None:
    """The import works, with crcmod's extension: without it a checksum takes 20 times longer."""
    done = run(images["map"], volume, "-c", "import oss2, crcmod._crcfunext")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_extension_of_the_packages_loads(images: Images, volume: Path) -> None:
    """Each extension opens by ctypes, as pycryptodome opens its own."""
    code = f"""
import ctypes, pathlib
for path in pathlib.Path("{PACKAGES}").rglob("*.so"):
    ctypes.CDLL(str(path))
    print(path)
"""

    assert len(python(images["map"], volume, code).splitlines()) > 40


def test_a_worker_of_a_folder_does_not_pay_for_oss2(images: Images, volume: Path) -> None:
    """The worker imports nothing of oss2, and no .pth file runs when Python starts."""
    code = "import sys; from fanfold.storage import open_storage"
    code += f"; open_storage({{'WORK_DIR': '{VOLUME}'}}); print(*sys.path)"
    code += "; print(*{name.partition('.')[0] for name in sys.modules})"
    path, modules = python(images["map"], volume, code).splitlines()
    packages = images["map"].root / PACKAGES[1:]

    assert path.split()[-1] == PACKAGES
    assert not set(modules.split()) & {entry.stem for entry in packages.iterdir()} - {"__pycache__"}
    assert not list(packages.rglob("*.pth"))


def test_packages_have_names_and_licences_and_no_pip(images: Images) -> None:
    """Scanners and lawyers find names, versions and licences. Tests and stubs are removed."""
    packages = images["map"].root / PACKAGES[1:]
    lock = (ROOT / "images/oss2.lock.txt").read_text()
    locked = {
        tuple(line.split()[0].split("==")) for line in lock.splitlines() if line[:1].isalpha()
    }
    found = set()
    for folder in packages.glob("*.dist-info"):
        metadata = message_from_bytes((folder / "METADATA").read_bytes())
        found.add((metadata["Name"].lower(), metadata["Version"]))
        assert [path for path in folder.rglob("*") if path.name.upper().startswith("LICEN")]

    assert locked - found == {entry for entry in locked if entry[0] == "pycparser"}
    assert found <= locked
    assert not [path for path in packages.rglob("*") if path.name in ("SelfTest", "tests", "pip")]
    assert not [path for path in packages.rglob("*") if path.suffix == ".pyi"]


@each
def test_sbom(images: Images, name: str) -> None:
    """The SBOM lists every package of Debian and of Python in the image, with its version. The SPDX
    project's tool accepts the SBOM."""
    root = images[name].root
    path = root.with_suffix(".spdx.json")
    status = (root / "var/lib/dpkg/status.d").iterdir()
    debian = [message_from_bytes(file.read_bytes()) for file in status]
    metadata = (root / PACKAGES[1:]).glob("*.dist-info/METADATA")
    python = [message_from_bytes(file.read_bytes()) for file in metadata]

    sbom = json.loads(path.read_text())

    packages = {
        (kind, package["name"], package["versionInfo"])
        for package in sbom["packages"]
        for reference in package.get("externalRefs", ())
        for kind in re.findall("^pkg:(deb/debian|pypi)/", reference["referenceLocator"])
    }
    assert packages == {
        *(("deb/debian", each["Package"], each["Version"]) for each in debian),
        *(("pypi", each["Name"], each["Version"]) for each in python),
    }
    (oss2,) = re.findall("(?m)^oss2==(.*)$", (ROOT / "images/oss2.in").read_text())
    assert ("pypi", "oss2", oss2) in packages
    (described,) = [each for each in sbom["packages"] if each["name"] == f"fanfold-{name}"]
    assert described["versionInfo"] == TAG
    tool = ROOT / ".venv/bin/pyspdxtools"
    valid = subprocess.run(
        [tool, "--infile", path], capture_output=True, text=True, check=False, timeout=300
    )
    assert valid.returncode == 0, valid.stdout + valid.stderr


def test_oss2_works(images: Images, volume: Path) -> None:
    """The image's user can write, read by range, copy in parts, list and delete an object."""
    code = """
import os, oss2
auth = oss2.AuthV4("id", "secret")
bucket = oss2.Bucket(auth, os.environ["ENDPOINT"], "bucket", region="cn-hangzhou", app_name="tests")
data = os.urandom(300_000)
etag = bucket.put_object("a", data).etag
ranged = {"x-oss-range-behavior": "standard", "If-Match": etag}
part = bucket.get_object("a", byte_range=(100, 199), headers=ranged)
assert (part.status, part.read()) == (206, data[100:200])
upload = bucket.init_multipart_upload("b").upload_id
parts = [
    oss2.models.PartInfo(1, bucket.upload_part("b", upload, 1, data).etag),
    oss2.models.PartInfo(2, bucket.upload_part_copy("bucket", "a", (0, 9), "b", upload, 2).etag),
]
bucket.complete_multipart_upload("b", upload, parts)
assert bucket.get_object("b").read() == data + data[:10]
assert [entry.key for entry in oss2.ObjectIteratorV2(bucket)] == ["a", "b"]
bucket.delete_object("a")
try: bucket.get_object("a").read()
except oss2.exceptions.NoSuchKey: print("good")
"""
    with FakeOSS() as fake:
        environ = {"ENDPOINT": fake.endpoint}
        done = run_on_our_network(images["map"], volume, "-c", code, **environ)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"good\n", b"")


# --- runs -------------------------------------------------------------------------------------


@each
def test_it_runs_confined(images: Images, volume: Path, name: str) -> None:
    """The image runs without root, rights and network, on a read-only root."""
    code = """
import errno, json, os, socket
def error(act):
    try: act()
    except OSError as error: return errno.errorcode[error.errno]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "ids": [*os.getresuid(), *os.getresgid()],
    "groups": os.getgroups(),
    "capabilities": {status[key].strip() for key in status if key.startswith("Cap")} == {"0" * 16},
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "write": [error(lambda: open(name, "w")) for name in ("/x", "/tmp/x", "/fanfold/x")],
    "read_only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "connect": error(lambda: socket.create_connection(("192.0.2.1", 80), 1)),
}))
"""

    assert json.loads(python(images[name], volume, code)) == {
        "ids": [USER] * 6,
        "groups": [],
        "capabilities": True,
        "no_new_privileges": "1",
        "write": ["EROFS"] * 3,
        "read_only": True,
        "interfaces": ["lo"],
        "connect": "ENETUNREACH",
    }


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_log_count_in_a_bucket(images: Images, volume: Path, mode: str) -> None:
    """The pipeline with WORK_DIR=oss://... and no volume."""
    log = b"".join(b"%d [%s]\n" % (i, (b"INFO", b"WARN")[i % 3 == 0]) for i in range(200_000))
    settings = {
        "WORK_DIR": "oss://bucket/in/here",
        "OSS_REGION": "cn-hangzhou",
        "OSS_ACCESS_KEY_ID": "id",
        "OSS_ACCESS_KEY_SECRET": "secret",
        "KEYWORDS": "INFO,WARN",
        "NUM_PARTS": "3",
        "SPLIT_MODE": mode,
    }
    with FakeOSS() as fake:
        settings["OSS_ENDPOINT"] = fake.endpoint
        fake.bucket().put("in/here/log-count-data.txt", log)
        for name, more in (
            ("split", {}),
            *(("map", {"PART_ID": str(part)}) for part in range(3)),
            ("reduce", {}),
        ):
            done = run_on_our_network(images[name], volume, **settings, **more)
            assert done.returncode == 0, done.stderr.decode()
        result = fake.bucket().get("in/here/result.json")

    assert json.loads(result) == {"INFO": log.count(b"INFO"), "WARN": log.count(b"WARN")}
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_log_count(images: Images, volume: Path, mode: str) -> None:
    """The pipeline on a volume counts the input, with the parts in another order."""
    keywords = ["INFO", "WARN", "ERROR", "größe"]
    log = b"".join(
        f"2026-01-01 [{keywords[i * i % 7 % 4]}] {'日志' * (i % 5)} {i}\n".encode()
        for i in range(20_000)
    )
    (volume / "log-count-data.txt").write_bytes(log)
    settings = {"KEYWORDS": ",".join(keywords), "NUM_PARTS": "4", "SPLIT_MODE": mode}

    split = run(images["split"], volume, **settings)
    assert split.returncode == 0, split.stderr.decode()
    for part in reversed(json.loads(split.stdout)):
        mapped = run(images["map"], volume, "count.py", PART_ID=part, **settings)
        assert mapped.returncode == 0, mapped.stderr.decode()
    reduced = run(images["reduce"], volume, **settings)

    assert reduced.returncode == 0, reduced.stderr.decode()
    model = collections.Counter(re.findall("|".join(keywords), log.decode()))
    assert json.loads((volume / "result.json").read_text()) == {key: model[key] for key in keywords}
    assert os.stat(volume / "result.json").st_uid == USER


def test_aggregation(images: Images, volume: Path) -> None:
    """Five files in pairs: three files, then two, then one."""
    level = volume / "aggregation-demo/l1"
    level.mkdir(parents=True)
    contents = [os.urandom(1000 * i) for i in range(5)]
    for number, content in enumerate(contents):
        (level / f"{number}.txt").write_bytes(content)
    for folder in (level.parent, level):
        os.chown(folder, USER, USER)

    for number, files, groups in ((1, 5, 3), (2, 3, 2)):
        for group in range(groups):
            arguments = ("process.py", str(group), str(number))
            done = run(images["map"], volume, *arguments, FILES=str(files))
            assert done.returncode == 0, done.stderr.decode()
    done = run(images["reduce"], volume, "merge.py", "2")

    assert done.returncode == 0, done.stderr.decode()
    assert (volume / "aggregation-demo/result.txt").read_bytes() == b"".join(contents)


def test_a_custom_map(
    images: Images, volume: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The two blocks of workers/programs.md, as an image from the map image, count classes."""
    text = (ROOT / "workers/programs.md").read_text().partition("## A custom map")[2]
    code, dockerfile = (
        text.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("python", "dockerfile")
    )
    dockerfile, replaced = re.subn("^FROM .*", f"FROM localhost/fanfold-map:{TAG}", dockerfile)
    assert replaced == 1
    folder = tmp_path_factory.mktemp("own")
    # Also a RUN step, as a user's Dockerfile may have.
    (folder / "Dockerfile").write_text(f'{dockerfile}\nRUN ["python", "-c", "import oss2"]\n')
    (folder / "status_classes.py").write_text(code)
    own = unpack(build_from_map(folder), folder / "root")
    statuses = [(200, 301, 404, 500)[i * i % 7 % 4] for i in range(1000)]
    (volume / "access.log").write_text(
        "".join(
            f'192.0.2.1 - - [01/Jan/2026] "GET /{i} HTTP/1.1" {s} 9\n'
            for i, s in enumerate(statuses)
        )
    )
    settings = {"INPUT": "access.log", "NUM_PARTS": "3", "MAP_SETTINGS": "status classes, 1"}

    for image, environ in (
        (images["split"], {}),
        *((own, {"PART_ID": str(part)}) for part in range(3)),
        (images["reduce"], {}),
    ):
        done = run(image, volume, **settings, **environ)
        assert done.returncode == 0, done.stderr.decode()

    model = collections.Counter(f"{status // 100}xx" for status in statuses)
    assert json.loads((volume / "result.json").read_text()) == model


@pytest.mark.parametrize(
    ("example", "command", "made"),
    [
        ("sort", "sort", "1\n2\n3\n"),
        ("pictures", "convert txt:- -depth 8 ppm:-", "P6\n1 1\n255\n123"),
    ],
)
def test_images_for_programs(  # noqa: PLR0917 - fixtures
    images: Images, base: str, volume: Path, tmp_path: Path, example: str, command: str, made: str
) -> None:
    """The images of two examples, a program in the map image and the workers in another image, run
    the program as map and as reduce."""
    folder = tmp_path / "image"
    folder.mkdir()
    dockerfile = (ROOT / f"manifests/runs/Dockerfile.{example}").read_text()
    dockerfile = dockerfile.replace(":dev", f":{TAG}").replace("debian:trixie-slim", base)
    (folder / "Dockerfile").write_text(dockerfile)
    own = unpack(build_from_map(folder), folder / "root")
    pixel = "# ImageMagick pixel enumeration: 1,1,255,srgb\n0,0: (49,50,51)\n"
    (volume / "log-count-data.txt").write_text("2\n3\n1\n" if example == "sort" else pixel)
    settings = {"NUM_PARTS": "1", "MAP_COMMAND": command, "SCRATCH_DIR": VOLUME}
    if example == "sort":
        settings["REDUCE_COMMAND"] = "sort -m {inputs}"

    assert run(images["split"], volume, **settings).returncode == 0
    for worker in ("map", "merge"):
        container = Container(own, volume, "-", environ={**settings, "PART_ID": "0"})
        container.config["process"]["args"] = ["python3", f"/fanfold/{worker}.py"]  # as a pod does
        with container:
            done = container.wait()
        assert done.returncode == 0, done.stderr.decode()

    assert (volume / "result.out").read_text() == made
    assert own.config["config"]["User"] == f"{USER}:{USER}"
    container = Container(own, volume, "-")
    container.config["process"]["args"] = ["python3", "-c", "import oss2, crcmod._crcfunext"]
    with container:
        assert container.wait().returncode == 0


def test_a_map_that_writes(images: Images, volume: Path) -> None:
    """The second example of workers/programs.md in the map image: the parts' outputs are joined."""
    _, _, text = (ROOT / "workers/programs.md").read_text().partition("## A custom map")
    _, code, *_ = re.findall("```python\n(.*?)```", text, re.DOTALL)
    log = [f"2026-01-01 [{'INFO' if i % 7 else 'ERROR'}] {i}\n" for i in range(1000)]
    (volume / "log-count-data.txt").write_text("".join(log))
    settings = {"NUM_PARTS": "3", "MAP_SETTINGS": "errors, 1"}

    for image, arguments, environ in (
        ("split", (), {}),
        *(("map", ("-c", code), {"PART_ID": str(part)}) for part in (2, 0, 1)),
        ("reduce", (), {}),
    ):
        done = run(images[image], volume, *arguments, **settings, **environ)
        assert done.returncode == 0, done.stderr.decode()

    expected = "".join(line for line in log if "[ERROR]" in line)
    assert (volume / "result.out").read_text() == expected
    assert json.loads((volume / "result.json").read_text()) == {}


@pytest.mark.parametrize(
    ("name", "setting"), [("split", "NUM_PARTS"), ("map", "PART_ID"), ("reduce", "NUM_PARTS")]
)
def test_a_bad_setting_is_exit_code_2(
    images: Images, volume: Path, name: str, setting: str
) -> None:
    """The container ends with exit code 2, and the error names the setting."""
    done = run(images[name], volume, **{setting: "many"})

    assert done.returncode == 2
    assert setting in done.stderr.decode()
    assert list(volume.iterdir()) == []


def test_the_first_process_handles_sigterm(images: Images, volume: Path) -> None:
    """The kernel drops a signal to a container's first process without a handler."""
    with (volume / "log-count-data.txt").open("wb") as log:
        log.truncate(1 << 40)
    settings = {"NUM_PARTS": "1", "SPLIT_MODE": "range"}
    split = run(images["split"], volume, **settings)
    assert split.returncode == 0, split.stderr.decode()
    before = set(volume.rglob("*"))

    with Container(images["map"], volume, environ={"PART_ID": "0"}) as container:
        time.sleep(2)
        assert container.process.poll() is None
        container.control("kill", signal.SIGTERM.name)
        done = container.wait(timeout=5)

    assert done.returncode == 128 + signal.SIGTERM
    assert {path for path in volume.rglob("*") if path.is_file()} <= before
