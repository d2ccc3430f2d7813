"""What archives, messages and PDFs hold becomes documents of their own where that is asked for, within limits, in the sandbox."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path

import pypdf
import pytest

from config import Settings
from errors import DocumentUnreadable
from ingest import unpack as containers
from ingest.catalog import Document
from ingest.parse import parse
from ingest.parse import unpack as unpacking
from ingest.parse.unpack import member_label, unpack
from ingest.purge import purge
from ingest.sandbox import Sandbox, unpacked
from ingest.types import ParseFailure, Report, SourceFile, Unpacked
from ingest.unpack import NAME
from tests.folder import Folder

SETTINGS = Settings(unpack=True, max_file_mb=1)
LEAVE = "# Leave\n\nThere are 27 days of leave a year."
TRAVEL = "# Travel\n\nThe company pays for trains in second class."


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(files: Mapping[str, str], mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content.encode())
            archive.addfile(entry, io.BytesIO(content.encode()))
        link = tarfile.TarInfo("shadow.md")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(link)
    return packed.getvalue()


def mail(attached: Mapping[str, bytes]) -> bytes:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Offer", "Ada <ada@example.com>", "bo@example.com"
    message["Date"] = "Tue, 04 Mar 2025 10:00:00 +0100"
    message.set_content("Please see what is attached.")
    for name, content in attached.items():
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    message.set_boundary("the same each time")
    return message.as_bytes()


def pdf(attached: Mapping[str, bytes]) -> bytes:
    writer, made = pypdf.PdfWriter(), io.BytesIO()
    writer.add_blank_page(200, 200)
    for name, content in attached.items():
        writer.add_attachment(name, content)
    writer.write(made)
    return made.getvalue()


def opened(folder: Path, name: str, content: bytes, settings: Settings = SETTINGS) -> tuple[dict[str, str], list[str]]:
    """Label → text of what a file holds, and what was left out."""
    path, into = folder / "stored", folder / "into"
    path.write_bytes(content)
    into.mkdir()
    found = unpack(path, name, into, settings)
    return {each.name: each.file.read_text(encoding="utf-8") for each in found.members}, list(found.left_out)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("all.zip", zipped({"hr/leave.md": LEAVE})),
        ("all.tar", tarred({"hr/leave.md": LEAVE}, "w")),
        ("all.tar.gz", tarred({"hr/leave.md": LEAVE}, "w:gz")),
        ("all.tar.xz", tarred({"hr/leave.md": LEAVE}, "w:xz")),
        ("hr/leave.md.gz", gzip.compress(LEAVE.encode())),
        ("mail.eml", mail({"hr/leave.md": LEAVE.encode()})),
        ("pages.pdf", pdf({"hr/leave.md": LEAVE.encode()})),
    ],
)
def test_every_kind_of_container_gives_its_files(tmp_path: Path, name: str, content: bytes) -> None:
    found, left_out = opened(tmp_path, name, content)

    assert [text for label, text in found.items() if label.endswith("leave.md")] == [LEAVE]
    assert len(found) == 1 and left_out == []  # no link, no folder


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "etc/passwd"), ("/abs/a.md", "abs/a.md"), ("C:\\Users\\a.md", "C:/Users/a.md"), ("a/./b.md", "a/b.md"),
        ("a\u202egnp.md", "a\ufffdgnp.md"), ("a\nb.md", "a\ufffdb.md"), ("__MACOSX/a.md", ""), ("a/.git/config", ""), ("..", ""),
        ("x" * 500 + ".md", "x" * 200),
    ],
)  # fmt: skip
def test_a_members_name_is_a_label_that_leads_nowhere(name: str, shown: str) -> None:
    assert member_label(name) == shown


def test_names_that_lead_out_write_nothing_outside(tmp_path: Path) -> None:
    found, _ = opened(tmp_path, "evil.zip", zipped({"../../evil.md": LEAVE, "/tmp/evil.md": TRAVEL}))

    assert set(found) == {"evil.md", "tmp/evil.md"}
    assert sorted(each.name for each in tmp_path.rglob("*") if each.is_file()) == ["0", "1", "stored"]


def test_a_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo("link.md")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/shadow")

    assert opened(tmp_path, "links.zip", packed.getvalue()) == ({}, [])


def test_what_is_larger_than_the_limit_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    found, left_out = opened(tmp_path, "mixed.zip", zipped({"big.txt": os.urandom(1_500_000), "small.md": LEAVE}))

    assert found == {"small.md": LEAVE} and left_out == ["big.txt: larger than 1 MB"]


def test_a_gzip_that_grows_without_end_is_stopped(tmp_path: Path) -> None:
    found, left_out = opened(tmp_path, "zeros.gz", gzip.compress(bytes(50_000_000)))

    assert found == {} and left_out == ["zeros: larger than 1 MB"]
    assert not list((tmp_path / "into").iterdir())


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 3)
    found, left_out = opened(tmp_path, "many.zip", zipped({f"{number}.md": LEAVE for number in range(9)}))

    assert len(found) == 3 and left_out == ["3.md and what follows it: more than 3 files"]


def test_a_bomb_and_a_broken_archive_are_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadable, match="decompression bomb"):
        opened(tmp_path, "bomb.zip", zipped({"a.txt": bytes(60_000_000)}))
    (tmp_path / "into").rmdir()
    with pytest.raises(DocumentUnreadable, match="damaged zip"):
        opened(tmp_path, "cut.zip", zipped({"a.md": LEAVE * 50})[:-30])


def test_of_an_archive_that_is_cut_off_the_whole_files_are_read(tmp_path: Path) -> None:
    noise = {f"{number}.txt": os.urandom(100_000).hex() for number in range(4)}
    content = tarred(noise, "w:gz")
    found, left_out = opened(tmp_path, "cut.tar.gz", content[: len(content) * 2 // 3])

    assert 0 < len(found) < 4 and all(found[name] == noise[name] for name in found) and len(left_out) >= 1


def test_office_documents_are_no_archives(tmp_path: Path) -> None:
    assert opened(tmp_path, "a.docx", zipped({"word/document.xml": "<a/>", "[Content_Types].xml": "<a/>"})) == ({}, [])


def test_an_archive_that_is_not_to_be_unpacked_is_listed(tmp_path: Path) -> None:
    """The report names the files in it and the setting that reads them."""
    (tmp_path / "stored").write_bytes(zipped({"hr/leave.md": LEAVE, "travel.md": TRAVEL}))
    with pytest.raises(DocumentUnreadable) as caught:
        parse(tmp_path / "stored", "all.zip", Settings())

    assert caught.value.message == "This is a zip archive of 2 files (hr/leave.md, travel.md)." and "unpack = true" in caught.value.cure


# ---- a folder with containers, refreshed by real children


def documents(folder: Folder) -> dict[str, Document]:
    index = folder.open()
    try:
        return {each.path: each for each in index.catalog.documents()}
    finally:
        index.close()


def refreshed(folder: Folder) -> Report:
    report = folder.refresh()
    assert not report.count("failed"), report
    return report


@pytest.fixture
def company(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path, unpack=True)
    folder.write("plain.md", "# Plain\n\nA file as any other.")
    inner = zipped({"leave.md": LEAVE})
    (folder.root / "all.zip").write_bytes(zipped({"hr/inner.zip": inner, "hr/mail.eml": mail({"travel.md": TRAVEL.encode()})}))
    for path in folder.root.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def test_what_containers_hold_becomes_documents_under_their_path(company: Folder) -> None:
    """At any depth; an archive itself is none, a message is one beside its attachments."""
    refreshed(company)

    assert set(documents(company)) == {"plain.md", "all.zip/hr/inner.zip/leave.md", "all.zip/hr/mail.eml", "all.zip/hr/mail.eml/travel.md"}
    assert documents(company)["all.zip/hr/inner.zip/leave.md"].absolute == company.root / "all.zip/hr/inner.zip/leave.md"
    assert company.litter() in ([], [NAME])


def test_an_unchanged_container_is_not_opened_again(company: Folder) -> None:
    refreshed(company)
    company.reader.read.clear()
    (company.root / "all.zip").write_bytes(bytes((company.root / "all.zip").stat().st_size))  # no longer an archive, but nobody looks
    os.utime(company.root / "all.zip", (1_700_000_000, 1_700_000_000))
    report = refreshed(company)

    assert report.count("unchanged") == 4 and report.version == "v000001" and company.reader.read == []


def test_only_what_changed_inside_a_container_is_read_again(company: Folder) -> None:
    refreshed(company)
    company.reader.read.clear()
    inner = zipped({"leave.md": LEAVE.replace("27", "30")})
    (company.root / "all.zip").write_bytes(zipped({"hr/inner.zip": inner, "hr/mail.eml": mail({"travel.md": TRAVEL.encode()})}))
    report = refreshed(company)

    assert company.reader.read == ["all.zip/hr/inner.zip/leave.md"] and report.count("changed") == 1 and report.count("unchanged") == 3


def test_a_container_that_goes_takes_its_documents_along(company: Folder) -> None:
    refreshed(company)
    (company.root / "all.zip").unlink()
    report = company.refresh(force=True)

    assert set(documents(company)) == {"plain.md"} and report.count("removed") == 3


@pytest.mark.parametrize("asked", [True, False])
def test_only_where_it_is_asked_for_is_anything_unpacked(tmp_path: Path, asked: bool) -> None:
    """With the real readers: without it an archive is listed and an attachment is named as not read."""
    folder = Folder(tmp_path, unpack=asked)
    folder.reader = Sandbox(folder.settings, 1)  # type: ignore[assignment]
    folder.root.joinpath("all.zip").write_bytes(zipped({"travel.md": TRAVEL}))
    folder.root.joinpath("mail.eml").write_bytes(mail({"leave.md": LEAVE.encode()}))
    report = folder.refresh()
    found = documents(folder)

    assert set(found) == ({"all.zip/travel.md", "mail.eml", "mail.eml/leave.md"} if asked else {"all.zip", "mail.eml"})
    assert found["mail.eml"].warnings == (() if asked else ("attachment leave.md was not read",))
    assert [each.reason for each in report.files if each.status == "failed"] == (
        [] if asked else ["This is a zip archive of 1 file (travel.md)."]
    )


def test_purging_a_message_erases_what_was_attached_to_it(company: Folder) -> None:
    """And what was erased does not come back with the container."""
    refreshed(company)
    passages = sum(each.passages for path, each in documents(company).items() if path.startswith("all.zip/hr/mail.eml"))
    erased = purge("all.zip/hr/mail.eml", "default", company.settings)
    report = company.refresh()

    assert erased["file"] == str(company.root / "all.zip") and erased["passages"] == passages > 1
    assert set(documents(company)) == {"plain.md", "all.zip/hr/inner.zip/leave.md"}
    assert sum("was purged" in each for each in report.warnings) == 2


class Opener:
    """Fails to open anything, in a given way, and counts."""

    def __init__(self, kind: str) -> None:
        self.kind, self.asked = kind, 0

    def unpack(self, file: SourceFile) -> Unpacked | ParseFailure:
        self.asked += 1
        return ParseFailure(self.kind, "It failed.", "")


@pytest.mark.parametrize(("kind", "again"), [("timed_out", 2), ("crashed", 2), ("damaged", 1), ("encrypted", 1)])
def test_a_container_that_failed_is_tried_again_where_that_may_help(company: Folder, kind: str, again: int) -> None:
    opener, facts = Opener(kind), (company.root / "all.zip").stat()
    file = SourceFile("docs", "all.zip", company.root / "all.zip", facts.st_size, facts.st_mtime_ns)
    first = containers.unpack([file], opener, {}, lambda each: True)
    second = containers.unpack([file], opener, first.held, lambda each: True)

    assert opener.asked == again and second.files == [file]
    assert first.left_out == ["all.zip was not unpacked: It failed."]


@pytest.mark.parametrize("place", ["/etc/passwd", "scratch/../secret", "scratch/link"])
def test_a_child_cannot_name_a_file_that_it_did_not_unpack(tmp_path: Path, place: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "secret").write_text("not for the index")
    (scratch / "link").symlink_to(tmp_path / "secret")
    (scratch / "0").write_text("unpacked")
    honest, led_out = ([["a.md", str(tmp_path / each), 8]] for each in ("scratch/0", place))

    assert isinstance(unpacked({"archive": True, "members": honest, "left_out": []}, scratch), Unpacked)
    assert isinstance(unpacked({"archive": True, "members": [*honest, *led_out], "left_out": []}, scratch), ParseFailure)


def test_a_message_is_known_by_its_content_and_unnamed_attachments_get_a_name(tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Scan", "Ada <ada@example.com>", "bo@example.com"
    message.set_content("See the page.")
    message.add_attachment(LEAVE.encode(), maintype="application", subtype="json")
    folder = Folder(tmp_path, unpack=True)
    folder.root.joinpath("letter.txt").write_bytes(message.as_bytes())
    folder.refresh()

    assert set(documents(folder)) == {"letter.txt", "letter.txt/unnamed.json"}


def test_after_a_purge_nothing_names_what_was_erased(company: Folder) -> None:
    refreshed(company)
    purge("all.zip/hr/mail.eml", "default", company.settings)

    assert not (company.settings.index / "default" / NAME).exists()


def test_what_is_excluded_inside_a_container_stays_out(company: Folder) -> None:
    report = company.refresh(exclude=["travel.md"])
    again = company.refresh(exclude=["travel.md"])

    assert "all.zip/hr/mail.eml/travel.md" not in documents(company) and again.version == report.version
