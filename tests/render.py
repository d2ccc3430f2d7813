"""One text (headings, paragraphs, lists, tables) → the same text as a real file of any format Footnote reads.

Used by `examples/build.py` for the sample company and by the tests for like-for-like comparisons of formats. The files
are the same bytes at every run: times are those of the text, archives are packed in name order.
"""

from __future__ import annotations

import csv
import html
import io
import random
import re
import subprocess
import tempfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

from tests.compound import message_file

FORMATS = ("pdf", "docx", "pptx", "xlsx", "csv", "html", "md", "txt", "rst", "rtf", "odt", "epub", "eml", "msg")


@dataclass(frozen=True, slots=True)
class Heading:
    level: int  # 1 is the highest
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; the first row is its header."""

    rows: tuple[tuple[str, ...], ...]


Block = Heading | Paragraph | Bullets | Grid


@dataclass(frozen=True, slots=True)
class Text:
    """What one document says. `facts` are extras of a format: from, to, cc (mail), style (pdf), language."""

    title: str
    blocks: tuple[Block, ...]
    date: str = "2025-01-01"  # ISO day
    author: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.date).replace(hour=9, tzinfo=UTC)


def read(source: str) -> Text:
    """Markdown with `name: value` lines and `---` above it → Text. Knows #, paragraphs, "- " lists and pipe tables."""
    head, _, body = source.partition("\n---\n")
    facts = dict(line.split(": ", 1) for line in head.splitlines() if line.strip())
    blocks: list[Block] = []
    for part in re.split(r"\n\s*\n", body.strip()):
        lines = part.strip().splitlines()
        if lines[0].startswith("#"):
            marks, _, text = lines[0].partition(" ")
            blocks.append(Heading(len(marks), text.strip()))
            lines = lines[1:]
        if not lines:
            continue
        if lines[0].startswith("|"):
            rows = [tuple(cell.strip() for cell in line.strip().strip("|").split("|")) for line in lines]
            blocks.append(Grid(tuple(row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row))))
        elif lines[0].startswith("- "):
            items = re.split(r"(?:^|\n)- ", "\n".join(lines))[1:]
            blocks.append(Bullets(tuple(item.replace("\n", " ").strip() for item in items)))
        else:
            blocks.append(Paragraph(" ".join(line.strip() for line in lines)))
    return Text(facts.pop("title"), tuple(blocks), facts.pop("date", "2025-01-01"), facts.pop("author", ""), facts)


def render(text: Text, format: str, path: Path) -> None:
    """Write `text` to `path` as `format`, one of FORMATS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_WRITERS[format](text))


def as_markdown(text: Text) -> bytes:
    return ("\n\n".join(_markdown(text.blocks)) + "\n").encode()


def _markdown(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading(level, words):
                yield "#" * level + " " + words
            case Paragraph(words):
                yield textwrap.fill(words, 110, break_long_words=False, break_on_hyphens=False)
            case Bullets(items):
                yield "\n".join(f"- {item}" for item in items)
            case Grid(rows):
                lines = ["| " + " | ".join(row) + " |" for row in rows]
                yield "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def as_plain(text: Text) -> bytes:
    return ("\n\n".join(_plain(text.blocks)) + "\n").encode()


def _plain(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading(level, words):
                yield words + "\n" + ("=" if level == 1 else "-") * len(words)
            case Paragraph(words):
                yield textwrap.fill(words, 92, break_long_words=False, break_on_hyphens=False)
            case Bullets(items):
                yield "\n".join(textwrap.fill(item, 92, initial_indent="- ", subsequent_indent="  ") for item in items)
            case Grid(rows):
                yield "\n".join("| " + " | ".join(row) + " |" for row in rows)


def as_html(text: Text) -> bytes:
    language = text.facts.get("language", "en")
    page = [
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(text.title)}</title>',
        f'<meta name="author" content="{html.escape(text.author)}">\n<meta name="date" content="{text.date}">',
        "<style>body { font-family: sans-serif; max-width: 44em } td, th { border: 1px solid #999; padding: .3em }</style>",
        "</head>\n<body>", *_html(text.blocks), "</body>\n</html>\n",
    ]
    return "\n".join(page).encode()


def _html(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading(level, words):
                yield f"<h{level}>{html.escape(words)}</h{level}>"
            case Paragraph(words):
                yield f"<p>{html.escape(words)}</p>"
            case Bullets(items):
                yield "<ul>\n" + "\n".join(f"<li>{html.escape(item)}</li>" for item in items) + "\n</ul>"
            case Grid(rows):
                head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
                body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
                yield f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def as_csv(text: Text) -> bytes:
    """The tables only: a csv file has no place for prose."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for block in text.blocks:
        if isinstance(block, Grid):
            writer.writerows(block.rows)
    return out.getvalue().encode()


