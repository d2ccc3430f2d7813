"""The catalog: what was put in comes out, is found by its words, and leaves without a trace."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import IndexDamaged
from ingest.catalog import PACK_ROWS, Catalog, Draft, DraftPassage, check, keyword_query
from ingest.types import Heading, Page, ParsedDocument, ParseFailure, SourceFile, Table


def file(path: str, source: str = "docs") -> SourceFile:
    return SourceFile(source, path, Path("/files") / path, 10, 20, f"hash of {path}")


def parsed(*texts: str, title: str = "Title") -> ParsedDocument:
    return ParsedDocument(
        "txt", title, tuple(Page(number, text) for number, text in enumerate(texts, 1)), date="2025-01-02", people=("Ada",)
    )


def whole(document: ParsedDocument, section: str = "") -> list[DraftPassage]:
    """One passage a page."""
    return [DraftPassage(at, 0, len(page.text), section, "", page.text, b"k") for at, page in enumerate(document.pages) if page.text]


def built(path: Path, documents: dict[str, str], **options: str) -> Catalog:
    draft = Draft(path)
    for name, text in documents.items():
        document = parsed(text)
        draft.add(file(name), document, whole(document, **options), added="2025-01-01T00:00:00Z")
    draft.seal()
    return Catalog.open(path)


def found(catalog: Catalog, question: str, **options: set[int]) -> list[str]:
    return [each.document for each in catalog.passages([number for number, _ in catalog.search_keywords(question, 10, **options)])]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    """Pages with their numbers, headings and tables; empty pages too, so that numbers stay right."""
    draft = Draft(tmp_path / "c.sqlite")
    pages = (Page(1, "One two.", (Heading(0, 1, "One"),), (Table(0, 3, "h"),)), Page(2, ""), Page(3, "Three."))
    document = ParsedDocument("pdf", "T", pages, date="2025-01-02", people=("Ada",), warnings=("page 2 has no text",))
    passages = [
        DraftPassage(0, 0, 4, "S", "c", "One ", b"1"),
        DraftPassage(0, 4, 8, "S", "c", "two.", b"2"),
        DraftPassage(2, 0, 6, "", "", "Three.", b"3"),
    ]
    draft.add(file("a.pdf"), document, passages, added="now")
    draft.fail(file("b.pdf"), ParseFailure("encrypted", "It is encrypted.", "Remove the password."), added="now")
    draft.seal()
    catalog = Catalog.open(tmp_path / "c.sqlite")
    a, b = catalog.documents()
    assert (a.document, a.pages, a.passages, a.tables, a.date, a.people, a.warnings) == (
        "a.pdf",
        3,
        3,
        1,
        "2025-01-02",
        ("Ada",),
        ("page 2 has no text",),
    )
    assert (a.owner, a.groups, a.absolute) == ("local", (), Path("/files/a.pdf"))
    assert (b.status, b.reason, b.cure, b.passages) == ("failed", "It is encrypted.", "Remove the password.", 0)
    assert catalog.pages(a.id) == list(pages)
    assert catalog.page(a.id, 2) == pages[1]
    first, second, third = catalog.passages_of(a.id)
    assert (second.text, second.page, second.start, second.end, second.section, second.context, second.date) == (
        "two.",
        1,
        4,
        8,
        "S",
        "c",
        "2025-01-02",
    )
    assert catalog.neighbours(second.id) == [first, third] and catalog.neighbours(first.id) == [second]
    assert catalog.passages([third.id, 999, first.id]) == [third, first]
    with pytest.raises(KeyError):
        catalog.page(a.id, 7)


def test_words_are_found_by_their_stem_and_without_accents(tmp_path: Path) -> None:
    """ "Reimbursements" finds "reimbursed", "resume" finds "résumé"."""
    catalog = built(tmp_path / "c.sqlite", {"a.txt": "Travel is reimbursed.", "b.txt": "Send your résumé."})
    assert found(catalog, "reimbursements") == ["a.txt"]
    assert found(catalog, "resume") == ["b.txt"]


def test_words_inside_a_chinese_sentence_are_found(tmp_path: Path) -> None:
    """Chinese has no spaces, so pairs of characters are indexed; one character alone is found too."""
    catalog = built(
        tmp_path / "c.sqlite",
        {"a.txt": "员工每年有二十天带薪休假。", "b.txt": "出差费用由公司报销。", "c.txt": "有給休暇は二十日です。"},
    )
    assert found(catalog, "带薪休假有多少天？")[0] == "a.txt"
    assert found(catalog, "报销") == ["b.txt"]
    assert found(catalog, "有給休暇")[0] == "c.txt"
    assert found(catalog, "司") == ["b.txt"]


def test_titles_sections_and_file_names_are_found(tmp_path: Path) -> None:
    """A document is found by what it is called, not only by what it says."""
    catalog = built(
        tmp_path / "c.sqlite",
        {"hr/parental_leave-2025.txt": "Ask your manager.", "b.txt": "Ask somebody."},
        section="Sabbaticals",
    )
    assert found(catalog, "parental") == ["hr/parental_leave-2025.txt"]
    assert len(found(catalog, "sabbatical")) == 2


def test_a_compound_name_beats_its_parts(tmp_path: Path) -> None:
    """ "KB-2024-17" means that one and not every text with a 17 in it."""
    catalog = built(
        tmp_path / "c.sqlite",
        {"a.txt": "Form 17 of 2024, not KB.", "b.txt": "See KB-2024-17 now okay.", "c.txt": "KB 17 and 2024 17 KB."},
    )
    assert found(catalog, "What is KB-2024-17?")[0] == "b.txt"


def test_a_filter_works_inside_the_index(tmp_path: Path) -> None:
    """With one document allowed, its passages fill the list, however many better ones others hold."""
    catalog = built(tmp_path / "c.sqlite", {f"{number}.txt": "leave " * (20 - number) for number in range(15)})
    last = next(each.id for each in catalog.documents() if each.document == "14.txt")
    assert found(catalog, "leave", document_ids={last}) == ["14.txt"]
    assert found(catalog, "leave", document_ids=set()) == []
    assert [each.document for each in catalog.passages(catalog.passage_ids({last}))] == ["14.txt"]


def test_a_broad_filter_gives_what_the_list_without_one_holds_of_it(tmp_path: Path) -> None:
    """However the list is made: all but one document allowed, half of them with all the best ones left out, or a few; also twice."""
    catalog = built(tmp_path / "c.sqlite", {f"{number:03}.txt": "leave " * (120 - number) + "days" for number in range(120)})
    every = [each.id for each in catalog.documents()]
    ranked = catalog.search_keywords("leave days", 1000)
    places = catalog.documents_of([number for number, _ in ranked])
    for some in (every[1:], every[60:], every[:60], every[::2], every[110:], []):
        for keep in (1, 10, 70):
            assert catalog.search_keywords("leave days", keep, some) == [hit for hit in ranked if places[hit[0]] in set(some)][:keep]
        for _ in range(2):
            assert list(catalog.passage_ids(some)) == sorted(number for number, document in places.items() if document in set(some))


def test_a_filter_costs_no_search_for_each_passage_allowed(tmp_path: Path) -> None:
    """With nearly all of a collection allowed, SQLite searched the words anew for each passage: four seconds in place of a hundredth."""
    texts = [f"Rule {number} is about travel." for number in range(500)] + ["Rule about leave."] * 5
    draft, document = Draft(tmp_path / "c.sqlite"), parsed(*texts)
    draft.add(file("a.txt"), document, whole(document), added="now")
    draft.seal()
    database = sqlite3.connect(tmp_path / "c.sqlite")
    catalog, steps = Catalog(database), [0]

    def count() -> int:
        steps[0] += 1
        return 0

    database.set_progress_handler(count, 1)  # called at each instruction of SQLite's machine
    everything = catalog.search_keywords("leave", 10)
    steps_without, steps[0] = steps[0], 0
    assert catalog.search_keywords("leave", 10, {each.id for each in catalog.documents()}) == everything
    assert len(everything) == 5 and 0 < steps[0] < 3 * steps_without  # a search for each passage allowed took 100 times as many
    catalog.close()


@settings(deadline=None)
@given(st.text(max_size=60))
def test_a_question_is_never_query_syntax(text: str) -> None:
    """Quotes, stars, NEAR, AND, column names: all of it is only words."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE words USING fts5 (heading, text, bigrams)")
    query = keyword_query(text)
    if query:
        database.execute("SELECT * FROM words WHERE words MATCH ?", (query,)).fetchall()
    database.close()


