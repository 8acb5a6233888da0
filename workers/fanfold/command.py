"""Command: runs a user's program as a map, for a group of files or as the last step.

programs.md documents the input of a program, and when its end is a success. The inputs are its
stdin or files. The output is its stdout or the file {output}.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice

from fanfold.child import ENDING, STEP, execute
from fanfold.errors import ChangedError, ProgramError, WorkerError
from fanfold.settings import whole_number
from fanfold.storage.folder import File
from fanfold.streams import Combine, Stream, Write
from fanfold.worker import say

INPUT, INPUTS, OUTPUT = PLACES = "{input}", "{inputs}", "{output}"
SECRETS = "OSS_", "ALIBABA_CLOUD_"  # prefixes of settings that a program does not get
NAMES = 64 << 10  # bytes of names in the environment; Linux allows 128 KiB
LAST, WIDTH = 5, 300  # lines of stderr in an error, and characters per line
LONGEST = 64 << 10  # bytes of a line of stderr; the rest is logged as another line
QUOTED = r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\."""
PLAIN = rf"""{QUOTED}|[^ \t\n'"\\]"""  # the parts of a word in a POSIX shell


def split_words(setting: str, text: str) -> list[str]:
    """Split a command into words like a POSIX shell. Nothing is expanded."""

    def plain(match: re.Match[str]) -> str:
        piece = match[0]
        if piece[0] == '"':
            return re.sub(r'\\(?:([$`"\\])|\n)', r"\1", piece[1:-1])
        return piece[1:-1] if piece[0] == "'" else piece.removeprefix("\\").strip("\n")

    whole = re.compile(rf"(?:[ \t\n]|{PLAIN})*", re.DOTALL)
    if not whole.fullmatch(text):
        must, remedy = "have quotes in pairs", "add a quote"
        if whole.fullmatch(f"{text}x"):
            must, remedy = "not end with a single backslash", "remove or double the backslash"
        raise WorkerError(f"{setting} must {must}, got {text!r}: {remedy}")
    if operator := re.search("[|&;<>]+", re.sub(QUOTED, "", text, flags=re.DOTALL)):
        raise WorkerError(
            f"{setting} must have no {operator[0]} outside of quotes, as no shell runs it, got "
            f"{text!r}: quote it, or use sh -c '... {operator[0]} ...' if the image has a shell"
        )
    found = re.findall(rf"(?:{PLAIN})+", text, re.DOTALL)
    words = [re.sub(PLAIN, plain, word, flags=re.DOTALL) for word in found if word != "\\\n"]
    for word in words:
        for place in PLACES:
            if place in word and word != place:
                raise WorkerError(
                    f"{setting} must have {place} as a separate word, got {word!r}: pass the file "
                    f"name as an argument, as in sh -c '... \"$1\" ...' x {place}"
                )
    return words