def as_docx(text: Text) -> bytes:
    import docx

    document = docx.Document()
    properties = document.core_properties
    properties.title, properties.author = text.title, text.author
    properties.created = properties.modified = text.moment.replace(tzinfo=None)
    properties.last_modified_by, properties.comments, properties.revision = text.author, "", 1
    if "footer" in text.facts:
        document.sections[0].footer.paragraphs[0].text = text.facts["footer"]
    for block in text.blocks:
        match block:
            case Heading(level, words):
                document.add_heading(words, level)
            case Paragraph(words):
                document.add_paragraph(words)
            case Bullets(items):
                for item in items:
                    document.add_paragraph(item, style="List Bullet")
            case Grid(rows):
                table = document.add_table(rows=len(rows), cols=len(rows[0]), style="Light Grid Accent 1")
                for across, row in zip(rows, table.rows, strict=True):
                    for words, cell in zip(across, row.cells, strict=True):
                        cell.text = words
    out = io.BytesIO()
    document.save(out)
    return _repack(out.getvalue(), text)


def as_pptx(text: Text) -> bytes:
    """A slide for each heading, and another where more stands under it than fits."""
    import pptx
    from pptx.util import Inches, Pt

    deck = pptx.Presentation()
    properties = deck.core_properties
    properties.title, properties.author = text.title, text.author
    properties.created = properties.modified = text.moment.replace(tzinfo=None)
    properties.last_modified_by, properties.revision = text.author, 1
    for title, words, rows in _slides(text):
        slide = deck.slides.add_slide(deck.slide_layouts[5 if rows else 1])
        slide.shapes.title.text = title
        slide.shapes.title.text_frame.paragraphs[0].font.size = Pt(30)
        if rows:
            size = Inches(8.8), Inches(0.4 * len(rows))
            shape = slide.shapes.add_table(len(rows), len(rows[0]), Inches(0.6), Inches(1.7), *size)
            for across, line in zip(rows, shape.table.rows, strict=True):
                for each, cell in zip(across, line.cells, strict=True):
                    cell.text = each
                    cell.text_frame.paragraphs[0].font.size = Pt(14)
        for number, each in enumerate(words):
            frame = slide.placeholders[1].text_frame
            paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
            paragraph.text = each
            paragraph.font.size = Pt(16)
    out = io.BytesIO()
    deck.save(out)
    return _repack(out.getvalue(), text)


def _slides(text: Text) -> Iterator[tuple[str, list[str], tuple[tuple[str, ...], ...]]]:
    title, words, fresh = text.title, list[str](), False
    for block in text.blocks:
        match block:
            case Heading(_, heading):
                if words or fresh:
                    yield title, words, ()
                title, words, fresh = heading, [], True
            case Grid(rows):
                if words:
                    yield title, words, ()
                yield title, [], rows
                words, fresh = [], False
            case Paragraph() | Bullets():
                for each in block.items if isinstance(block, Bullets) else (block.text,):
                    if words and sum(map(len, words)) + len(each) > 620:  # characters that fit a slide at 16 points
                        yield title, words, ()
                        words = []
                    words.append(each)
                    fresh = False
    if words or fresh:
        yield title, words, ()


def as_xlsx(text: Text) -> bytes:
    """A sheet for each table, named after the heading above it; prose goes to a sheet "Notes", one paragraph a row."""
    import openpyxl
    from openpyxl.styles import Font

    book = openpyxl.Workbook()
    book.remove(book.active)
    book.properties.title, book.properties.creator = text.title, text.author
    book.properties.created = book.properties.modified = text.moment.replace(tzinfo=None)
    section, notes = text.title, list[tuple[str, str]]()
    for block in text.blocks:
        match block:
            case Heading(_, words):
                section = words
            case Paragraph(words):
                notes.append((section, words))
            case Bullets(items):
                notes.extend((section, item) for item in items)
            case Grid(rows):
                sheet = book.create_sheet(re.sub(r"[\\/*?:\[\]]", " ", section)[:31])
                for row in rows:
                    sheet.append([_number(cell) for cell in row])
                for cell in sheet[1]:
                    cell.font = Font(bold=True)
                for letter in (column[0].column_letter for column in sheet.columns):
                    sheet.column_dimensions[letter].width = 22
    if notes:
        sheet = book.create_sheet("Notes")
        for row in (("Section", "Text"), *notes):
            sheet.append(row)
        sheet.column_dimensions["B"].width = 100
    out = io.BytesIO()
    book.save(out)
    return _repack(out.getvalue(), text)


