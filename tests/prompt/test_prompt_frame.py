"""The frame of a chat template is the same every day, and is saved with the run and its model."""

import copy
import json
from datetime import datetime as real_datetime

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import chat_template_utils

from mlens.errors import UserError
from mlens.identity import read_identity
from mlens.predict import Prompter
from mlens.prompt.frame import ChatFrame, render_frame
from mlens.prompt.renderer import make_renderer
from tests.helpers.predicting_runs import SHORT
from tests.helpers.reference import make_table
from tests.helpers.runs import run_here
from tests.helpers.tokenizers_for_tests import HISTORY, style, tiny

TURN = (
    "{% for m in messages %}USER\n{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}ASSISTANT\n{% endif %}"
)
DATED = "Today: {{ strftime_now('%d %b %Y, %H:%M:%S') }}\n" + TURN


def with_template(template: str):
    tokenizer = copy.deepcopy(tiny())
    tokenizer.chat_template = template
    return tokenizer


class Tomorrow(real_datetime):
    @classmethod
    def now(cls, tz=None):
        return real_datetime(2031, 2, 3, 4, 5, 6)


def test_a_template_with_a_clock_is_rendered_on_the_day_that_the_config_names(monkeypatch):
    today = render_frame(with_template(DATED), "2025-01-01")
    assert today == ChatFrame("Today: 01 Jan 2025, 00:00:00\nUSER\n", "\nASSISTANT\n")
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert render_frame(with_template(DATED), "2025-01-01") == today
    assert render_frame(with_template(DATED), "2026-12-31").before.startswith("Today: 31 Dec 2026")
    assert chat_template_utils.datetime is Tomorrow  # restored


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('a system turn is needed') }}", "can't be rendered: a system turn is needed"),
        ("{% for m in messages %}{{ m['content'] }} {{ m['content'] }}{% endfor %}", "shows a message 2 times"),
        ("USER {% if add_generation_prompt %}ASSISTANT{% endif %}", "shows a message 0 times"),
        ("{{ range(99999) | random }} " + TURN, "renders differently each time"),
        (None, "has no chat template"),
    ],
)
def test_an_unusable_template_is_refused_in_one_line(template, message):
    with pytest.raises(UserError, match=message) as caught:
        render_frame(with_template(template), "2025-01-01")
    assert "\n" not in str(caught.value) and "prompt=simple" in str(caught.value)


@pytest.mark.parametrize("other", ["{{ raise_exception('a list of parts is needed') }}", "{{ '' }}"])
def test_a_template_for_a_list_of_parts_is_given_one(other):
    parts = "{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}"
    template = "BEGIN {% if messages[0]['content'] is string %}" + other + "{% else %}" + parts + "{% endif %} END"
    assert render_frame(with_template(template), "2025-01-01") == ChatFrame("BEGIN ", " END")


def test_an_invalid_date_is_refused_by_name():
    with pytest.raises(UserError, match=r"prompt\.chat_date must be a date such as 2025-01-01, not tomorrow"):
        style("chat", chat_date="tomorrow")


def test_prompts_are_made_with_the_frame_that_is_given():
    table = make_table([[(0, 5.0, 10), (1, 1.0, 20)]])
    frame = ChatFrame("<before>\n", "\n<after>")
    text = make_renderer(table, style("chat"), HISTORY, with_template(DATED), frame).text(1, [0])
    assert text.startswith("<before>\n[TASK]") and text.endswith("\n<after>") and "Today" not in text


@pytest.fixture(scope="module")
def chat_run(tmp_path_factory):
    """A run of a model whose template has a clock, and the model's folder."""
    folder = tmp_path_factory.mktemp("chat")
    run_here(folder / "base", *SHORT, "trainer.max_steps=0")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base" / "model")
    tokenizer.chat_template = DATED
    model = AutoModelForCausalLM.from_pretrained(folder / "base" / "model")
    model.config.max_position_embeddings = 400
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    hf = ["model=hf", f"model.path={folder / 'model'}", "model.dtype=float32", "data.max_users=12", "prompt=chat"]
    small = ["prompt.max_tokens=400", "evaluation.max_users=3", "trainer.max_steps=0", "wandb.mode=disabled"]
    run_here(folder / "run", *hf, *small, "trainer.loader_workers=0")
    return folder / "run"


def test_run_and_model_keep_the_frame_and_predicting_uses_it(chat_run):
    frame = ChatFrame("Today: 01 Jan 2025, 00:00:00\nUSER\n", "\nASSISTANT\n")
    assert read_identity(chat_run).chat_frame == frame
    file = chat_run / "model" / "mlens.json"
    content = json.loads(file.read_text())
    assert content["chat_frame"] == list(frame)

    def prompt():
        prompter = Prompter.from_run(chat_run)
        return prompter.prompts(prompter.request([{"title": "Heat (1995)", "rating": 4}], [{"title": "Ronin (1998)"}]))[
            0, "prompt"
        ]

    assert prompt().startswith(frame.before) and prompt().endswith(frame.after)
    # Even if the template of the model changes.
    tokenizer = AutoTokenizer.from_pretrained(chat_run / "model")
    tokenizer.chat_template = "OTHER " + TURN
    before = prompt()
    tokenizer.save_pretrained(chat_run / "model")
    assert prompt() == before
