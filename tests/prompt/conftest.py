"""A large tokenizer's plain copy takes a second; here it is made once."""

import pytest

from tests.helpers.tokenizers_for_tests import plain


@pytest.fixture(autouse=True)
def plain_copies_are_made_once(monkeypatch):
    monkeypatch.setattr("mlens.prompt.renderer.PlainText", plain)
