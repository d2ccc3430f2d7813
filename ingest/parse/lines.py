"""Runs of text with their places on a page → blocks in reading order: columns, paragraphs, list items, tables, headings.

It knows nothing of where the runs come from: PDF and OCR give the same kind. Places are in points from the top left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from ingest.parse.layout import Block, likely_header

SOFT_HYPHEN = "\u00ad"  # ends a run whose word goes on in the next line
BULLETS = "•‣▪▫●○◦■□➢➤►▸✓✔❖◆∙⁃–—*·o-"
_BULLET = re.compile(r"^[•‣▪▫●○◦■□➢➤►▸✓✔❖◆∙⁃]\s*|^[–—*·o-]\s+(?=\S)")
_NUMBERED = re.compile(r"^\(?(?:[0-9]{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)](?:\s+|$)")
_LABEL_ONLY = re.compile(r"^(?:[•‣▪▫●○◦■□➢➤►▸✓✔❖◆∙⁃–—*·o-]|\(?(?:[0-9]{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]|[0-9]{1,2}(?:\.[0-9]{1,2})+)$")
_LEADERS = re.compile(r"(?:\s?[.·…_]){5,}")
_NUMERIC = re.compile(r"^[(\[]?[-–—−+]?\s?[$€£¥]?\s?[(]?[-–—−]?[0-9][0-9.,' ]*\)?\s?(?:%|x|bps|pts)?\)?[*†]?$|^[-–—]+$|^N/?[AM]$", re.I)
_YEAR = re.compile(r"^(?:19|20)[0-9]{2}[A-Z]?$")
_WORD = re.compile(r"[^\W\d_]+")

HEADING_RATIO = 1.06  # to the body's height; word processors set their third heading at 12 to 11 points
COLUMN_GAP = 1.0  # gap between runs, in text heights, that no word space of justified text reaches
LINES_A_STRAY = 10  # of a column, for each change of side in the file's order: footers are often written first, rows change with each
MAX_STEPS = 20_000  # places looked at across a page; a page that wide is no page
MAX_DEPTH = 4  # columns inside columns


@dataclass(frozen=True, slots=True)
class Run:
    """Text without a wide gap, on one line. `order` is its place in the file. A run with a `table` stands for all of it."""

    x0: float
    top: float
    x1: float
    bottom: float
    text: str
    bold: bool = False
    order: int = 0
    table: Block | None = None

    @property
    def height(self) -> float:
        return self.bottom - self.top


@dataclass(frozen=True, slots=True)
class Rules:
    """Straight lines drawn on a page: horizontal ones (x0, x1, y), vertical ones (x, y0, y1)."""

    across: tuple[tuple[float, float, float], ...] = ()
    down: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """How the whole document is set: what its headings look like and which hyphenated words it knows."""

    body: float = 0.0  # height of body text
    levels: tuple[float, ...] = ()  # heights of headings, largest first
    outline: dict[str, int] = field(default_factory=dict)  # outline titles, as `heading_key`, → level
    words: frozenset[str] = frozenset()  # lower-case words with a hyphen inside one line
    bold_body: bool = False  # most of the text is bold, so bold marks nothing


@dataclass(slots=True)
class Line:
    """Runs of one baseline, left to right."""

    runs: list[Run]
    top: float = 0.0
    bottom: float = 0.0
    x0: float = 0.0
    x1: float = 0.0

    def __post_init__(self) -> None:
        self.runs.sort(key=lambda run: run.x0)
        self.top = min(run.top for run in self.runs)
        self.bottom = max(run.bottom for run in self.runs)
        self.x0 = self.runs[0].x0
        self.x1 = max(run.x1 for run in self.runs)

    @property
    def text(self) -> str:
        return " ".join(run.text for run in self.runs)

    @property
    def height(self) -> float:
        """Height of most of its characters, so that a footnote mark does not count."""
        return max(self.runs, key=lambda run: len(run.text)).height

    @property
    def bold(self) -> bool:
        return all(run.bold for run in self.runs)


def heading_key(text: str) -> str:
    """What an outline title and the heading on the page have in common."""
    return re.sub(r"[\W_]+", "", text).lower()


def look_of(pages: Iterable[Sequence[Run]], outline: dict[str, int]) -> Look:
    """The look of a document from all its runs."""
    heights: Counter[float] = Counter()
    large: Counter[float] = Counter()
    bold = total = 0
    hyphenated: set[str] = set()
    for runs in pages:
        for run in runs:
            if run.table is not None:
                continue
            size = len(run.text)
            rounded = round(run.height * 4) / 4
            heights[rounded] += size
            total += size
            bold += size * run.bold
            if size <= 120:
                large[rounded] += 1
            if "-" in run.text:
                hyphenated.update(word for word in re.findall(r"\w+(?:-\w+)+", run.text.lower()))
    if not total:
        return Look(outline=outline)
    body = heights.most_common(1)[0][0]
    sizes = sorted((size for size in large if size >= body * HEADING_RATIO and heights[size] < 0.2 * total), reverse=True)
    levels: list[float] = []
    for height in sizes:  # heights that differ by rounding are one level
        if not levels or height < levels[-1] * 0.95:
            levels.append(height)
    return Look(body, tuple(levels[:5]), outline, frozenset(hyphenated), bold > 0.6 * total)


def read_lines(runs: Sequence[Run], look: Look) -> list[Block]:
    """Blocks of one page in reading order."""
    blocks: list[Block] = []
    for region in regions(list(runs)):
        blocks.extend(_region_blocks(lines_of(region), look))
    return blocks


# -- columns ---------------------------------------------------------------------------------------------------------


def regions(runs: list[Run], depth: int = 0) -> list[list[Run]]:
    """`runs` divided where text is set in columns, in reading order."""
    if len(runs) < 6 or depth >= MAX_DEPTH:
        return [runs]
    left, right = min(run.x0 for run in runs), max(run.x1 for run in runs)
    width = right - left
    height = median(run.height for run in runs if run.table is None or len(runs) < 3) or 1.0
    if width < 16 * height:
        return [runs]
    gutter = _gutter(runs, left, width, height)
    if gutter is None:
        return [runs]
    crossing = sorted((run for run in runs if run.x0 < gutter < run.x1), key=lambda run: run.top)
    sides = sorted((run for run in runs if not run.x0 < gutter < run.x1), key=lambda run: run.top)
    found: list[list[Run]] = []
    rest: list[Run] = []
    split = False
    position = 0
    for bar in [*crossing, None]:
        band = []
        while position < len(sides) and (bar is None or sides[position].top + sides[position].bottom < bar.top + bar.bottom):
            band.append(sides[position])
            position += 1
        lefts = [run for run in band if run.x1 <= gutter]
        rights = [run for run in band if run.x0 >= gutter]
        if lefts and rights and _are_columns(lefts, rights):
            if rest:
                found.append(rest)
                rest = []
            found.extend(regions(lefts, depth + 1))
            found.extend(regions(rights, depth + 1))
            split = True
        else:
            rest.extend(band)
        if bar is not None:
            rest.append(bar)
    if rest:
        found.append(rest)
    return found if split else [runs]


def _gutter(runs: Sequence[Run], left: float, width: float, height: float) -> float | None:
    """The x in the middle part of the text that the least text crosses, where that is little enough."""
    step = max(height / 3, 1.0)
    count = int(width / step) + 1
    if count > MAX_STEPS:
        return None
    covered = [0.0] * (count + 1)
    for run in runs:
        first, last = int((run.x0 - left) / step), int((run.x1 - left) / step)
        covered[first] += run.height
        if last + 1 <= count:
            covered[last + 1] -= run.height
    total = 0.0
    profile = []
    for each in covered[:count]:
        total += each
        profile.append(total)
    first, last = int(count * 0.2), int(count * 0.8)
    middle = profile[first:last]
    if not middle:
        return None
    lowest = min(middle)
    extent = max(run.bottom for run in runs) - min(run.top for run in runs)
    if lowest > 0.4 * extent:
        return None
    best_length, best, start = 0, -1, -1
    limit = lowest + 0.02 * extent
    for index in range(len(middle) + 1):
        if index < len(middle) and middle[index] <= limit:
            if start < 0:
                start = index
        elif start >= 0:
            if index - start > best_length:
                best_length, best = index - start, start
            start = -1
    return left + (first + best + best_length / 2) * step


def _are_columns(lefts: Sequence[Run], rights: Sequence[Run]) -> bool:
    """Whether two sides are running text, to be read one after the other, rather than cells of the same rows."""
    one, two = lines_of(list(lefts)), lines_of(list(rights))
    if min(run.x0 for run in rights) - max(run.x1 for run in lefts) < 0.5 * median(run.height for run in lefts):
        return False
    ordered = sorted([(run.order, 0) for run in lefts] + [(run.order, 1) for run in rights])
    switches = sum(1 for a, b in zip(ordered, ordered[1:], strict=False) if a[1] != b[1])
    apart = one[-1].bottom <= two[0].top or two[-1].bottom <= one[0].top
    if apart:
        return False
    single = all(sum(len(line.runs) > 1 for line in side) <= 0.3 * len(side) for side in (one, two))
    stray = min(len(one), len(two)) // LINES_A_STRAY if single else 0
    if switches <= max(stray, 1) and len(one) >= 2 and len(two) >= 2:
        return _filled(one) >= 0.45 or _filled(two) >= 0.45
    if len(one) < 3 or len(two) < 3:
        return False
    long_enough = all(sum(len(line.text) for line in side) / len(side) >= 16 for side in (one, two))
    return long_enough and single and _filled(one) >= 0.62 and _filled(two) >= 0.62


def _filled(lines: Sequence[Line]) -> float:
    """How much of the column's width its lines take, on average."""
    width = max(line.x1 for line in lines) - min(line.x0 for line in lines)
    return sum(line.x1 - line.x0 for line in lines) / (len(lines) * width) if width > 0 else 0.0


