"""Command: runs a program of the user's as a map, for a group of files or as the last step.

Its stdin, or the files that it is given, are the inputs; its stdout, or the file {output}, is the
output. README.md, "Any program", says what a program gets and how its end is judged.
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
from fanfold.streams import Combine, Stream, Write
from fanfold.worker import say

INPUT, INPUTS, OUTPUT = PLACES = "{input}", "{inputs}", "{output}"
SECRETS = "OSS_", "ALIBABA_CLOUD_"  # how settings begin that a program does not get
NAMES = 64 << 10  # bytes of names in the environment; Linux takes 128 KiB
LAST, WIDTH = 5, 300  # lines of stderr in an error, and their characters
LONGEST = 64 << 10  # bytes of a line of stderr; the rest is told as another line
QUOTED = r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\."""
PLAIN = rf"""{QUOTED}|[^ \t\n'"\\]"""  # what words of a POSIX shell are made of


def split_words(setting: str, text: str) -> list[str]:
    """The words of a command, as a POSIX shell splits them. Nothing is expanded."""

    def plain(match: re.Match[str]) -> str:
        piece = match[0]
        if piece[0] == '"':
            return re.sub(r'\\(?:([$`"\\])|\n)', r"\1", piece[1:-1])
        return piece[1:-1] if piece[0] == "'" else piece.removeprefix("\\").strip("\n")

    if not re.fullmatch(rf"(?:[ \t\n]|{PLAIN})*", text, re.DOTALL):
        raise WorkerError(f"{setting} must have quotes in pairs, got {text!r}: close the open one")
    if operator := re.search("[|&;<>]+", re.sub(QUOTED, "", text, flags=re.DOTALL)):
        raise WorkerError(
            f"{setting} must have no {operator[0]} outside of quotes, for there is no shell, got "
            f"{text!r}: quote it, or write sh -c '... {operator[0]} ...' if the image has a shell"
        )
    found = re.findall(rf"(?:{PLAIN})+", text, re.DOTALL)
    words = [re.sub(PLAIN, plain, word, flags=re.DOTALL) for word in found if word != "\\\n"]
    for word in words:
        for place in PLACES:
            if place in word and word != place:
                raise WorkerError(
                    f"{setting} must have {place} as a word of its own, got {word!r}: the name of "
                    f"a file is no part of a script, so write sh -c '... \"$1\" ...' x {place}"
                )
    return words


