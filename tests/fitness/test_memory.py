"""Memory that runs out: batches become smaller, and the candidate is scored."""

import pytest
import torch

from fitness.errors import ScoringError
from fitness.harness import Harness
from fitness.network import is_out_of_memory
from fitness.suite import SuiteConfig

DRAWN = {"name": "gen_sampled", "metric": "exact_match"}
GREEDY = {"name": "gen", "metric": "exact_match"}


class Narrow(torch.nn.Module):
    """A model's body with room for so many rows."""

    def __init__(self, body: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.body, self.room, self.rows = body, room, []

    def forward(self, input_ids=None, **options):
        self.rows.append(len(input_ids))
        if len(input_ids) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(input_ids)} rows")
        return self.body(input_ids, **options)


@pytest.fixture
def narrow(make_llama):
    """narrow(room): a model like any other, but that runs out of memory."""

    def make(room: int):
        model = make_llama()
        model.model = Narrow(model.model, room)
        return model

    return make


def harness_of(folder, *specs):
    return Harness(SuiteConfig(include_path=(str(folder),), tasks=specs, batch_size=8))


def drawn_texts(harness):
    return [request.instance.resps for request in harness._requests["gen_sampled", "dev"]]


def test_lm_evals_generation_goes_on_with_smaller_batches(task_folder, narrow, make_llama, tokenizer, caplog):
    harness = harness_of(task_folder, GREEDY, DRAWN)
    model = narrow(3)
    harness.bind(model, tokenizer)
    scores = harness.score("dev")
    assert caplog.messages == [
        "out of memory: batches of 1/2 of their size from now on",
        "out of memory: batches of 1/4 of their size from now on",
        "out of memory: lm-eval generates in batches of 4 from now on",
        "out of memory: lm-eval generates in batches of 2 from now on",
    ]
    texts = drawn_texts(harness)
    # lm-eval draws what it would have drawn with these batches from the start
    fresh = Harness(harness.suite.model_copy(update={"batch_size": 2}))
    fresh.bind(make_llama(), tokenizer)
    assert fresh.score("dev") == scores
    assert drawn_texts(fresh) == texts
    assert len({text for resps in texts for text in resps}) > 1

    caplog.clear()
    following = narrow(3)
    harness.bind(following, tokenizer)
    assert harness.score("dev") == scores
    assert max(following.model.rows) == 2, "the next candidate starts with what fits"
    assert caplog.messages == []


def test_smaller_batches_outlast_a_change_of_tokenizer(task_folder, narrow, tokenizer, caplog):
    harness = harness_of(task_folder, GREEDY, DRAWN)
    harness.bind(narrow(3), tokenizer)
    scores = harness.score("dev")
    caplog.clear()
    other = narrow(3)
    harness.bind(other, type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map))
    assert harness.score("dev") == scores
    assert max(other.model.rows) == 2
    assert caplog.messages == []


def test_what_lm_eval_lacks_makes_no_other_batches_smaller(task_folder, make_llama, tokenizer, caplog):
    """A single prompt for which there is no room fails the candidate, and only that."""
    harness = harness_of(task_folder, GREEDY, DRAWN)
    model = make_llama()
    harness.bind(model, tokenizer)
    sound = harness.score("dev")

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("no room")

    model.generate, generate = full, model.generate
    with pytest.raises(ScoringError, match=r"out of memory \(lm-eval's generation\): expected room for one prompt"):
        harness.score("dev")
    assert all("lm-eval generates" in message for message in caplog.messages)
    assert len(caplog.messages) == 3  # 4, 2, 1
    model.generate = generate
    assert harness.score("dev")["gen"] == sound["gen"]


def test_other_errors_of_a_generation_are_raised(task_folder, make_llama, tokenizer):
    harness = harness_of(task_folder, DRAWN)
    model = make_llama()
    harness.bind(model, tokenizer)
    model.lm_head = torch.nn.Linear(7, 7)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        harness.score("dev")


def test_the_cpus_own_allocator_says_so():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