def lines_of(runs: list[Run]) -> list[Line]:
    """Runs grouped by baseline, from the top."""
    runs = sorted(runs, key=lambda run: (run.top + run.bottom, run.x0))
    groups: list[list[Run]] = []
    for run in runs:
        middle = (run.top + run.bottom) / 2
        for group in groups[-3:][::-1]:
            anchor = group[0]
            if run.table is not None or anchor.table is not None:
                continue
            overlap = min(run.bottom, anchor.bottom) - max(run.top, anchor.top)
            if overlap > 0.5 * min(run.height, anchor.height) and abs(middle - (anchor.top + anchor.bottom) / 2) < 0.6 * max(
                run.height, anchor.height
            ):
                group.append(run)
                break
        else:
            groups.append([run])
    lines = [Line(_joined(group)) for group in groups]
    lines.sort(key=lambda line: line.top + line.bottom)
    return lines


def _joined(runs: list[Run]) -> list[Run]:
    """Runs of a line with list marks and currency signs put to what they belong to."""
    runs = sorted(runs, key=lambda run: run.x0)
    out: list[Run] = []
    for run in runs:
        last = out[-1] if out else None
        if last is not None:
            gap = run.x0 - last.x1
            joins = (
                gap < 0.3 * run.height
                or (len(out) == 1 and _LABEL_ONLY.match(last.text) and gap < 4 * run.height)
                or (last.text in ("$", "€", "£", "¥", "(", "$(", "$ (") and gap < 8 * run.height)
                or (run.text in (")", "%", ")%", "%)") and gap < 3 * run.height)
            )
            if joins:
                space = "" if last.text.endswith("(") or run.text[0] in ")%" or gap < 0.08 * run.height else " "
                if last.text.endswith(SOFT_HYPHEN):
                    text = last.text[:-1] + run.text
                else:
                    text = f"{last.text}{space}{run.text}"
                out[-1] = Run(
                    last.x0, min(last.top, run.top), max(last.x1, run.x1), max(last.bottom, run.bottom), text,
                    last.bold and run.bold, last.order,
                )  # fmt: skip
                continue
        out.append(run)
    return out