class Program:
    """The program of a step (MAP, PROCESS, REDUCE), as the settings name it."""

    def __init__(self, step: str, environ: Mapping[str, str], **told: object) -> None:
        """Check the settings. `told` is for the environment of the program."""
        self.setting, exits = f"{step}_COMMAND", f"{step}_EXIT_OK"
        text = environ.get(self.setting, "")
        self.words = split_words(self.setting, text)
        if not any(self.words[:1]):
            raise WorkerError(
                f"{self.setting} must be a program, got {text!r}: set it to one, such as grep ERROR"
            )
        self.takes_paths = not {INPUT, INPUTS}.isdisjoint(self.words)
        codes = environ.get(exits, "0")
        self.ok = {whole_number(exits, code, 0, 255) for code in codes.split(",")}
        self.listed = f"{exits} is {codes!r}"
        if 0 not in self.ok:
            raise WorkerError(
                f"{exits} must have 0 in it, got {codes!r}: give 0 and what else is no error, as "
                "in 0,1"
            )
        self.scratch = os.path.abspath(environ.get("SCRATCH_DIR", "/tmp"))  # noqa: S108
        is_needed = "SCRATCH_DIR" in environ or {*PLACES} & {*self.words}
        if is_needed and not os.access(self.scratch, os.W_OK | os.X_OK):
            raise WorkerError(
                f"SCRATCH_DIR must be a folder that can be written, got {self.scratch!r}: give "
                "another, or mount a volume there"
            )
        size = environ.get("SCRATCH_SIZE")
        self.most = whole_number("SCRATCH_SIZE", size, 1, 1 << 59) if size else 0
        kept = {name: text for name, text in environ.items() if not name.startswith(SECRETS)}
        more = {"HOME": self.scratch, "TMPDIR": self.scratch, **told}
        self.environ = {**kept, **{name: str(value) for name, value in more.items()}}

    def run(self, streams: Sequence[Stream], write: Write, suffix: str, **more: str) -> None:
        """Run it, and write what it makes. `suffix` is that of {output}; `more` is for its
        environment."""
        if INPUT in self.words and len(streams) != 1:
            raise WorkerError(
                f"{self.setting} must have {INPUTS} for {len(streams)} inputs, got {INPUT}: write "
                f"{INPUTS}"
            )
        write(b"")  # an output of no byte is one, too
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
            told = {"INPUT_NAMES": names} if len(os.fsencode(names)) <= NAMES else {}
            told |= more
            sinks = log.write if output else write, log.write
            code, has_read, is_over = execute(
                words, {**self.environ, **told}, file, pieces, *sinks, most=self.most,
                watch=streams[0].watch if file else None,
            )  # fmt: skip
            self.judge(code, log)
            self.judge_pipes(has_read, is_over, file)
            for stream, path in zip(streams, paths, strict=False):
                # To ask for the path again is to check the version of the file, too.
                if not path.startswith(folder) and stream.path() != path:
                    raise ChangedError(next(stream.names()), path, "another file")
            for piece in self.read(output) if output else ():
                write(piece)

    def find_paths(self, streams: Sequence[Stream], folder: str) -> list[str]:
        """Where the program finds its inputs: each file that is one on a mount where it lies, all
        else as copies in `folder`."""
        paths = [stream.path() for stream in streams]
        size = sum(stream.size for stream, path in zip(streams, paths, strict=True) if not path)
        if self.most and size > self.most:
            raise WorkerError(
                f"SCRATCH_SIZE must be at least {size} for the copies that {self.setting} needs, "
                f"got {self.most}: give more, or smaller parts, or let the program read stdin"
            )
        os.mkdir(os.path.join(folder, "inputs"))
        for number, (stream, path) in enumerate(zip(streams, paths, strict=True)):
            if not path:
                base = os.path.basename(next(stream.names(), "empty"))
                paths[number] = os.path.join(folder, "inputs", base)
                if os.path.exists(paths[number]):  # one of another folder
                    os.mkdir(place := os.path.join(folder, f"inputs-{number}"))
                    paths[number] = os.path.join(place, base)
                with open(paths[number], "xb") as file:
                    file.writelines(stream.stored())
        return paths

    def judge(self, code: int, log: Log) -> None:
        """Whether the program has ended well, as far as its exit code tells."""
        log.write(b"\n" if log.rest else b"")
        if self.most and code == 128 + signal.SIGXFSZ:
            raise WorkerError(
                f"{self.setting} must write at most {self.most} bytes to a file, which is "
                "SCRATCH_SIZE, got more: give more, or let it write less"
            )
        if code not in self.ok:
            said = " | ".join(log.last) or "nothing"
            sentence = f"{self.setting} ended with exit code {code} and {self.listed}"
            raise ProgramError(f"{sentence}: fix what it says on stderr: {said}", code)

    def judge_pipes(self, has_read: bool, is_over: bool, file: object) -> None:
        """Whether it has read all of its stdin, and nothing else may write to its stdout."""
        if not has_read and file:
            raise WorkerError(
                f"{self.setting} must read all of its stdin, got an offset before the end of this "
                "file: let the program read on to the end; if it reads the file in another way, as "
                f"tac does, write sh -c 'cat | tac' or tac {INPUT}"
            )
        if not has_read:
            raise WorkerError(
                f"{self.setting} must read all of its stdin, got a program that ended before: let "
                f"it read on to the end, as in sh -c 'head; cat >/dev/null', or take {INPUTS}"
            )
        if not is_over:
            raise WorkerError(
                f"{self.setting} must end with all that it started, got a process that has left "
                f"its process group and held its stdout for {ENDING} seconds more: let the program "
                "wait for that process, or start the process with >/dev/null"
            )

    def read(self, path: str) -> Iterator[bytes]:
        """What the program has written to {output}."""
        mode = os.lstat(path).st_mode if os.path.lexists(path) else 0
        if not stat.S_ISREG(mode):
            kinds = {0: "nothing", stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder"}
            raise WorkerError(
                f"{self.setting} must write a regular file to {OUTPUT}, got "
                f"{kinds.get(stat.S_IFMT(mode), 'a special file')}: let it write a file there"
            )
        with open(path, "rb") as file:
            yield from iter(lambda: file.read(STEP), b"")


def find(step: str, environ: Mapping[str, str], **told: object) -> Combine | None:
    """The program of a step that can do without one."""
    if environ.get(f"{step}_COMMAND"):
        return Program(step, environ, **told).run
    return None


class Log:
    """The stderr of a program: into the log line by line; an error tells the last lines."""

    def __init__(self) -> None:
        self.rest, self.last = b"", deque[str](maxlen=LAST)

    def write(self, data: bytes) -> None:
        """Take what the program has written."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > LONGEST:
            lines, self.rest = [*lines, self.rest], b""
        texts = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
        self.last.extend(text.strip()[:WIDTH] for text in texts if text.strip())
        if texts:
            say("stderr", "".join(f"{text}\n" for text in texts))
