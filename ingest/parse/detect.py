"""A file's bytes → what it is ("pdf", "docx", …), decided by content; the name only separates kinds of plain text.

Archives are measured before anything opens them. Raises DocumentUnreadable for what cannot or must not be read.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

import olefile

from errors import DocumentUnreadable
from ingest.parse.clean import clean_line
from ingest.parse.decode import decode, utf16_without_mark

MAX_ZIP_ENTRIES = 10_000  # a 5,000-slide deck has about as many
MAX_ZIP_BYTES = 500_000_000  # expanded; the largest honest office files stay far below
MAX_ZIP_RATIO = 200  # expanded to packed; XML packs 10-40 times
MAX_RATIO_FREE_BYTES = 10_000_000  # small enough to be harmless whatever the ratio
HEAD_BYTES = 65_536  # read to decide
ARCHIVE_NAMES = 5  # of the files in an archive that the report names
UNPACK_BY_HAND = "Unpack it and put the files in the folder."
UNPACK = "Unpack it and put the files in the folder, or set unpack = true."
UNPACKED = ("gzip", "bzip2", "xz")  # kinds that unpack.py unpacks, beside zip and tar

IMAGES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
    b"BM": "bmp",
    b"GIF8": "gif",
}
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x1f\x9d": "compress",
    b"\x1f\xa0": "compress",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"MSCF": "cabinet",
    b"!<arch>": "ar",
}
_TEXT_KINDS = {
    ".md": "md", ".markdown": "md", ".mdx": "md", ".mdown": "md",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".mht": "eml", ".mhtml": "eml",
    ".rst": "rst", ".rest": "rst",
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".eml": "eml", ".mbox": "mbox",
    ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".xml": "xml", ".vtt": "vtt", ".srt": "vtt",
    ".adoc": "adoc", ".asciidoc": "adoc", ".asc": "adoc", ".org": "txt",
}  # fmt: skip
_MAIL_FIELD = re.compile(
    r"(?im)^(from|to|cc|subject|date|received|return-path|mime-version|message-id|delivered-to|reply-to|sender|"
    r"content-type|content-transfer-encoding|x-[a-z-]+)[ \t]*:"
)
_MAIL_ONLY = re.compile(r"(?im)^(received|return-path|mime-version|message-id|delivered-to|from|subject)[ \t]*:")


def detect(path: Path, name: str) -> str:
    """The kind of the file at `path`; `name` is its label."""
    size = path.stat().st_size
    if size == 0:
        raise DocumentUnreadable("empty", "The file is empty (0 bytes).", "Replace it, or leave it out.")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _zip_kind(path)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _ole_kind(path)
    if head.lstrip()[:5].lower() == b"{\\rtf":
        return "rtf"
    if b"%PDF-" in head[:1024]:
        return "pdf"
    for magic in IMAGES:
        if head.startswith(magic) and (magic != b"BM" or head[6:10] == b"\0\0\0\0"):
            return "image"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image"
    for magic, kind in _ARCHIVES.items():
        if head.startswith(magic):
            raise DocumentUnreadable("unsupported", f"This is a {kind} archive.", UNPACK if kind in UNPACKED else UNPACK_BY_HAND)
    if head.startswith(b"x\x9f\x3e\x22"):
        raise DocumentUnreadable("unsupported", "This is a winmail.dat (TNEF) container.", "Open it in Outlook and save the message.")
    return _text_kind(head, name)


def _text_kind(head: bytes, name: str) -> str:
    suffix = PurePosixPath(name.lower()).suffix
    if _is_binary(head):
        if suffix in (".doc", ".xls", ".ppt", ".docx", ".xlsx", ".pptx", ".pdf", ".odt", ".epub", ".msg"):
            raise DocumentUnreadable("damaged", f"The content is not that of a {suffix[1:]} file.", "Open it and save it again.")
        raise DocumentUnreadable("unsupported", "This is binary data of a kind that holds no readable text.", "Leave it out.")
    text = decode(head, declared=True).lstrip("\ufeff \t\r\n")
    start = text[:2000].lower()
    if suffix in (".eml", ".mbox", ".mht", ".mhtml") or _looks_like_mail(text):
        return "mbox" if text.startswith("From ") and suffix != ".eml" else "eml"
    if start.startswith(("<!doctype html", "<html")) or ("<html" in start and start.startswith(("<?xml", "<!--", "<!doctype"))):
        return "html"
    kind = _TEXT_KINDS.get(suffix, "")
    if kind:
        return kind
    if start.startswith("<?xml"):
        return "xml"
    if start.startswith("webvtt"):
        return "vtt"
    if re.match(r"<(head|body|title|meta|div|table|p|h1)\b[^>]*>", start):
        return "html"
    return "txt"


def _is_binary(head: bytes) -> bool:
    """Bytes that no text encoding explains: zeros outside UTF-16 and UTF-32, or many control characters."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")) or utf16_without_mark(head):
        return False
    sample = head[:8192]
    zeros = sample.count(0)
    controls = sum(sample.count(code) for code in (*range(1, 8), *range(14, 27), *range(28, 32), 127))
    return zeros > max(0.02 * len(sample), 3) or controls > max(0.05 * len(sample), 3)