# -- tables drawn with rules -----------------------------------------------------------------------------------------

TOUCH = 3.0  # points within which rules meet
MAX_RULES = 400  # of one page; more is a drawing
MAX_GRID = 20_000  # cells of one table


def rule_tables(runs: list[Run], rules: Rules, look: Look | None = None) -> list[Run]:
    """`runs` with those inside a drawn grid replaced by one run that carries the table."""
    if not rules.down or not rules.across:
        return runs
    hyphenated = look.words if look is not None else frozenset()
    for across, down in _grids(rules):
        xs = _distinct([x for x, _, _ in down] + [min(x0 for x0, _, _ in across), max(x1 for _, x1, _ in across)])
        ys = _distinct([y for _, _, y in across] + [min(y0 for _, y0, _ in down), max(y1 for _, _, y1 in down)])
        if len(xs) < 3 or len(ys) < 3 or len(xs) * len(ys) > MAX_GRID:
            continue
        inside = [
            run
            for run in runs
            if run.table is None
            and xs[0] - TOUCH < (run.x0 + run.x1) / 2 < xs[-1] + TOUCH
            and ys[0] - TOUCH < (run.top + run.bottom) / 2 < ys[-1] + TOUCH
        ]
        table = _grid_table(inside, xs, ys, across, down, hyphenated)
        if table is None:
            continue
        first = min(run.order for run in inside)
        gone = {run.order for run in inside}
        runs = [run for run in runs if run.order not in gone]
        runs.append(Run(xs[0], ys[0], xs[-1], ys[-1], " ".join(run.text for run in inside), False, first, table))
        runs.sort(key=lambda run: run.order)
    return runs


