"""A line of plain text → is it a title? The only door to `unstructured`'s own imports, which take seconds and reach out.

Before the first import, what would reach the network or load a GPU library is switched off. Tested, and pinned.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import Any

os.environ["DO_NOT_TRACK"] = "1"
os.environ["SCARF_NO_ANALYTICS"] = "1"
os.environ["UNSTRUCTURED_DISABLE_NOTICE"] = "1"


@lru_cache(maxsize=1)
def unstructured_text() -> Any:
    """The module `unstructured.partition.text_type`, ready to be used without a network."""
    had_torch = "torch" in sys.modules
    if not had_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # spaCy would import it, 2 s and 150 MB, for nothing
    try:
        import spacy
        import unstructured.nlp.tokenize as tokenize
        from unstructured.partition import text_type
    finally:
        if not had_torch:
            del sys.modules["torch"]

    def pipeline() -> Any:
        language = spacy.blank("en")
        language.add_pipe("sentencizer")
        return language

    # The stock loader downloads a model from the web where it is not installed.
    tokenize._load_spacy_model = pipeline
    return text_type


def is_title(line: str) -> bool:
    """Whether `line` reads like a title: few words, mostly letters, no sentence."""
    return bool(unstructured_text().is_possible_title(line, title_max_word_length=10))
