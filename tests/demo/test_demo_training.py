import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.demo import train
from evomerge.demo.documents import Document


def test_only_answers_are_targets():
    tokenizer = train.make_tokenizer()
    tokens, targets = train._encode(tokenizer, [Document("refund lamp :", "half"), Document("code :", "A7B")])
    assert tokens.shape == targets.shape
    learnt = [tokenizer.decode(row[row != train._IGNORED]) for row in targets]
    assert learnt == [f" half{train.END}", f" A7B{train.END}"]
    masked = targets != train._IGNORED
    assert torch.equal(tokens[masked], targets[masked])


def test_training_repeats_itself_bit_for_bit():
    tokenizer = train.make_tokenizer()
    corpus = [Document("refund lamp :", "half"), Document("code red :", "A7B"), Document("ship 10 kg :", "C3")]
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = LlamaForCausalLM(config)
        before = model.lm_head.weight.detach().clone()
        train._fit(model, tokenizer, corpus, train.Schedule(3, 1e-2, 4, 2, seed=7))
        assert not torch.equal(model.lm_head.weight, before)
        runs.append(model.state_dict())
        torch.rand(5)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