def _grids(
    rules: Rules,
) -> list[tuple[list[tuple[float, float, float]], list[tuple[float, float, float]]]]:
    """Rules that touch each other, together."""
    across = _merged([(y, x0, x1) for x0, x1, y in rules.across])
    down = _merged([(x, y0, y1) for x, y0, y1 in rules.down])
    if len(across) + len(down) > MAX_RULES:
        return []
    parent = list(range(len(across) + len(down)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for i, (y, x0, x1) in enumerate(across):
        for j, (x, y0, y1) in enumerate(down):
            if x0 - TOUCH <= x <= x1 + TOUCH and y0 - TOUCH <= y <= y1 + TOUCH:
                parent[root(i)] = root(len(across) + j)
    found: dict[int, tuple[list[tuple[float, float, float]], list[tuple[float, float, float]]]] = {}
    for i, (y, x0, x1) in enumerate(across):
        found.setdefault(root(i), ([], []))[0].append((x0, x1, y))
    for j, (x, y0, y1) in enumerate(down):
        found.setdefault(root(len(across) + j), ([], []))[1].append((x, y0, y1))
    return [each for each in found.values() if each[0] and each[1]]


def _merged(rules: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Rules (place, start, end) on one line that touch, as one."""
    out: list[tuple[float, float, float]] = []
    for place, start, end in sorted(rules, key=lambda rule: (round(rule[0] / 1.5), rule[1])):
        if out and abs(out[-1][0] - place) < 1.6 and start <= out[-1][2] + TOUCH:
            out[-1] = (out[-1][0], out[-1][1], max(out[-1][2], end))
        else:
            out.append((place, start, end))
    return out


def _distinct(values: list[float]) -> list[float]:
    out: list[float] = []
    for value in sorted(values):
        if not out or value - out[-1] > TOUCH:
            out.append(value)
    return out


def _grid_table(
    runs: Sequence[Run], xs: Sequence[float], ys: Sequence[float], across: Sequence[tuple[float, float, float]],
    down: Sequence[tuple[float, float, float]], hyphenated: frozenset[str],
) -> Block | None:  # fmt: skip
    """Rows of a grid; cells that no rule divides are one, and repeated where they cover several rows or columns."""
    width, height = len(xs) - 1, len(ys) - 1
    parent = list(range(width * height))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for row in range(height):
        y = (ys[row] + ys[row + 1]) / 2
        for column in range(width):
            x = (xs[column] + xs[column + 1]) / 2
            if column + 1 < width and not any(
                abs(place - xs[column + 1]) <= TOUCH and y0 - TOUCH <= y <= y1 + TOUCH for place, y0, y1 in down
            ):
                parent[root(row * width + column + 1)] = root(row * width + column)
            if row + 1 < height and not any(
                abs(place - ys[row + 1]) <= TOUCH and x0 - TOUCH <= x <= x1 + TOUCH for x0, x1, place in across
            ):
                parent[root((row + 1) * width + column)] = root(row * width + column)
    cells: dict[int, list[Run]] = {}
    for run in runs:
        x, y = (run.x0 + run.x1) / 2, (run.top + run.bottom) / 2
        column = max(min(sum(1 for each in xs if each <= x) - 1, width - 1), 0)
        row = max(min(sum(1 for each in ys if each <= y) - 1, height - 1), 0)
        cells.setdefault(root(row * width + column), []).append(run)
    if len(cells) < 3:
        return None
    lines = {index: lines_of(inside) for index, inside in cells.items()}
    rows: list[list[str]] = []
    for row in range(height):
        roots = [root(row * width + column) for column in range(width)]
        if len(set(roots)) == 1 and roots[0] in cells and row and root((row - 1) * width) == roots[0]:
            continue  # one cell over the whole width and several rows
        if all(root((row - 1) * width + column) == roots[column] for column in range(width)) and row:
            continue  # a line drawn beside the table, not through it
        rows.extend(_grid_row(roots, lines, hyphenated))
    rows = [row for row in rows if any(row)]
    if len(rows) < 2 or max(sum(map(bool, row)) for row in rows) < 2:
        return None
    return Block("table", rows=rows, header=likely_header(rows))


def _grid_row(roots: Sequence[int], lines: dict[int, list[Line]], hyphenated: frozenset[str]) -> list[list[str]]:
    """One row of cells, or several where the rules leave out the divisions between rows that are plainly set."""
    counts = [len(lines[each]) for each in dict.fromkeys(roots) if each in lines]
    if len(set(roots)) > 1:
        if len(counts) >= 2 and min(counts) == max(counts) >= 3 and _level([lines[each] for each in dict.fromkeys(roots) if each in lines]):
            return [[lines[each][index].text if each in lines else "" for each in roots] for index in range(counts[0])]
        return [[join_lines([line.text for line in lines.get(each, ())], hyphenated) for each in roots]]
    return [[join_lines([line.text for line in lines.get(roots[0], ())], hyphenated), *[""] * (len(roots) - 1)]]


def _level(columns: Sequence[Sequence[Line]]) -> bool:
    """Whether the lines of all columns stand side by side."""
    return all(
        abs((line.top + line.bottom) - (columns[0][index].top + columns[0][index].bottom)) < line.height
        for column in columns[1:]
        for index, line in enumerate(column)
    )


# -- blocks of one region --------------------------------------------------------------------------------------------


def _region_blocks(lines: list[Line], look: Look) -> list[Block]:
    blocks: list[Block] = []
    index = 0
    pending: list[Line] = []
    left, right = min((line.x0 for line in lines), default=0.0), max((line.x1 for line in lines), default=0.0)
    while index < len(lines):
        ruled = lines[index].runs[0].table
        if ruled is not None:
            blocks.extend(_paragraphs(pending, look, left, right))
            pending = []
            blocks.append(ruled)
            index += 1
            continue
        end = _table_end(lines, index)
        table = _table(lines[index:end]) if end else None
        if table is None:
            pending.append(lines[index])
            index += 1
            continue
        blocks.extend(_paragraphs(pending, look, left, right))
        pending = []
        blocks.append(table)
        index = end
    blocks.extend(_paragraphs(pending, look, left, right))
    return blocks


def _table_end(lines: Sequence[Line], start: int) -> int:
    """Index after the last line of the table that starts at `start`; 0 where none does."""
    if len(lines[start].runs) < 2:
        return 0
    end, index = start + 1, start + 1
    while index < len(lines) and index - end < 3:
        line, above = lines[index], lines[index - 1]
        if line.top - above.bottom > 3.0 * max(line.height, 1.0) or line.runs[0].table is not None:
            break
        if len(line.runs) >= 2:
            end = index + 1
        elif _crosses(line, lines[start:end]):
            break
        index += 1
    # Trailing single lines may be the wrapped end of the last row.
    many = sum(len(line.runs) >= 2 for line in lines[start:end])
    if many < 2:
        return 0
    while (
        end < len(lines) and len(lines[end].runs) == 1 and lines[end].runs[0].table is None and not _crosses(lines[end], lines[start:end])
    ):
        line, above = lines[end], lines[end - 1]
        if line.top - above.bottom > 0.3 * line.height or line.x0 < lines[start].x0 + 2 * line.height:
            break
        end += 1
    return end


def _crosses(line: Line, table: Sequence[Line]) -> bool:
    """Whether a single run lies over more than one column of the rows above it."""
    for other in reversed(table):
        if len(other.runs) >= 2:
            hits = sum(1 for run in other.runs if min(run.x1, line.x1) - max(run.x0, line.x0) > 0.3 * line.height)
            return hits > 1
    return False


def _table(lines: Sequence[Line]) -> Block | None:
    columns = _columns(lines)
    if len(columns) < 2:
        return None
    rows: list[list[str]] = []
    spans: list[list[tuple[int, int, str]]] = []
    for line in lines:
        cells = [""] * len(columns)
        span: list[tuple[int, int, str]] = []
        for run in line.runs:
            touched = [i for i, (x0, x1) in enumerate(columns) if min(run.x1, x1) - max(run.x0, x0) > 0]
            if not touched:
                centre = (run.x0 + run.x1) / 2
                touched = [min(range(len(columns)), key=lambda i: abs(centre - sum(columns[i]) / 2))]
            column = touched[0]
            text = _LEADERS.sub(" …", run.text)
            cells[column] = f"{cells[column]} {text}".strip() if not cells[column].endswith(SOFT_HYPHEN) else cells[column][:-1] + text
            span.append((touched[0], touched[-1], text))
        rows.append([cell.rstrip(SOFT_HYPHEN) for cell in cells])
        spans.append(span)
    if _is_prose(rows):
        return None
    rows, header = _fold(rows, spans, lines)
    return Block("table", rows=rows, header=header)


def _is_prose(rows: Sequence[Sequence[str]]) -> bool:
    """Two "columns" that are one sentence cut by a wide space in justified text: long on both sides, few rows."""
    full = [row for row in rows if sum(map(bool, row)) >= 2]
    return len(full) <= 2 and all(len(cell) > 45 for row in full for cell in row if cell)


def _columns(lines: Sequence[Line]) -> list[tuple[float, float]]:
    """x-ranges of a table's columns: where text lies in more than a few of its rows."""
    full = [line for line in lines if len(line.runs) >= 2]
    left, right = min(line.x0 for line in full), max(line.x1 for line in full)
    step = max(min(line.height for line in full) / 4, 0.5)
    count = int((right - left) / step) + 2
    if count > MAX_STEPS:
        return []
    covered = [0] * (count + 1)
    for line in full:
        for run in line.runs:
            covered[max(int((run.x0 - left) / step), 0)] += 1
            covered[min(int((run.x1 - left) / step) + 1, count)] -= 1
    limit = 0.15 * len(full) if len(full) >= 7 else 0
    columns: list[tuple[float, float]] = []
    total = 0
    start = -1
    for index in range(count + 1):
        total += covered[index]
        if total > limit and start < 0:
            start = index
        elif total <= limit and start >= 0:
            columns.append((left + start * step, left + index * step))
            start = -1
    return columns


def _fold(rows: list[list[str]], spans: list[list[tuple[int, int, str]]], lines: Sequence[Line]) -> tuple[list[list[str]], bool]:
    """Rows with stacked header lines made one and wrapped cells put back together."""
    first = next((i for i, row in enumerate(rows) if any(_is_number(cell) for cell in row)), len(rows))
    heads = first if first <= 5 and first < len(rows) else 0
    folded: list[list[str]] = []
    if heads:
        head = [""] * len(rows[0])
        for span in spans[:heads]:
            for start, end, text in span:
                for column in range(start, end + 1):
                    head[column] = join_lines(list(filter(None, (head[column], text))))
        folded.append([cell.replace(SOFT_HYPHEN, "") for cell in head])
    for index, row in enumerate(rows[heads:], heads):
        if folded and len(folded) > bool(heads):
            last = folded[-1]
            gap = lines[index].top - lines[index - 1].bottom
            tight = gap < 0.3 * lines[index].height
            filled = [i for i, cell in enumerate(row) if cell]
            numbers = any(_is_number(cell) for cell in row)
            wrapped_cells = tight and filled and filled[0] > 0 and not numbers
            wrapped_label = tight and filled == [0] and row[0][:1].islower()
            label_above = sum(map(bool, last)) == 1 and last[0] and row[0][:1].islower() and not last[0].endswith(":")
            if wrapped_cells or wrapped_label or label_above:
                folded[-1] = [" ".join(filter(None, pair)) for pair in zip(last, row, strict=True)]
                continue
        folded.append(row)
    return folded, bool(heads) or first == len(rows)


def _is_number(cell: str) -> bool:
    return bool(_NUMERIC.match(cell)) and not _YEAR.match(cell)


def _paragraphs(lines: Sequence[Line], look: Look, left: float, right: float) -> list[Block]:
    """Lines of running text between `left` and `right` → paragraphs, items and headings."""
    if not lines:
        return []
    gaps = [
        below.top - above.bottom
        for above, below in zip(lines, lines[1:], strict=False)
        if abs(above.height - below.height) < 0.1 * above.height
    ]
    close = sorted(gaps)[len(gaps) // 4] if gaps else 0.0
    groups: list[list[Line]] = []
    for line in lines:
        if groups and not _starts_anew(groups[-1], line, close, left, right):
            groups[-1].append(line)
        else:
            groups.append([line])
    return [_block(group, look) for group in groups]


def _starts_anew(group: Sequence[Line], line: Line, close: float, left: float, right: float) -> bool:
    last = group[-1]
    height = max(last.height, 1.0)
    below = -height < line.top - last.bottom < height and line.x0 < last.x1 and last.x0 < line.x1
    if below and last.text.endswith(SOFT_HYPHEN) and line.text[:1].islower():
        return False  # a word goes on, however its lines differ: a tick box makes one higher, small print the next lower
    if abs(line.height - last.height) > 0.07 * height:
        return True
    if line.bold != last.bold and (last.x1 < right - 3 * height or _ends(last.text)):
        return True  # otherwise a line wholly bold beside a mixed one is emphasis
    gap = line.top - last.bottom
    if gap > max(close, 0.0) + 0.4 * height or gap < -0.7 * height - abs(close):
        return True
    if last.text.endswith(SOFT_HYPHEN):
        return False
    if _BULLET.match(line.text):
        return True
    if _NUMBERED.match(line.text) and (_ends(last.text) or last.x1 < right - 4 * height or _is_item(group[0].text)):
        return True
    width = right - left
    if last.x1 < right - max(0.2 * width, 4 * height) and (_ends(last.text) or not line.text[:1].islower()):
        return True
    return _ends(last.text) and line.x0 > last.x0 + 0.8 * height and not _is_item(group[0].text)


def _ends(text: str) -> bool:
    return text.rstrip("\"'”’)] ").endswith((".", ":", "!", "?", "。", "！", "？", ";"))


def _is_item(text: str) -> bool:
    return bool(_BULLET.match(text) or _NUMBERED.match(text))


def _block(group: Sequence[Line], look: Look) -> Block:
    text = join_lines([line.text for line in group], look.words)
    text = _LEADERS.sub(" … ", text)
    level = _heading_level(group, text, look)
    if level:
        return Block("heading", text, level)
    bullet = _BULLET.match(text)
    if bullet and bullet.end() < len(text):
        return Block("item", text[bullet.end() :])
    if _NUMBERED.match(text) and len(text) > 3:
        return Block("item", text)
    return Block("paragraph", text)


def _heading_level(group: Sequence[Line], text: str, look: Look) -> int:
    """Level of a heading, 0 for anything else: an outline title, or few words set larger or bolder than the text."""
    if len(group) > 4 or len(text) > 200 or not _WORD.search(text):
        return 0
    known = look.outline.get(heading_key(text), 0)
    if known:
        return known
    words = len(text.split())
    if words > 20 or text.endswith((".", ",", ";")) or _BULLET.match(text):
        return 0
    if len(text) < 2 or sum(char.isalpha() for char in text) < 0.4 * len(text):
        return 0
    height = group[0].height
    for level, size in enumerate(look.levels, 1):
        if height >= size * 0.965:
            return level
    deepest = len(look.levels) + 1
    if all(line.bold for line in group) and not look.bold_body and words <= 14 and not text.endswith(":") and len(group) <= 2:
        return deepest
    return 0


def join_lines(lines: Sequence[str], hyphenated: frozenset[str] = frozenset()) -> str:
    """Lines of one paragraph as one; a word cut at a line's end is put back together."""
    out = ""
    for line in lines:
        if not out:
            out = line
        elif out.endswith(SOFT_HYPHEN) or (re.search("[^\\W\\d_][-\u2010]$", out) and line[:1].islower()):
            out = _mend(out[:-1], line, hyphenated)
        elif _is_wide(out[-1:]) and _is_wide(line[:1]):
            out += line  # Chinese and Japanese put no space between lines
        else:
            out = f"{out} {line}"
    return out.rstrip(SOFT_HYPHEN)


def _mend(before: str, after: str, hyphenated: frozenset[str]) -> str:
    head = re.search(r"[\w-]*$", before)
    tail = re.match(r"\w*", after)
    joined = f"{head.group() if head else ''}-{tail.group() if tail else ''}".lower()
    return f"{before}-{after}" if joined in hyphenated or (head and head.group()[-1:].isdigit()) else before + after


def _is_wide(char: str) -> bool:
    return "\u3000" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff" or "\uff00" <= char <= "\uffef"
