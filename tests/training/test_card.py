"""The metadata of model cards: valid for the Hugging Face hub, and true of the run."""

import re

import pytest
from huggingface_hub import ModelCard, ModelCardData

from mlens.data.amazon_reviews import AmazonReviews
from mlens.data.book_crossing import BookCrossing
from mlens.data.goodreads import Goodreads
from mlens.data.hf_dataset import HfDataset
from mlens.data.sample import Sample
from mlens.data.terms import USER_DATA, movielens_terms
from tests.helpers.made_up_cards import TEST, make_card

# Licence names and dataset ids that the hub takes: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
SLUG = r"[a-z0-9]+([.-][a-z0-9]+)*"
DATASET = r"([\w.-]+/)?[\w.-]+"
KNOWN = (Sample, Goodreads, AmazonReviews, BookCrossing)


def data_of(*overrides: str, **fields) -> ModelCardData:
    """The metadata of a card, as huggingface_hub reads them."""
    return ModelCard(make_card(*overrides, **fields)).data


@pytest.mark.parametrize(
    "terms", [*(source.terms for source in KNOWN), movielens_terms("ml-25m")], ids=lambda terms: terms.dataset
)
def test_every_sources_metadata_is_valid(terms):
    data = data_of(terms=terms)
    assert data.license == "other" and re.fullmatch(SLUG, data.license_name)
    assert data.license_link == terms.page and re.fullmatch(r"https?://\S+", data.license_link or "https://x")
    assert len(data.datasets) == 1 and re.fullmatch(DATASET, data.datasets[0])
    assert data.pipeline_tag == "text-generation" and data.library_name == "transformers" and data.tags
    assert {result.dataset_type for result in data.eval_results} == {*data.datasets}
    assert {result.dataset_name for result in data.eval_results} == {terms.name}


def test_the_model_index_has_the_test_metrics():
    (model,) = data_of(terms=movielens_terms("ml-25m")).to_dict()["model-index"]
    (result,) = model["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        name: TEST[name] for name in ("rmse", "mae", "taste", "auc")
    }
    assert result["dataset"] == {"name": "MovieLens ml-25m (GroupLens)", "type": "ml-25m", "split": "test"}


def test_a_metric_without_a_value_is_left_out():
    found = data_of(auc=None, taste=float("nan")).eval_results
    assert [result.metric_type for result in found] == ["rmse", "mae"]


@pytest.mark.parametrize(("peft", "relation"), [("none", "finetune"), ("lora", "adapter")])
def test_a_base_model_of_the_hub_is_named_and_a_local_one_is_not(peft, relation, tmp_path):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    data = data_of("model=hf", "model.name=somebody/model", f"peft={peft}")
    assert (data.base_model, data.base_model_relation) == ("somebody/model", relation)
    assert data_of("model=hf", f"model.path={tmp_path}", f"peft={peft}").base_model is None


def test_the_users_data_are_a_dataset_of_the_hub_or_have_no_id():
    assert data_of(terms=USER_DATA).datasets is None
    assert data_of(terms=HfDataset(name="owner/ratings").terms).datasets == ["owner/ratings"]
