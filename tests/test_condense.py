"""Follow-ups stand alone after condensing; questions that already do are left alone."""

import pytest

from rag.condense import condense
from rag.types import Turn


def asked(*questions: str) -> list[Turn]:
    return [turn for each in questions for turn in (Turn("user", each), Turn("assistant", "An answer about bananas."))]


def test_a_question_without_a_past_is_left_as_it_is() -> None:
    assert condense("And for interns?", []) == "And for interns?"


def test_a_follow_up_gets_the_topic() -> None:
    result = condense("And for interns?", asked("How many days of parental leave do employees get?"))

    assert result.startswith("And for interns?")
    assert all(word in result for word in ("parental", "leave", "days"))


def test_a_pronoun_is_given_what_it_stands_for() -> None:
    assert "expense" in condense("Who has to approve it before it is paid out?", asked("What does the expense policy say about taxis?"))


def test_a_new_question_in_a_conversation_is_not_mixed_with_the_old_one() -> None:
    question = "What is the notice period for permanent engineers?"

    assert condense(question, asked("How many days of parental leave do employees get?")) == question


@pytest.mark.parametrize("question", ["How much is paid for hotels?", "What do I do in case of a fire?", "Who drives the launch?"])
def test_a_short_question_of_its_own_is_left_alone(question: str) -> None:
    """Seen: after a question about leave, "How much is paid for hotels?" was searched among leave passages and refused."""
    assert condense(question, asked("How many days of parental leave do employees get?")) == question


def test_a_chain_of_follow_ups_keeps_the_first_topic() -> None:
    result = condense("And in Paris?", asked("What is the hotel limit in Berlin?", "And in Rome?"))

    assert "hotel" in result and "limit" in result


def test_what_the_assistant_said_is_not_searched_for() -> None:
    assert "bananas" not in condense("And for interns?", asked("How many days of parental leave do employees get?"))


def answered(*pairs: tuple[str, str]) -> list[Turn]:
    return [turn for question, answer in pairs for turn in (Turn("user", question), Turn("assistant", answer))]


@pytest.mark.parametrize(
    ("earlier", "question", "gone", "kept"),
    [
        ("What does error code E02 mean?", "And E21?", "02", "error"),
        ("How many bikes are in the demo fleet in Leith?", "And in Bremen?", "Leith", "demo"),
        ("What is the limit under the 2025 policy?", "No, I meant 2023.", "2025", "limit"),
        ("How heavy is the Heron?", "And the Wren?", "Heron", "heavy"),
    ],
)
def test_what_a_follow_up_puts_in_its_place_is_searched_no_more(earlier: str, question: str, gone: str, kept: str) -> None:
    """Seen: "And E21?" after E02 found both rows, "I meant 420" after 410 the wrong one first."""
    result = condense(question, asked(earlier))

    assert gone not in result and kept in result


def test_a_correction_is_searched_without_its_opening() -> None:
    assert condense("Sorry, I meant the director.", asked("What may a manager sign?")).startswith("the director.")


def test_he_and_she_are_given_the_name_that_the_answer_gave() -> None:
    result = condense("What is her extension?", answered(("Who runs IT?", "The IT lead is Ewa Kowalczyk, who came in 2015.")))

    assert "Ewa Kowalczyk" in result and "2015" not in result


@pytest.mark.parametrize(
    "question", ["Who collects them?", "How many people use it?", "Is breakfast part of that limit?", "How long do they stay there?"]
)
def test_a_pronoun_in_its_own_clause_points_back(question: str) -> None:
    """Seen: "How many people use it?" was left alone, as if "it" could stand for "people"."""
    assert "batteries" in condense(question, asked("Where are damaged batteries put?"))


@pytest.mark.parametrize(
    "question",
    [
        "hotel limit London", "Parental leave policy", "Is there a canteen?", "Wait times in the canteen", "Who is Gareth Pugh?",
        "How long must employees work before they may take leave?", "What do I do if I lose my key and it is found?",
    ],
)
def test_a_change_of_topic_is_left_alone(question: str) -> None:
    assert condense(question, asked("How many days of parental leave do employees get?")) == question


def test_a_question_with_much_of_its_own_is_given_only_the_name() -> None:
    """The words around the name would outweigh what is asked now."""
    result = condense("Which painters lived there after the great fire?", asked("When did Leith become a famous harbour town?"))

    assert "Leith" in result and "famous" not in result
