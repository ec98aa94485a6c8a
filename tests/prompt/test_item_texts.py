"""The prompt's texts name what is rated: data.item."""

import pytest
from omegaconf import OmegaConf

from mlens.compose import run_config
from mlens.config import check_config
from mlens.data.items import ITEMS
from mlens.errors import UserError
from tests.helpers.runs import checked

TEXTS = {
    ("simple", "film"): (
        "基于用户在 MovieLens 上的历史评分和标签数据，模拟该用户的电影偏好和行为模式",
        "预测用户对该电影的评分：",
    ),
    ("simple", "book"): ("基于用户的历史评分和标签数据，模拟该用户的图书偏好和行为模式", "预测用户对该书的评分："),
    ("simple", "product"): ("基于用户的历史评分和标签数据，模拟该用户的商品偏好和行为模式", "预测用户对该商品的评分："),
    ("simple_en", "film"): (
        "Based on the user's past ratings and tags on MovieLens, simulate this user's taste in films and way of rating",
        "Predict the user's rating of this film:",
    ),
    ("simple_en", "book"): (
        "Based on the user's past ratings and tags, simulate this user's taste in books and way of rating",
        "Predict the user's rating of this book:",
    ),
    ("simple_en", "product"): (
        "Based on the user's past ratings and tags, simulate this user's taste in products and way of rating",
        "Predict the user's rating of this product:",
    ),
}


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("prompt", ["simple", "simple_en"])
def test_the_texts_of_each_item(prompt, item):
    settings = checked("data=csv", f"data.item={item}", f"prompt={prompt}")
    assert (settings.prompt.task, settings.prompt.question) == TEXTS[prompt, item]
    # An exported model's prompt is this node, in which no reference is left.
    assert (settings.config["prompt"]["task"], settings.config["prompt"]["question"]) == TEXTS[prompt, item]


def test_a_source_without_the_field_has_films():
    assert (checked().prompt.task, checked().prompt.question) == TEXTS["simple", "film"]


def test_a_text_of_ones_own_replaces_those_of_all_items():
    assert checked("data=csv", "data.item=book", "prompt.task=Rate it").prompt.task == "Rate it"


def test_an_unknown_item():
    with pytest.raises(
        UserError, match=r"^prompt\.question: .*no text for data\.item=song, only for film, book, product$"
    ):
        checked("data=csv", "data.item=song", "prompt.task=x")
    with pytest.raises(UserError, match=r"^data\.item must be film, book or product, not song$"):
        checked("data=csv", "data.item=song", "prompt.task=x", "prompt.question=y")


def test_another_prompt_for_a_finished_run_is_about_its_item(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "summary.json").write_text("{}")
    config = checked("data=csv", "data.item=book").config
    (tmp_path / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    again = check_config(run_config(tmp_path, ["prompt=simple_en"], ("prompt",)))
    assert again.prompt.question == TEXTS["simple_en", "book"][1]
