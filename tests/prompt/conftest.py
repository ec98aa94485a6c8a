"""Makes the plain copy of each tokenizer once: for a large one it takes a second."""

import pytest

from tests.helpers.tokenizers_for_tests import plain


@pytest.fixture(autouse=True)
def plain_copies_are_made_once(monkeypatch):
    monkeypatch.setattr("mlens.prompt.renderer.PlainText", plain)
