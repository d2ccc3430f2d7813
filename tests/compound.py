"""An e-mail's fields → the bytes of an Outlook .msg file: a compound file of MAPI property streams.

Only what a plain message needs: subject, body, sender, recipients, and the time it was sent. Layout after the
published formats MS-CFB (version 3, 512-byte sectors, 64-byte mini sectors) and MS-OXMSG.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import getaddresses

FREE, END, FAT_SECTOR, NOTHING = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFF
SECTOR, MINI, CUTOFF = 512, 64, 4096  # bytes; streams shorter than CUTOFF live in mini sectors
STORAGE, STREAM, ROOT = 1, 2, 5
TEXT, BYTES, LONG, TIME = 0x001F, 0x001E, 0x0003, 0x0040  # MAPI property types; BYTES: a text in a code page


@dataclass(slots=True)
class Entry:
    name: str
    kind: int
    data: bytes = b""
    children: list[int] = field(default_factory=list)
    left: int = NOTHING
    right: int = NOTHING
    child: int = NOTHING
    start: int = END


def message_file(subject: str, body: str, moment: datetime, sender: str, to: str, cc: str = "", code_page: int = 0) -> bytes:
    """A .msg file; `sender`, `to` and `cc` are address lists as in an e-mail header. Texts are Unicode, or in a Windows code page."""
    [(sender_name, sender_address)] = getaddresses([sender])
    people = [(1, *each) for each in getaddresses([to])] + [(2, *each) for each in getaddresses([cc]) if each[1]]
    ticks = int((moment - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds() * 10_000_000)
    texts = {
        0x001A: "IPM.Note", 0x0037: subject, 0x0070: subject, 0x1000: body, 0x0C1A: sender_name, 0x0C1F: sender_address,
        0x0C1E: "SMTP", 0x0042: sender_name, 0x0065: sender_address, 0x0064: "SMTP",
        0x0E04: "; ".join(name for kind, name, _ in people if kind == 1),
        0x0E03: "; ".join(name for kind, name, _ in people if kind == 2),
        0x007D: f"From: {sender}\r\nTo: {to}\r\n" + (f"Cc: {cc}\r\n" if cc else "") + f"Subject: {subject}\r\n"
                f"Date: {moment:%a, %d %b %Y %H:%M:%S +0000}\r\n",
    }
    times = {0x0039: ticks, 0x0E06: ticks, 0x3007: ticks, 0x3008: ticks}
    counts = struct.pack("<8xLLLL8x", len(people), 0, len(people), 0)
    entries = [Entry("Root Entry", ROOT)]
    longs = {0x0E07: 1} | ({0x3FDE: code_page, 0x3FFD: code_page} if code_page else {0x340D: 0x00040E79})  # the last: text is Unicode
    _add_properties(entries, 0, counts, texts, longs, times, code_page)
    for number, (kind, name, address) in enumerate(people):
        storage = _add(entries, 0, Entry(f"__recip_version1.0_#{number:08X}", STORAGE))
        named = {0x3001: name, 0x3003: address, 0x3002: "SMTP", 0x39FE: address, 0x5FF6: name}
        _add_properties(entries, storage, bytes(8), named, {0x0C15: kind, 0x3000: number}, {}, code_page)
    names = _add(entries, 0, Entry("__nameid_version1.0", STORAGE))
    for stream in ("00020102", "00030102", "00040102"):  # GUIDs, entries and names of named properties: none
        _add(entries, names, Entry(f"__substg1.0_{stream}", STREAM))
    return compound(entries)


def _add(entries: list[Entry], parent: int, entry: Entry) -> int:
    entries.append(entry)
    entries[parent].children.append(len(entries) - 1)
    return len(entries) - 1


def _add_properties(
    entries: list[Entry], parent: int, head: bytes, texts: Mapping[int, str], longs: Mapping[int, int], times: Mapping[int, int],
    code_page: int,
) -> None:  # fmt: skip
    table, kind = [head], BYTES if code_page else TEXT
    for tag, words in sorted(texts.items()):
        data = words.encode(f"cp{code_page}" if code_page else "utf-16-le")
        _add(entries, parent, Entry(f"__substg1.0_{tag:04X}{kind:04X}", STREAM, data))
        table.append(struct.pack("<HHLLL", kind, tag, 6, len(data) + (1 if code_page else 2), 0))
    table += [struct.pack("<HHLlL", LONG, tag, 6, number, 0) for tag, number in sorted(longs.items())]
    table += [struct.pack("<HHLQ", TIME, tag, 6, ticks) for tag, ticks in sorted(times.items())]
    _add(entries, parent, Entry("__properties_version1.0", STREAM, b"".join(table)))


def compound(entries: Sequence[Entry]) -> bytes:
    """Directory entries (the first is the root) → a compound file."""
    sectors: list[bytes] = []
    table: list[int] = []  # the FAT: each sector's successor

    def store(data: bytes) -> int:
        if not data:
            return END
        first, count = len(sectors), -(-len(data) // SECTOR)
        sectors.extend(data[n * SECTOR:(n + 1) * SECTOR].ljust(SECTOR, b"\0") for n in range(count))
        table.extend([*range(first + 1, first + count), END])
        return first

    for entry in entries:
        _balance(entries, entry)
    small, successors = bytearray(), list[int]()
    for entry in entries[1:]:
        if entry.kind != STREAM or not entry.data:
            continue
        if len(entry.data) >= CUTOFF:
            entry.start = store(entry.data)
        else:
            entry.start, count = len(successors), -(-len(entry.data) // MINI)
            successors += [*range(entry.start + 1, entry.start + count), END]
            small += entry.data.ljust(count * MINI, b"\0")
    root = entries[0]
    root.data = bytes(small)
    root.start = store(root.data)
    padded = successors + [FREE] * (-len(successors) % (SECTOR // 4))
    mini_first = store(struct.pack(f"<{len(padded)}L", *padded))
    directory = b"".join(map(_record, entries))
    directory += _record(Entry("", 0)) * (-len(entries) % 4)
    directory_first = store(directory)
    fat_count = 1
    while len(table) + fat_count > fat_count * (SECTOR // 4):
        fat_count += 1
    if fat_count > 109:
        raise ValueError("a compound file this large needs DIFAT sectors, which this writer does not make")
    fat_first = len(sectors)
    full = table + [FAT_SECTOR] * fat_count
    full += [FREE] * (-len(full) % (SECTOR // 4))
    header = struct.pack(
        "<8s16xHHHHH6xLLLLLLLLL", bytes.fromhex("d0cf11e0a1b11ae1"), 0x3E, 3, 0xFFFE, 9, 6, 0, fat_count, directory_first, 0,
        CUTOFF, mini_first, len(padded) * 4 // SECTOR, END, 0,
    ) + struct.pack("<109L", *range(fat_first, fat_first + fat_count), *[FREE] * (109 - fat_count))
    return header + b"".join(sectors) + struct.pack(f"<{len(full)}L", *full)


def _balance(entries: Sequence[Entry], storage: Entry) -> None:
    """Children as a search tree: by length of name, then by name, as readers look them up."""
    order = sorted(storage.children, key=lambda n: (len(entries[n].name), entries[n].name.upper()))

    def tree(some: list[int]) -> int:
        if not some:
            return NOTHING
        middle = len(some) // 2
        entries[some[middle]].left, entries[some[middle]].right = tree(some[:middle]), tree(some[middle + 1:])
        return some[middle]

    storage.child = tree(order)


def _record(entry: Entry) -> bytes:
    name = entry.name.encode("utf-16-le")
    size = len(entry.data)
    return struct.pack(
        "<64sHBBLLL16sLQQLQ", name, len(name) + 2 if name else 0, entry.kind, 1, entry.left, entry.right, entry.child,
        bytes.fromhex("0b0d020000000000c000000000000046") if entry.kind == ROOT else bytes(16), 0, 0, 0,
        entry.start if entry.kind in (STREAM, ROOT) else 0, size if entry.kind in (STREAM, ROOT) else 0,
    )