def _number(cell: str) -> str | int | float:
    plain = cell.replace(",", "")
    if re.fullmatch(r"-?[1-9]\d{0,2}(,?\d{3})*|0", cell):
        return int(plain)
    return float(plain) if re.fullmatch(r"-?\d+\.\d+", plain) else cell


def as_pdf(text: Text) -> bytes:
    """facts["style"]: "columns" sets two columns, "handbook" starts a page at each chapter, "scan" keeps only a picture."""
    style = text.facts.get("style", "")
    return _scan(text) if style == "scan" else _typeset(text, style)


def _typeset(text: Text, style: str) -> bytes:
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A4, A5
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.lib.units import mm
    from reportlab.pdfgen.canvas import Canvas
    from reportlab.platypus import BaseDocTemplate, Flowable, Frame, PageBreak, PageTemplate, Table
    from reportlab.platypus import Paragraph as Flow

    width, height = A5 if style == "handbook" else A4
    body = ParagraphStyle("body", fontName="Times-Roman", fontSize=10.5, leading=14, spaceAfter=6, alignment=4 if style else 0)
    bullet = ParagraphStyle("bullet", parent=body, leftIndent=14, bulletIndent=4, spaceAfter=3)
    cell = ParagraphStyle("cell", parent=body, fontName="Helvetica", fontSize=9, leading=11, spaceAfter=0, alignment=0)
    titles = [ParagraphStyle(f"h{n}", fontName="Helvetica-Bold", fontSize=size, leading=size * 1.25, spaceBefore=10, spaceAfter=5,
                             keepWithNext=1) for n, size in enumerate((18, 13, 11), start=1)]

    class Document(BaseDocTemplate):
        def afterFlowable(self, flowable: Flowable) -> None:  # noqa: N802  (reportlab's name)
            level = getattr(flowable, "outline", 0)
            if level:
                words = flowable.getPlainText()
                self.canv.bookmarkPage(words)
                self.canv.addOutlineEntry(words, words, level - 1, closed=False)

    def furniture(canvas: Canvas, document: BaseDocTemplate) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(22 * mm, height - 12 * mm, text.facts.get("header", text.title))
        canvas.drawRightString(width - 22 * mm, 10 * mm, f"Page {document.page}")

    if style == "columns":
        gap, column = 8 * mm, (width - 44 * mm - 8 * mm) / 2
        frames = [Frame(22 * mm + n * (column + gap), 18 * mm, column, height - 36 * mm, 0, 0, 0, 0) for n in range(2)]
    else:
        column = width - 44 * mm
        frames = [Frame(22 * mm, 18 * mm, column, height - 36 * mm, 0, 0, 0, 0)]
    story: list[Flowable] = []
    top = True
    for block in text.blocks:
        match block:
            case Heading(level, words):
                if style == "handbook" and level == 2 and not top:
                    story.append(PageBreak())
                flow = Flow(html.escape(words), titles[min(level, 3) - 1])
                flow.outline = level
                story.append(flow)
                top = level == 1
            case Paragraph(words):
                story.append(Flow(html.escape(words), body))
            case Bullets(items):
                story.extend(Flow(html.escape(item), bullet, bulletText="•") for item in items)
            case Grid(rows):
                table = Table([[Flow(html.escape(each), cell) for each in row] for row in rows],
                              colWidths=[column / len(rows[0])] * len(rows[0]), repeatRows=1, spaceBefore=4, spaceAfter=8)
                table.setStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("BACKGROUND", (0, 0), (-1, 0), colors.whitesmoke),
                                ("VALIGN", (0, 0), (-1, -1), "TOP")])
                story.append(table)
    out = io.BytesIO()
    document = Document(out, pagesize=(width, height), title=text.title, author=text.author, invariant=1)
    document.addPageTemplates(PageTemplate("page", frames, onPage=furniture))
    document.build(story)
    return _dated(out.getvalue(), text)


def _dated(pdf: bytes, text: Text) -> bytes:
    """reportlab's invariant files are dated 2000-01-01; the text's own day has as many characters."""
    return pdf.replace(b"D:20000101000000+00'00'", text.moment.strftime("D:%Y%m%d090000+00'00'").encode())