def test_stop_words_alone_still_search(tmp_path: Path) -> None:
    """ "Who are we?" has nothing but stop words; then they count."""
    catalog = built(tmp_path / "c.sqlite", {"a.txt": "Who we are.", "b.txt": "Pizza."})
    assert found(catalog, "who are we?") == ["a.txt"]


def test_what_is_removed_leaves_no_trace(tmp_path: Path) -> None:
    """Neither a row, nor a weight in the ranking, nor the words in the file's bytes."""
    path = tmp_path / "c.sqlite"
    built(path, {"a.txt": "Leave is ten days.", "b.txt": "The zanzibar project is about leave and leave."}).close()
    draft = Draft(path)
    gone = next(each for each in draft.documents() if each.path == "b.txt")
    draft.remove(gone.id)
    draft.seal()
    catalog, clean = Catalog.open(path), built(tmp_path / "clean.sqlite", {"a.txt": "Leave is ten days."})
    assert [score for _, score in catalog.search_keywords("leave", 5)] == [score for _, score in clean.search_keywords("leave", 5)]
    assert found(catalog, "zanzibar") == []
    assert b"zanzibar" not in path.read_bytes()
    assert check(path) == []


def test_a_large_index_that_is_not_packed_finds_and_ranks_as_if_it_were(tmp_path: Path) -> None:
    """Packing a million passages for one that went took a minute. Until it is packed what is gone is found no more and weighs nothing,
    but its words are in the file; erasing packs, and so does the refresh after which a fiftieth has changed."""
    rows = ["leave " * (number % 5) + f"row{number}" for number in range(PACK_ROWS + 1_000)]
    draft = Draft(tmp_path / "c.sqlite")
    for name, texts in (("a.txt", rows), ("b.txt", ["zanzibar leave leave"])):
        document = parsed(*texts)
        draft.add(file(name), document, whole(document), added="now")
    draft.seal()
    found_by: dict[str, list[tuple[int, float]]] = {}
    for name in ("loose", "erased", "much"):
        path = tmp_path / name
        path.write_bytes((tmp_path / "c.sqlite").read_bytes())
        draft = Draft(path)
        draft.remove(next(each for each in draft.documents() if each.path == "b.txt").id)
        if name == "much":
            document = parsed(*["more"] * 1_000)
            draft.add(file("c.txt"), document, whole(document), added="now")
        draft.seal(erase=name == "erased")
        catalog = Catalog.open(path)
        assert found(catalog, "zanzibar") == [] and catalog.fact("unpacked") == ("1" if name == "loose" else "0")
        found_by[name] = catalog.search_keywords("leave row17", 50)
        assert (b"zanzibar" in path.read_bytes()) == (name == "loose") and check(path) == []
    assert found_by["loose"] == found_by["erased"] and found_by["loose"]


