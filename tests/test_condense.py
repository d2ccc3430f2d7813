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
