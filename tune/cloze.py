"""Passage → made questions with their answers (a sentence with something left out), and questions turned wrong on purpose.

Rules only, no model: rough English, but it teaches what stands where, and that every word of a question counts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
NUMBER_WORDS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand|million|billion"
)
PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("date", re.compile(rf"\b(?:\d{{1,2}} )?(?:{MONTHS})(?: \d{{1,2}}(?:st|nd|rd|th)?)?,? \d{{4}}\b")),
    ("year", re.compile(r"(?<=[Ii]n )(?:1[5-9]|20)\d\d\b|(?<=[Ss]ince )(?:1[5-9]|20)\d\d\b")),
    ("percent", re.compile(r"\b\d+(?:\.\d+)? ?(?:%|percent|per cent)")),
    ("money", re.compile(r"[$€£]\s?\d[\d,.]*\d(?: (?:million|billion))?")),
    ("duration", re.compile(rf"\b(?:\d+|{NUMBER_WORDS}) (?:days?|weeks?|months?|years?|hours?|minutes?)\b")),
    ("count", re.compile(rf"\b(?:\d[\d,]*(?:\.\d+)?|{NUMBER_WORDS})(?= [a-z]+s\b)")),
    ("name", re.compile(r"\b[A-Z][\w’'-]+(?: (?:of |the |and |de |von |for )?[A-Z][\w’'-]+)*\b")),
    ("purpose", re.compile(r"(?<=[a-z] )(?:in order )?to [a-z]+(?: [\w’'-]+){2,9}(?=[.,;])")),
    ("reason", re.compile(r"(?<=[a-z] )(?:because|due to|as a result of)(?: [\w’'-]+){2,11}(?=[.,;])")),
    ("means", re.compile(r"(?<=[a-z] )by [a-z]+ing(?: [\w’'-]+){1,9}(?=[.,;])")),
    ("thing", re.compile(r"(?:(?<= the )|(?<= [aA]n )|(?<= (?:by|of|as|to|in) ))(?:[a-z][a-z-]{2,} ){0,3}[a-z][a-z-]{3,}\b")),
)
ASK: dict[str, tuple[str, ...]] = {
    "date": ("when", "on what date", "what date"),
    "year": ("when", "in what year", "what year", "in which year"),
    "percent": ("what percentage", "how much", "what proportion"),
    "money": ("how much", "how much money", "what amount"),
    "duration": ("how long", "how much time", "for how long"),
    "count": ("how many",),
    "name": ("what",),  # see ask_for_name
    "purpose": ("why", "for what purpose", "what for", "to do what"),
    "reason": ("why", "for what reason", "due to what"),
    "means": ("how", "by what means", "in what way"),
    "thing": ("what",),
}
AUXILIARIES = frozenset("is are was were has have had can could will would may might must should does did do".split())
FUNCTION_WORDS = frozenset(
    """a an the and or but of in on at to for from by with as that which who whose this these those it its their his her they
    we you our your not no be been being is are was were has have had can could will would may might must should do
    does did also such than then there here when where while if into over under between among about after before
    during both each any all some more most other""".split()
)
NEVER_START = frozenset(
    "the this that these those it its they we you he she in on at for however although while when if as our your his her their "
    "there such some many most both each all a an but and or with from after before during since to by i".split()
)
OPPOSITES = [
    each.split("/")
    for each in """before/after first/last most/least more/less increase/decrease increased/decreased highest/lowest higher/lower
    largest/smallest larger/smaller large/small high/low north/south northern/southern east/west eastern/western
    always/never early/late oldest/newest old/new begin/end began/ended started/stopped accept/reject
    accepted/rejected allowed/forbidden allow/forbid can/cannot is/isn't was/wasn't are/aren't were/weren't
    did/didn't does/doesn't with/without same/different male/female men/women public/private internal/external
    positive/negative strong/weak stronger/weaker long/short won/lost victory/defeat above/below maximum/minimum
    upper/lower primary/secondary major/minor common/rare inside/outside arrived/left entered/left born/killed
    support/oppose supported/opposed rich/poor majority/minority best/worst easy/hard full/empty gained/lost
    created/destroyed legal/illegal direct/indirect require/prohibit required/prohibited known/unknown
    successful/unsuccessful dependent/independent active/inactive complete/incomplete possible/impossible
    able/unable agree/disagree start/finish open/closed buy/sell""".split()
]
OPPOSITE = {one: other for left, right in OPPOSITES for one, other in ((left, right), (right, left))}
SYNONYMS = [
    " ".join(each.split()).split("/")
    for each in """use/employ/apply; used/employed/applied; shows/demonstrates/indicates; showed/found/revealed; large/big/great;
    small/little; founded/established/set up/created; begin/start; began/started; end/finish;
    important/significant/major/key; collect/gather/obtain; collected/gathered/obtained; share/disclose/give;
    shared/disclosed/given; many/numerous; called/named/known as; people/persons/individuals;
    country/nation/state; help/assist/aid; need/require; needs/requires; buy/purchase; get/receive/obtain;
    got/received/obtained; make/produce/create; made/produced/created; caused/led to/resulted in; causes/leads
    to; reduce/lower/decrease; reduced/lowered/decreased; increase/raise; increased/rose/grew;
    information/data/details; children/kids/minors; website/site; company/firm/business;
    contains/includes/holds; include/contain/comprise; provide/offer/supply; provided/offered/gave;
    method/way/approach; illness/disease/sickness; patients/sick people; study/investigation/research;
    area/region; build/construct; built/constructed; usually/typically/generally; kill/destroy;
    keep/retain/store; kept/retained/stored; change/alter/modify; changed/altered/modified; allow/permit/let;
    allowed/permitted; several/a number of; members/people; goal/aim/purpose""".split(";")
]
SYNONYM = {word: tuple(other for other in row if other != word) for row in SYNONYMS for word in row if " " not in word}
NAME = dict(PATTERNS)["name"]
# What a name says about what it names, so that "who" is asked for people only.
TITLES = frozenset("mr mrs ms dr doctor professor president king queen sir saint pope general prince princess emperor lord lady".split())
FIRST_NAMES = frozenset(
    """john james robert michael william david richard joseph thomas charles christopher daniel matthew anthony mark donald steven
    paul andrew joshua kenneth kevin brian george edward ronald timothy jason jeffrey ryan jacob gary nicholas eric jonathan
    stephen larry justin scott brandon benjamin samuel gregory frank alexander raymond patrick jack dennis jerry peter henry
    arthur albert walter louis philip francis isaac martin simon hugh oliver leonard frederick karl hans jean pierre jacques
    antoine antonio jose juan carlos luis marco maria mary anna anne elizabeth jennifer linda barbara susan jessica sarah karen
    lisa nancy betty margaret sandra ashley emily donna michelle carol amanda melissa deborah stephanie rebecca laura helen
    sharon cynthia kathleen amy angela ruth emma alice julia grace rose jane catherine victoria charlotte eleanor marie ali
    muhammad mohammed ahmed hassan omar ibrahim abraham moses jan johann johannes friedrich heinrich otto ludwig ivan dmitri""".split()
)
HEADS = frozenset(
    """university college school institute company corporation party court council commission committee agency department
    ministry union act treaty war battle church castle palace museum hospital river sea ocean island street avenue house hall
    library theatre center centre foundation association society bank law theorem theory machine problem virus protein syndrome
    disease study trial network service program project system policy program award prize league club team""".split()
)
DIGITS = re.compile(r"\d[\d,.]*\d|\d")
LONGEST_CLAUSE = 22  # words of one made question


def cloze(text: str, sentences: Sequence[tuple[int, int]], number: int, chance: random.Random) -> list[tuple[str, int, int]]:
    """Up to `number` questions about a passage: (question, start, end), where text[start:end] answers it."""
    found = []
    for left, right in chance.sample(list(sentences), min(len(sentences), 2 * number)):
        sentence = text[left:right]
        if not 40 <= len(sentence) <= 400 or sentence.count(" ") < 6:
            continue
        spans = answers(sentence)
        if not spans:
            continue
        kind, start, end = chance.choice(spans)
        if text.count(sentence[start:end]) > 2 and kind in ("name", "thing"):
            continue  # what the passage speaks of all the time is no answer to one question
        question = ask(sentence, kind, start, end, chance)
        if question is not None:
            found.append((question, left + start, left + end))
        if len(found) == number:
            break
    return found


def answers(sentence: str) -> list[tuple[str, int, int]]:
    """What could be asked for: (kind, start, end), one kind a place, at most three of each kind."""
    found: list[tuple[str, int, int]] = []
    for kind, pattern in PATTERNS:
        mine = []
        for match in pattern.finditer(sentence):
            start, end = match.span()
            words = match.group().split()
            if any(start < right and left < end for _, left, right in found):
                continue
            if kind == "name" and start == 0 and words[0].lower() in NEVER_START:
                continue
            if kind == "name" and start == 0 and len(words) == 1:
                continue
            if kind == "thing" and any(each in FUNCTION_WORDS or each.endswith("ly") for each in words):
                continue
            mine.append((kind, start, end))
        found.extend(mine[:3])
    return found


def ask(sentence: str, kind: str, start: int, end: int, chance: random.Random) -> str | None:
    """The sentence around sentence[start:end], turned into a question for it; None where too little is left to ask with."""
    low = max((sentence.rfind(mark, 0, start) for mark in (";", ":", "(", ", ", " – ")), default=-1)
    if low >= 0 and start - low < 25:  # a clause of a few words says too little: take the one before too
        low = max((sentence.rfind(mark, 0, low) for mark in (";", ":", "(", ", ", " – ")), default=-1)
    ends = [each for each in (sentence.find(mark, end) for mark in (";", ":", ")", ", ", " – ")) if each >= 0]
    high = min(ends) if ends else len(sentence)
    left = re.sub(r"[^\w%$€£'’-]+", " ", sentence[low + 1 : start]).split()
    right = re.sub(r"[^\w%$€£'’-]+", " ", sentence[end:high]).split()
    if left and left[0].lower() in ("and", "but", "or", "however", "that", "which", "because", "while"):
        left = left[1:]
    if left and left[0].lower() in NEVER_START:
        left[0] = left[0].lower()
    if left and left[-1] in ("a", "an", "the"):
        left = left[:-1]
    if chance.random() < 0.5:
        right = right[: chance.randint(2, 8)]
    left = left[-LONGEST_CLAUSE:]
    right = right[: max(0, LONGEST_CLAUSE - len(left))]
    if sum(each.lower() not in FUNCTION_WORDS for each in left + right) < 3:
        return None
    word = chance.choice(ASK[kind])
    if kind == "name":
        word = ask_for_name(sentence[start:end], left, chance)
    elif kind == "count" and right:
        word = f"how many {right[0]}"
        right = right[1:]
    elif kind in ("year", "date") and left and left[-1] in ("in", "on", "since"):
        if left[-1] != "since":
            left = left[:-1]
        elif word.startswith(("in ", "on ")):
            word = "when"
    left, right = loosened(left, chance), loosened(right, chance)
    auxiliary = next((n for n, each in enumerate(left) if each in AUXILIARIES and n), None)
    if not left:
        words = [word, *right]
    elif auxiliary is not None and chance.random() < 0.75:
        words = [word, left[auxiliary], *left[:auxiliary], *left[auxiliary + 1 :], *right]
    elif chance.random() < 0.7:
        words = [*left, word, *right]
    else:
        words = [word, *left, *right]
    question = " ".join(each for each in words if each)
    return question[:1].upper() + question[1:] + ("?" if chance.random() < 0.9 else "")


def ask_for_name(name: str, left: Sequence[str], chance: random.Random) -> str:
    """The question word for a name after the words `left`: who, where, which university, or what."""
    words = name.split()
    if words[0].lower() in FIRST_NAMES | TITLES or (left and left[-1].lower() in TITLES):
        return chance.choice(("whom", "who")) if left and left[-1] in ("by", "with", "to", "for") else "who"
    if len(words) > 1 and words[-1].lower() in HEADS:
        head = words[-1].lower()
        return chance.choice((f"which {head}", f"what {head}", f"what is the name of the {head}", "what"))
    if left and left[-1] in ("in", "at", "near", "from"):
        return chance.choice(("where", "what place", "which place", "what"))
    return "what"


def loosened(words: Sequence[str], chance: random.Random) -> list[str]:
    """The words with some replaced by near ones and some small ones left out, so that copying is not enough."""
    if chance.random() < 0.3:
        return list(words)
    kept = []
    for word in words:
        if word.lower() in FUNCTION_WORDS - AUXILIARIES and chance.random() < 0.12:
            continue
        near = SYNONYM.get(word.lower())
        kept.append(chance.choice(near) if near and chance.random() < 0.5 else word)
    return kept


def perturb(question: str, names: str, chance: random.Random) -> str | None:
    """The question with one name, number or word changed so that its passage no longer answers it; None where nothing could be.

    `names`: text to take other names from.
    """
    ways = [swap_name, swap_number, swap_opposite]
    chance.shuffle(ways)
    for way in ways:
        changed = way(question, names, chance)
        if changed is not None and changed != question:
            return changed
    return None


def swap_name(question: str, names: str, chance: random.Random) -> str | None:
    """Another name from `names` for one of the question's, not its first word."""
    mine = [each for each in NAME.finditer(question) if each.start() > 0]
    if not mine:
        return None
    place = chance.choice(mine)
    size = len(place.group().split())
    others = [
        each.group()
        for each in NAME.finditer(names)
        if each.group().split()[0].lower() not in NEVER_START and each.group() not in question
        and place.group() not in each.group() and abs(len(each.group().split()) - size) <= 1
    ]  # fmt: skip
    if not others:
        return None
    return question[: place.start()] + chance.choice(others) + question[place.end() :]


def swap_number(question: str, names: str, chance: random.Random) -> str | None:
    """Another number of as many digits for one of the question's. `names` is not used."""
    mine = list(DIGITS.finditer(question))
    if not mine:
        return None
    place = chance.choice(mine)
    digits = [each if not each.isdigit() else str(chance.randint(0, 9)) for each in place.group()]
    if place.group()[:2] in ("19", "18", "20", "17") and len(place.group()) == 4:
        digits[:2] = place.group()[:2]
    elif digits[0] == "0":
        digits[0] = "3"
    return question[: place.start()] + "".join(digits) + question[place.end() :]


def swap_opposite(question: str, names: str, chance: random.Random) -> str | None:
    """The opposite of one word. `names` is not used."""
    mine = [each for each in re.finditer(r"[A-Za-z]+", question) if each.group() in OPPOSITE]
    if not mine:
        return None
    telling = [each for each in mine if each.group() not in AUXILIARIES]
    if not telling and chance.random() < 0.8:  # a bare "not" is the easy one: too many of it would teach only that
        return None
    place = chance.choice(telling or mine)
    return question[: place.start()] + OPPOSITE[place.group()] + question[place.end() :]