def test_a_moved_document_is_found_by_its_new_name(tmp_path: Path) -> None:
    """And no longer by the old one."""
    path = tmp_path / "c.sqlite"
    built(path, {"budget.txt": "Numbers."}).close()
    draft = Draft(path)
    draft.move(draft.documents()[0].id, file("forecast.txt"))
    draft.seal()
    catalog = Catalog.open(path)
    assert found(catalog, "forecast") == ["forecast.txt"] and found(catalog, "budget") == []


def test_a_path_is_shown_with_its_source_only_where_two_share_it(tmp_path: Path) -> None:
    """The contract's rule for `document` in every output."""
    draft = Draft(tmp_path / "c.sqlite")
    for source, path in (("hr", "a.txt"), ("it", "a.txt"), ("it", "b.txt")):
        draft.add(file(path, source), parsed("x"), whole(parsed("x")), added="now")
    draft.seal()
    assert [each.document for each in Catalog.open(tmp_path / "c.sqlite").documents()] == ["b.txt", "hr/a.txt", "it/a.txt"]


def test_globs_match_names_as_people_type_them(tmp_path: Path) -> None:
    """A bare name finds the file in its folder; case does not count; brackets in a name can be given as they are."""
    catalog = built(tmp_path / "c.sqlite", {"hr/Leave.txt": "x", "hr/pay [old].txt": "x", "it/vpn.md": "x"})
    names = {each.id: each.document for each in catalog.documents()}
    for glob, wanted in {
        "leave.txt": {"hr/Leave.txt"},
        "hr/*": {"hr/Leave.txt", "hr/pay [old].txt"},
        "*.md": {"it/vpn.md"},
        "hr/pay [old].txt": {"hr/pay [old].txt"},
        "docs/it/*": {"it/vpn.md"},
        "nothing": set(),
    }.items():
        assert {names[each] for each in catalog.match(glob)} == wanted, glob


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    """Not "nothing found"."""
    (tmp_path / "c.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(IndexDamaged):
        Catalog.open(tmp_path / "c.sqlite")
    assert check(tmp_path / "c.sqlite")


def test_each_passage_is_traced_to_its_document(tmp_path: Path) -> None:
    """What retrieval needs to let a document speak for its passages; numbers that are not there are left out."""
    catalog = built(tmp_path / "c.sqlite", {"a.txt": "one", "b.txt": "two"})
    owners = {passage.id: each.id for each in catalog.documents() for passage in catalog.passages_of(each.id)}
    assert catalog.documents_of([*owners, 999]) == owners


def test_a_name_written_in_one_word_is_found_by_its_two(tmp_path: Path) -> None:
    """Files are called "BESTBUY_2019.pdf"; a year stuck to letters in a question is a year."""
    texts = {"OAKTREE_2019.txt": "inventories 5,409", "OAKTREE_2018.txt": "cash", "elm.txt": "nothing of it"}
    catalog = built(tmp_path / "c.sqlite", texts)
    assert found(catalog, "What did Oak Tree have in FY2019?")[0] == "OAKTREE_2019.txt"
    assert '"ofthe"' not in keyword_query("the head of the school")
