"""A ladder → an SVG picture: each model's quality with its interval over the memory that it takes."""

from __future__ import annotations

from xml.sax.saxutils import escape

from evals.ladder import SHOWN_ANSWERS, Ladder, Rung, marks

WIDTH, LEFT, RIGHT, TOP, PLOT = 900, 64, 84, 48, 300  # pixels
LINE = 20  # pixels from one line of the legend to the next
RADIUS = 9
INK, FAINT, GRID, BEST, CHOSEN = "#1f2328", "#6e7781", "#d8dee4", "#0550ae", "#1a7f37"


def picture(found: Ladder, currency: str) -> str:
    """The picture as the text of an SVG file. Numbers in circles are the rows of the legend below."""
    memories = [each.memory for each in found.rungs if each.memory is not None]
    low, high = _ends(min(memories, default=0.0), max(memories, default=1.0), 0.1)
    values = [edge for each in found.rungs for edge in (each.score.low, each.score.high)]
    bottom, top = max(0.0, _floor(min(values) - 0.05)), min(1.0, _floor(max(values) + 0.1))
    height = TOP + PLOT + 48 + LINE * len(found.rungs)

    def x(memory: float) -> float:
        return LEFT + (memory - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(score: float) -> float:
        return TOP + (top - score) / (top - bottom) * PLOT

    title = f"{found.score} of {found.questions} questions, with 95 % intervals, over peak memory"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 26, title, INK, weight="600"),
    ]
    steps = round((top - bottom) * 10)
    for score in (bottom + each / 10 for each in range(steps + 1)):
        parts.append(_line(LEFT, y(score), WIDTH - RIGHT, y(score), GRID))
        parts.append(_text(LEFT - 8, y(score) + 4, f"{score:.1f}", FAINT, "end"))
    for memory in (low + (high - low) * each / 4 for each in range(5)):
        parts.append(_text(x(memory), TOP + PLOT + 20, f"{memory:,.0f} MB", FAINT, "middle"))
    edge = found.best.score.mean - found.margin
    if bottom <= edge <= top:
        parts.append(_line(LEFT, y(edge), WIDTH - RIGHT, y(edge), FAINT, dash="5 4"))
        parts.append(_text(WIDTH - RIGHT + 6, y(edge) + 4, f"best − {found.margin:g}", FAINT))
    drawn = [(number, each) for number, each in enumerate(found.rungs, 1) if each.memory is not None]
    for (number, each), across in zip(drawn, _apart([x(each.memory or 0) for _, each in drawn]), strict=True):
        colour = _colour(found, each)
        parts.append(_line(across, y(each.score.low), across, y(each.score.high), colour, width=2))
        parts.append(f'<circle cx="{across:.1f}" cy="{y(each.score.mean):.1f}" r="{RADIUS}" fill="{colour}"/>')
        parts.append(_text(across, y(each.score.mean) + 4, str(number), "#ffffff", "middle", size=11))
    for number, each in enumerate(found.rungs, 1):
        parts.append(_text(LEFT, TOP + PLOT + 34 + LINE * number, f"{number}  {_legend(found, each, currency)}", _colour(found, each)))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(found: Ladder, each: Rung, currency: str) -> str:
    words = marks(found, each)
    marked = f" ({', '.join(words)})" if words else ""
    facts = [f"{each.name}, {each.level}{marked}", f"{each.score.mean:.2f}"]
    facts += [f"{each.size:,.0f} MB on disk"] if each.size is not None else ["on a server, memory of this side"]
    facts += [f"{each.seconds['p50']:.1f} s"]
    if each.cost is not None:
        facts.append(f"about {each.cost * SHOWN_ANSWERS:.4f} {currency} a {SHOWN_ANSWERS:,} answers")
    return " · ".join(facts)


def _apart(places: list[float]) -> list[float]:
    """The places, each at least a circle to the right of the one before, so that models that take the same memory are all seen."""
    moved: dict[int, float] = {}
    last = float("-inf")
    for at in sorted(range(len(places)), key=lambda at: places[at]):
        last = moved[at] = max(places[at], last + 2 * RADIUS + 2)
    return [moved[at] for at in range(len(places))]


def _ends(least: float, most: float, room: float) -> tuple[float, float]:
    """The ends of an axis, with some room around what is on it."""
    spread = max(most - least, most * 0.1, 1.0)
    return max(0.0, least - room * spread), most + room * spread


def _floor(score: float) -> float:
    return int(score * 10) / 10


def _colour(found: Ladder, each: Rung) -> str:
    return CHOSEN if each is found.smallest else BEST if each is found.best else FAINT


def _text(x: float, y: float, words: str, colour: str, anchor: str = "start", weight: str = "400", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">'
        f"{escape(words)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashed}/>'
