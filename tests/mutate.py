"""The sample company's documents, damaged at random → what the sandbox made of each, as lines of JSON.

Run as `python -m tests.mutate FOLDER COUNT [FIRST]`: the same number gives the same file. FOLDER takes the files while they are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import random
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw

import config
from ingest.sandbox import Sandbox
from ingest.types import ParseFailure, SourceFile

SECONDS_A_FILE = 10
PICTURE_SHARE = 0.02  # of the files need OCR, which takes a hundred times as long as all else
OPENDOCUMENT = """<?xml version="1.0"?><office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
 xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"><office:body>{body}</office:body></office:document-content>"""
SHEET = """<office:spreadsheet><table:table table:name="Limits"><table:table-row><table:table-cell><text:p>City</text:p></table:table-cell>
<table:table-cell><text:p>Limit</text:p></table:table-cell></table:table-row><table:table-row table:number-rows-repeated="3">
<table:table-cell><text:p>Berlin</text:p></table:table-cell><table:table-cell office:value="120"><text:p>120</text:p></table:table-cell>
</table:table-row></table:table></office:spreadsheet>"""
SLIDES = """<office:presentation><draw:page draw:name="One"><draw:frame><draw:text-box><text:p>Leave</text:p></draw:text-box></draw:frame>
<draw:frame><draw:text-box><text:p>Staff get 25 days of leave.</text:p></draw:text-box></draw:frame></draw:page></office:presentation>"""
TEXTS = {
    "limits.json": '{"travel": {"limits": [{"city": "Berlin", "euro": 120}, {"city": "Paris", "euro": 150}]}, "valid": true}',
    "talk.vtt": "WEBVTT\n\n00:01.000 --> 00:04.000\nStaff get 25 days of leave.\n\n00:05.000 --> 00:09.000\nAnd nobody asks why.\n",
    "rules.adoc": "= Rules\n\n== Kitchen\n\nWash your cup.\n\n|===\n|Day |Who\n|Monday |Ada\n|===\n",
    "page.xml": '<?xml version="1.0"?><rules><rule n="1">Wash your cup.</rule><rule n="2">Close the door.</rule></rules>',
}


def seeds() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Whole files by name, in every format that is read and can be written here; the second need OCR."""
    found = {path.name: path.read_bytes() for path in sorted((config.ROOT / "examples" / "alderwick-cycles").rglob("*.*"))}
    found |= {name: text.encode() for name, text in TEXTS.items()}
    for name, kind, body in (("limits.ods", "spreadsheet", SHEET), ("talk.odp", "presentation", SLIDES)):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
            archive.writestr("content.xml", OPENDOCUMENT.format(body=body))
        found[name] = packed.getvalue()
    pictures = {"fire-and-evacuation-notice.pdf": found.pop("fire-and-evacuation-notice.pdf")}
    picture = Image.new("L", (420, 60), 255)
    ImageDraw.Draw(picture).text((10, 20), "STAFF GET 25 DAYS OF LEAVE EACH YEAR", fill=0)
    for kind in ("png", "jpeg", "tiff"):
        packed = io.BytesIO()
        picture.save(packed, kind)
        pictures[f"notice.{kind}"] = packed.getvalue()
    return found, pictures


def _flipped(body: bytes, chance: random.Random, other: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(1 << chance.randrange(7)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(body: bytes, chance: random.Random, other: bytes) -> bytes:
    return body[: chance.randrange(len(body))]


def _spliced(body: bytes, chance: random.Random, other: bytes) -> bytes:
    """A piece of this file or of another one, put over or between what is there."""
    origin = chance.choice((body, other))
    start, at = chance.randrange(len(origin)), chance.randrange(len(body))
    piece = origin[start : start + (1 << chance.randrange(14))]
    return body[:at] + piece + body[at + (len(piece) if chance.random() < 0.5 else 0) :]


def _dropped(body: bytes, chance: random.Random, other: bytes) -> bytes:
    at = chance.randrange(len(body))
    return body[:at] + body[at + (1 << chance.randrange(12)) :]


def _overgrown(body: bytes, chance: random.Random, other: bytes) -> bytes:
    """A number becomes a huge, negative or missing one."""
    numbers = list(re.finditer(rb"\d+", body))
    if not numbers:
        return _flipped(body, chance, other)
    match = chance.choice(numbers)
    return body[: match.start()] + chance.choice((b"4294967295", b"-1", b"0", b"99999999999999999999", b"")) + body[match.end() :]


def _repacked(body: bytes, chance: random.Random, other: bytes) -> bytes:
    """One member of a zip changed, and the zip whole: what is inside meets the readers, not the unpacking."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = {each.filename: archive.read(each) for each in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError, KeyError, RuntimeError, zlib.error):  # damaged already
        return _spliced(body, chance, other)
    name = chance.choice([each for each, content in members.items() if content] or list(members))
    if chance.random() < 0.1:
        members.pop(name)
    elif members[name]:
        members[name] = chance.choice((_flipped, _cut, _spliced, _dropped, _overgrown))(members[name], chance, other)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    return packed.getvalue()


WAYS: tuple[Callable[[bytes, random.Random, bytes], bytes], ...] = (_flipped, _cut, _spliced, _dropped, _overgrown, _repacked)


def mutant(number: int, whole: dict[str, bytes], pictures: dict[str, bytes]) -> tuple[str, bytes]:
    """Name and content of the damaged file with this number."""
    chance = random.Random(number)
    among = pictures if chance.random() < PICTURE_SHARE else whole
    name = chance.choice(sorted(among))
    body = among[name]
    ways = WAYS if body.startswith(b"PK") else WAYS[:-1]
    for _ in range(chance.choice((1, 1, 2))):
        body = chance.choice(ways)(body, chance, whole[chance.choice(sorted(whole))]) or b"\0"
    if chance.random() < 0.03:
        name = f"{Path(name).stem}{Path(chance.choice(sorted(whole))).suffix}"
    return f"{number}-{name}", body


def main(folder: Path, count: int, first: int) -> None:
    """Reads them all in one sandbox."""
    whole, pictures = seeds()
    folder.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}

    def files() -> Iterator[SourceFile]:
        for number in range(first, first + count):
            name, body = mutant(number, whole, pictures)
            path = folder / name
            path.write_bytes(body)
            digests[name] = hashlib.sha256(body).hexdigest()
            yield SourceFile("mutants", name, path, len(body), 0)

    settings = dataclasses.replace(config.Settings(), parse_timeout_s=SECONDS_A_FILE)
    with Sandbox(settings) as sandbox:
        for file, result, seconds in sandbox.parse_all(files()):
            failed = isinstance(result, ParseFailure)
            print(json.dumps({
                "file": file.path, "seconds": round(seconds, 2), "kind": result.kind if failed else "read",
                "reason": result.reason if isinstance(result, ParseFailure) else "",
                "untouched": hashlib.sha256(file.absolute.read_bytes()).hexdigest() == digests.pop(file.path),
            }), flush=True)  # fmt: skip
            file.absolute.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
