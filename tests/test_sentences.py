"""Sentences: spans on form alone, in any language, that a citation can stand on."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.sentences import sentences, units


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def test_a_full_stop_ends_a_sentence_and_an_abbreviation_does_not() -> None:
    """Quotes must be whole: "e.g." or "Mr." cut in two would be quoted as nonsense."""
    text = "Mr. Smith (e.g. our CEO) gets 3.5 days. See sec. 4 of No. 5 for more! Does J. R. Smith know? He does."
    assert split(text) == [
        "Mr. Smith (e.g. our CEO) gets 3.5 days.",
        "See sec. 4 of No. 5 for more!",
        "Does J. R. Smith know?",
        "He does.",
    ]


def test_no_as_a_word_ends_a_sentence() -> None:
    """ "No." before a number is an abbreviation, elsewhere it is an answer."""
    assert split("May I? No. Ask first. See No. 7.") == ["May I?", "No.", "Ask first.", "See No. 7."]


def test_a_company_or_a_time_may_end_a_sentence() -> None:
    """ "Inc." and "p.m." end a sentence before a capital letter and go on before a small one."""
    assert split("He joined Acme Inc. He left at 5 p.m. on Monday.") == ["He joined Acme Inc.", "He left at 5 p.m. on Monday."]


def test_full_width_stops_need_no_space() -> None:
    """Chinese and Japanese put no space after a sentence."""
    assert split("我们有二十天假期。请提前申请！好的。") == ["我们有二十天假期。", "请提前申请！", "好的。"]


def test_closing_quotes_stay_with_their_sentence() -> None:
    """The quote mark after the stop belongs to the sentence before it."""
    assert split('She said "Stop." Then she left. (It was late.) He stayed.') == [
        'She said "Stop."',
        "Then she left.",
        "(It was late.)",
        "He stayed.",
    ]


def test_list_items_and_rows_and_headings_are_sentences_of_their_own() -> None:
    """A sentence never runs from one item or row into the next; the mark of an item is not quoted."""
    text = (
        "Leave policy\n\n- Ten days part-time\n- Twenty days full-time. Ask HR.\n1. Open the form. Send it.\n\n"
        "| Role | Days |\n| Clerk | 10. |"
    )
    assert split(text) == [
        "Leave policy",
        "Ten days part-time",
        "Twenty days full-time.",
        "Ask HR.",
        "1. Open the form.",
        "Send it.",
        "| Role | Days |",
        "| Clerk | 10. |",
    ]


def test_a_spreadsheet_row_is_one_sentence() -> None:
    """ "Header: value" rows hold stops that end nothing."""
    assert split("Name: Ada B. Lovelace. | Team: R. D.\nName: Bo | Team: Sales") == [
        "Name: Ada B. Lovelace. | Team: R. D.",
        "Name: Bo | Team: Sales",
    ]


def test_a_wrapped_line_goes_on() -> None:
    """A text file wrapped at 70 columns is not cut at its line ends."""
    text = (
        "Employees who have worked here for more than one year may take up\nto ten days of unpaid leave. They ask\ntheir manager."
    )
    assert split(text) == [text.split(". ")[0] + ".", "They ask\ntheir manager."]


def test_mail_fields_are_sentences_of_their_own() -> None:
    """ "From" never runs into "To"."""
    assert split("Subject: Party\nFrom: Ada\nTo: Bo, Cy\nDate: 2025-03-04\n\nCome at 5.") == [
        "Subject: Party",
        "From: Ada",
        "To: Bo, Cy",
        "Date: 2025-03-04",
        "Come at 5.",
    ]


def test_german_dates_and_abbreviations_go_on() -> None:
    """Ordinals before a month, and "z.B."."""
    assert split("Am 3. März ist frei, z.B. für alle. Danach nicht.") == ["Am 3. März ist frei, z.B. für alle.", "Danach nicht."]


TEXT = st.text(alphabet=st.sampled_from("ab AB1.!?。\n\n-| ,:;()\"'…é漢"), max_size=200)


@settings(deadline=None)
@given(TEXT)
def test_spans_are_ordered_apart_trimmed_and_leave_nothing_out(text: str) -> None:
    """Every visible character is in exactly one sentence, but for the marks of list items."""
    spans = sentences(text)
    assert all(text[start:end] == text[start:end].strip() and start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
    left_out = list(text)
    for start, end in spans:
        left_out[start:end] = [" "] * (end - start)
    assert set("".join(left_out).split()) <= {"-"}


@settings(deadline=None)
@given(TEXT)
def test_units_hold_whole_sentences(text: str) -> None:
    """No sentence crosses a paragraph, an item or a row."""
    spans = units(text)
    assert all(any(first <= start and end <= last for first, last in spans) for start, end in sentences(text))