def _looks_like_mail(text: str) -> bool:
    """A block of header fields at the very top, at least one of them only mail has."""
    if text.startswith("From ") and "\n" in text:
        text = text.split("\n", 1)[1]
    first = text.split("\n", 1)[0]
    if not re.match(r"[A-Za-z][A-Za-z0-9-]*[ \t]*:", first):
        return False
    fields = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    known = {match.group(1).lower() for match in _MAIL_FIELD.finditer(fields)}
    if not known & {"received", "return-path", "mime-version", "message-id", "delivered-to", "from"}:
        return False
    odd = sum(1 for line in fields.splitlines() if line and not re.match(r"[ \t]|[!-9;-~]+[ \t]*:", line))
    return len(known) >= 3 and odd == 0


def _zip_kind(path: Path) -> str:
    kind = zip_kind(path)
    if not kind:
        with zipfile.ZipFile(path) as archive:
            names = [each.filename for each in archive.infolist() if not each.is_dir()]
        inside = ", ".join(clean_line(each)[:80] for each in names[:ARCHIVE_NAMES]) + (", …" if len(names) > ARCHIVE_NAMES else "")
        held = f" of {len(names):,} {'file' if len(names) == 1 else 'files'} ({inside})" if names else ""
        raise DocumentUnreadable("unsupported", f"This is a zip archive{held}.", UNPACK)
    if kind in ("xlsb", "pages", "numbers", "key"):
        raise DocumentUnreadable(
            "unsupported", f"This is a {kind} file, which Footnote cannot read.", "Save it as xlsx, docx, pptx or pdf."
        )
    return kind