def _scan(text: Text) -> bytes:
    """One page that holds nothing but a picture of text: grey paper, a slight turn, specks, as from an office scanner."""
    import reportlab
    from PIL import Image, ImageDraw, ImageFilter, ImageFont
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    wide, high = 1240, 1754  # pixels of an A4 page at 150 dots an inch
    fonts = Path(reportlab.__file__).parent / "fonts"
    dice = random.Random(7)
    page = Image.new("L", (wide, high), 244)
    draw = ImageDraw.Draw(page)
    down = 130
    for block in text.blocks:
        bold = isinstance(block, Heading)
        font = ImageFont.truetype(str(fonts / ("VeraBd.ttf" if bold else "Vera.ttf")), 36 if bold else 30)
        match block:
            case Heading(_, words) | Paragraph(words):
                lines = textwrap.wrap(words, 40 if bold else 50)
            case Bullets(items):
                lines = [line for item in items for line in textwrap.wrap("- " + item, 50, subsequent_indent="  ")]
            case Grid(rows):
                lines = ["   ".join(row) for row in rows]
        for line in lines:
            across = 120.0
            for word in line.split():  # spaces as wide as a typewriter's: a reader of pictures loses narrow ones
                draw.text((across, down), word, font=font, fill=40)
                across += draw.textlength(word, font=font) + 16
            down += 54 if bold else 45
        down += 24
    page = page.rotate(0.4, fillcolor=240, resample=Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(0.6))
    for _ in range(1500):
        page.putpixel((dice.randrange(wide), dice.randrange(high)), dice.randrange(90, 235))
    picture = io.BytesIO()
    page.save(picture, "JPEG", quality=62)
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=A4, invariant=1)
    canvas.setTitle(text.title)
    canvas.drawImage(ImageReader(io.BytesIO(picture.getvalue())), 0, 0, *A4)
    canvas.save()
    return _dated(out.getvalue(), text)


def as_eml(text: Text) -> bytes:
    """facts: from, to, cc, body ("html" leaves the plain part out), and attachment (a file name, its text in attached)."""
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = text.title
    mail["From"] = text.facts.get("from", "Office <office@example.com>")
    mail["To"] = text.facts.get("to", "Everyone <everyone@example.com>")
    if "cc" in text.facts:
        mail["Cc"] = text.facts["cc"]
    mail["Date"] = text.moment
    mail["Message-ID"] = f"<{text.date}.{len(text.blocks)}@example.com>"
    if text.facts.get("body") == "html":
        mail.set_content(as_html(text).decode(), subtype="html")
    else:
        mail.set_content(as_plain(text).decode())
    if "attachment" in text.facts:
        attached = text.facts.get("attached", "").encode()
        mail.add_attachment(attached, maintype="text", subtype="plain", filename=text.facts["attachment"])
    for part in mail.walk():
        if part.is_multipart():
            part.set_boundary("=-boundary-of-the-message")
    return bytes(mail)


def as_msg(text: Text) -> bytes:
    return message_file(
        subject=text.title, body=as_plain(text).decode().replace("\n", "\r\n"), moment=text.moment,
        sender=text.facts.get("from", "Office <office@example.com>"), to=text.facts.get("to", "Everyone <everyone@example.com>"),
        cc=text.facts.get("cc", ""),
    )


def _pandoc(format: str) -> Callable[[Text], bytes]:
    def write(text: Text) -> bytes:
        import pypandoc

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"out.{format}"
            command = [
                pypandoc.get_pandoc_path(), "--from=gfm", f"--to={format}", "--standalone", f"--output={path}", "--wrap=none",
                "--shift-heading-level-by=-1", f"--metadata=author:{text.author}", f"--metadata=date:{text.date}",
                f"--metadata=lang:{text.facts.get('language', 'en')}", f"--metadata=identifier:footnote-{text.title}",
            ]
            environment = {"SOURCE_DATE_EPOCH": str(int(text.moment.timestamp())), "HOME": folder}
            subprocess.run(command, input=as_markdown(text), env=environment, check=True)
            data = path.read_bytes()
        return _repack(data, text) if data.startswith(b"PK") else data

    return write


def _repack(archive: bytes, text: Text) -> bytes:
    """The same members with the text's own time, in name order, `mimetype` first and unpacked as odt and epub ask."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in sorted(old.namelist(), key=lambda each: (each != "mimetype", each != "[Content_Types].xml", each)):
            data = old.read(name)
            if name == "docProps/core.xml":  # openpyxl writes the time of saving whatever it was told
                stamp = text.moment.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
                data = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>" + stamp, data)
            info = zipfile.ZipInfo(name, text.moment.timetuple()[:6])
            info.compress_type = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            new.writestr(info, data)
    return out.getvalue()


_WRITERS: dict[str, Callable[[Text], bytes]] = {
    "pdf": as_pdf, "docx": as_docx, "pptx": as_pptx, "xlsx": as_xlsx, "csv": as_csv, "html": as_html, "md": as_markdown,
    "txt": as_plain, "rst": _pandoc("rst"), "rtf": _pandoc("rtf"), "odt": _pandoc("odt"), "epub": _pandoc("epub"),
    "eml": as_eml, "msg": as_msg,
}