class Program:
    """The program of a step (MAP, PROCESS, REDUCE) in the settings."""

    def __init__(self, step: str, environ: Mapping[str, str], **extra: object) -> None:
        """Check the settings. `extra` is added to the environment of the program."""
        self.setting, exits = f"{step}_COMMAND", f"{step}_EXIT_OK"
        text = environ.get(self.setting, "")
        self.words = split_words(self.setting, text)
        if not any(self.words[:1]):
            raise WorkerError(
                f"{self.setting} must be a program, got {text!r}: set a command such as grep ERROR"
            )
        self.takes_paths = not {INPUT, INPUTS}.isdisjoint(self.words)
        codes = environ.get(exits, "0")
        listed = re.fullmatch("[0-9]{1,3}(,[0-9]{1,3})*", codes)
        self.ok = {*map(int, codes.split(","))} if listed else set()
        if not listed or max(self.ok) > 255:
            raise WorkerError(
                f"{exits} must be numbers from 0 to 255 with commas, got {codes!r}: use for "
                "example 0,1"
            )
        self.listed = f"{exits}={codes}"
        if 0 not in self.ok:
            raise WorkerError(
                f"{exits} must contain 0, got {codes!r}: add 0 to the other codes, as in 0,1"
            )
        self.scratch = os.path.abspath(environ.get("SCRATCH_DIR", "/tmp"))  # noqa: S108
        is_needed = "SCRATCH_DIR" in environ or {*PLACES} & {*self.words}
        if is_needed and not os.access(self.scratch, os.W_OK | os.X_OK):
            raise WorkerError(
                f"SCRATCH_DIR must be a folder that can be written, got {self.scratch!r}: use "
                "another folder, or mount a volume there"
            )
        size = environ.get("SCRATCH_SIZE")
        self.most = whole_number("SCRATCH_SIZE", size, 1, 1 << 59) if size else 0
        kept = {name: text for name, text in environ.items() if not name.startswith(SECRETS)}
        more = {"HOME": self.scratch, "TMPDIR": self.scratch, **extra}
        self.environ = {**kept, **{name: str(value) for name, value in more.items()}}

    def run(self, streams: Sequence[Stream], write: Write, suffix: str, **more: str) -> None:
        """Run the program and write its output. `suffix` is the suffix of {output}. `more` is added
        to its environment."""
        if INPUT in self.words and len(streams) != 1:
            raise WorkerError(
                f"{self.setting} must have {INPUTS} for {len(streams)} inputs, got {INPUT}: use "
                f"{INPUTS}"
            )
        write(b"")  # an empty output is an output
        log = Log()
        with ExitStack() as stack:
            folder, paths, output, piped = "", list[str](), "", streams
            if {*PLACES} & {*self.words}:
                from tempfile import TemporaryDirectory

                folder = stack.enter_context(TemporaryDirectory("", "fanfold-", self.scratch))
            if OUTPUT in self.words:
                output = os.path.join(folder, f"output{suffix}")
            if self.takes_paths:
                paths, piped = self.find_paths(streams, folder), []
            given = {INPUT: paths, INPUTS: paths, OUTPUT: [output]}
            words = [*chain.from_iterable(given.get(word, [word]) for word in self.words)]
            file = stack.enter_context(piped[0].file()) if len(piped) == 1 else None
            pieces = chain.from_iterable(stream.pieces() for stream in piped if not file)
            names = "\n".join(islice(chain.from_iterable(each.names() for each in streams), NAMES))
            extra = {"INPUT_NAMES": names} if len(os.fsencode(names)) <= NAMES else {}
            extra |= more
            sinks = log.write if output else write, log.write
            code, has_read, is_over = execute(
                words, {**self.environ, **extra}, file, pieces, *sinks, most=self.most,
                watch=streams[0].watch if file else None, setting=self.setting,
            )  # fmt: skip
            self.judge(code, log)
            self.judge_pipes(has_read, is_over, file)
            for stream, path in zip(streams, paths, strict=False):
                # stream.path() also checks the version of the file.
                if not path.startswith(folder) and stream.path() != path:
                    raise ChangedError(next(stream.names()), path, "another file")
            for piece in self.read(output) if output else ():
                write(piece)

    def find_paths(self, streams: Sequence[Stream], folder: str) -> list[str]:
        """Return the paths of the inputs: the path on a mount if possible, otherwise a copy in
        `folder`."""
        paths = [stream.path() for stream in streams]
        size = sum(stream.size for stream, path in zip(streams, paths, strict=True) if not path)
        if self.most and size > self.most:
            raise WorkerError(
                f"SCRATCH_SIZE must be at least {size} for the copies that {self.setting} needs, "
                f"got {self.most}: raise it, use smaller parts, or let the program read stdin"
            )
        os.mkdir(os.path.join(folder, "inputs"))
        for number, (stream, path) in enumerate(zip(streams, paths, strict=True)):
            if not path:
                base = os.path.basename(next(stream.names(), "empty"))
                paths[number] = os.path.join(folder, "inputs", base)
                if os.path.exists(paths[number]):  # an input of another folder has this name
                    os.mkdir(place := os.path.join(folder, f"inputs-{number}"))
                    paths[number] = os.path.join(place, base)
                with open(paths[number], "xb") as file:
                    file.writelines(stream.stored())
        return paths

    def judge(self, code: int, log: Log) -> None:
        """Check the exit code of the program."""
        log.write(b"\n" if log.rest else b"")
        if self.most and code == 128 + signal.SIGXFSZ:
            raise WorkerError(
                f"{self.setting} must write at most {self.most} bytes (SCRATCH_SIZE) to a file, "
                "got more: raise SCRATCH_SIZE, or let the program write less"
            )
        if code not in self.ok:
            words = " | ".join(log.last) or "nothing"
            raise ProgramError(
                f"{self.setting} must end with an exit code in {self.listed}, got exit code "
                f"{code}: fix the error; the last lines on stderr: {words}",
                code,
            )

    def judge_pipes(self, has_read: bool, is_over: bool, file: File | None) -> None:
        """Check that the program read all of its stdin, and that its stdout is closed."""
        if not has_read and file:
            raise WorkerError(
                f"{self.setting} must read all of its stdin, got an offset before the end of "
                f"{file.name}: let the program read to the end; if it reads the file in another "
                f"order, as tac does, use sh -c 'cat | tac' or tac {INPUT}"
            )
        if not has_read:
            raise WorkerError(
                f"{self.setting} must read all of its stdin, got a program that ended earlier: "
                f"let it read to the end, as in sh -c 'head; cat >/dev/null', or use {INPUTS}"
            )
        if not is_over:
            raise WorkerError(
                f"{self.setting} must end after all its processes, got a process that left its "
                f"process group and kept stdout open for {ENDING} more seconds: let the program "
                "wait for this process, or start the process with >/dev/null"
            )

    def read(self, path: str) -> Iterator[bytes]:
        """Yield what the program wrote to {output}."""
        mode = os.lstat(path).st_mode if os.path.lexists(path) else 0
        if not stat.S_ISREG(mode):
            kinds = {0: "nothing", stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder"}
            raise WorkerError(
                f"{self.setting} must write a regular file to {OUTPUT}, got "
                f"{kinds.get(stat.S_IFMT(mode), 'a special file')}: let it write one"
            )
        with open(path, "rb") as file:
            yield from iter(lambda: file.read(STEP), b"")


def find(step: str, environ: Mapping[str, str], **extra: object) -> Combine | None:
    """Return the program of a step that can run without one."""
    if environ.get(f"{step}_COMMAND"):
        return Program(step, environ, **extra).run
    return None


class Log:
    """The stderr of a program: logged line by line. An error contains the last lines."""

    def __init__(self) -> None:
        self.rest, self.last = b"", deque[str](maxlen=LAST)

    def write(self, data: bytes) -> None:
        """Log what the program has written."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > LONGEST:
            lines, self.rest = [*lines, self.rest], b""
        texts = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
        self.last.extend(text.strip()[:WIDTH] for text in texts if text.strip())
        if texts:
            say("stderr", "".join(f"{text}\n" for text in texts))