def zip_kind(path: Path) -> str:
    """The kind of document that a zip container holds, "" for a plain archive. Raises DocumentUnreadable: encrypted, damaged, bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, path.stat().st_size)
            names = {each.filename for each in archive.infolist()}
            locked = any(each.flag_bits & 1 for each in archive.infolist())
            kind = _zip_content(archive, names)
            if locked:
                what = "file" if kind else "archive"
                raise DocumentUnreadable("encrypted", f"The {what} is locked with a password.", "Save it without a password.")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, KeyError, OSError, RuntimeError) as error:
        raise DocumentUnreadable(
            "damaged", f"The file is a damaged zip container ({error}).", "Open it in its program and save it again."
        ) from None
    return kind


def check_zip(archive: zipfile.ZipFile, packed: int) -> None:
    """Raises DocumentUnreadable("bomb") where unpacking `archive` (a file of `packed` bytes) would be out of proportion."""
    entries = archive.infolist()
    expanded = sum(each.file_size for each in entries)
    if len(entries) > MAX_ZIP_ENTRIES:
        reason = f"it holds {len(entries):,} files"
    elif expanded > MAX_ZIP_BYTES:
        reason = f"it would unpack to {expanded / 1e6:,.0f} MB"
    elif expanded > MAX_RATIO_FREE_BYTES and expanded > MAX_ZIP_RATIO * max(packed, 1):
        reason = f"it would unpack to {expanded / max(packed, 1):,.0f} times its size"
    else:
        return
    raise DocumentUnreadable("bomb", f"The file looks like a decompression bomb: {reason}.", "Leave it out.")


def _zip_content(archive: zipfile.ZipFile, names: set[str]) -> str:
    """The kind of document a zip container holds, "" for a plain archive."""
    if "mimetype" in names:
        if archive.getinfo("mimetype").file_size > 200:
            return ""
        mime = archive.read("mimetype").decode("ascii", "replace").strip()
        if mime == "application/epub+zip":
            return "epub"
        for ending, kind in (("text", "odt"), ("spreadsheet", "ods"), ("presentation", "odp")):
            if mime.startswith(f"application/vnd.oasis.opendocument.{ending}"):
                manifest = "META-INF/manifest.xml"
                small = manifest in names and archive.getinfo(manifest).file_size < 5_000_000
                if small and b"encryption-data" in archive.read(manifest):
                    raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save it without a password.")
                return kind
    lowered = {each.lower().replace("\\", "/").lstrip("/") for each in names}
    if any(each.startswith("word/") and each.endswith(".xml") for each in lowered):
        return "docx"
    if any(each.startswith("ppt/") and each.endswith(".xml") for each in lowered):
        return "pptx"
    if "xl/workbook.bin" in lowered:
        return "xlsb"
    if any(each.startswith("xl/") and each.endswith(".xml") for each in lowered):
        return "xlsx"
    if "content.xml" in lowered and "meta-inf/manifest.xml" in lowered:
        return "odt"
    if "[content_types].xml" in lowered:
        types = archive.read(next(each for each in names if each.lower().endswith("[content_types].xml")))
        for mark, kind in ((b"wordprocessingml", "docx"), (b"presentationml", "pptx"), (b"spreadsheetml", "xlsx")):
            if mark in types:
                return kind
    if any(each.endswith(".iwa") for each in lowered) or "index.apxl" in lowered or "index.xml" in lowered:
        return "pages"
    return ""


def _ole_kind(path: Path) -> str:
    try:
        with olefile.OleFileIO(str(path)) as container:
            streams = {"/".join(each).lower() for each in container.listdir(streams=True, storages=True)}
            if "encryptedpackage" in streams:
                raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save it without a password.")
            tops = {each.split("/")[0] for each in streams}
            if "__properties_version1.0" in tops:
                return "msg"
            if "worddocument" in tops:
                _refuse_locked_word(container)
                return "doc"
            if tops & {"workbook", "book"}:
                return "xls"
            if "powerpoint document" in tops:
                if "encryptedsummary" in tops:
                    raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save it without a password.")
                return "ppt"
    except DocumentUnreadable:
        raise
    except Exception as error:  # noqa: BLE001 - olefile raises whatever a mangled structure makes it raise
        raise DocumentUnreadable(
            "damaged", f"The file is a damaged Office 97 container ({type(error).__name__}).", "Open it and save it again."
        ) from None
    raise DocumentUnreadable("unsupported", "This Office 97 container holds no document Footnote knows.", "Save it as pdf.")


def _refuse_locked_word(container: olefile.OleFileIO) -> None:
    """Word writes in byte 11 of its main stream whether the rest is encrypted."""
    stream = container.openstream("WordDocument").read(12)
    if len(stream) == 12 and stream[11] & 1:
        raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save it without a password.")
