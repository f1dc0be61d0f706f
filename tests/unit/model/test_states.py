"""Mean states of sequences: the model's own, whatever shares the pass."""

import torch

from posttrain.model.load import load_model
from posttrain.model.reward import new_reward_model
from posttrain.model.states import mean_states

SEQUENCES = [[3, 4, 5, 1], [9, 8, 7, 6, 5, 4, 3, 1], [20]]


def test_they_are_the_mean_of_the_last_hidden_states(micro):
    model = load_model(micro)
    with torch.no_grad():
        wanted = torch.stack(
            [model.model(input_ids=torch.tensor([s])).last_hidden_state[0].mean(dim=0)
             for s in SEQUENCES]
        )  # fmt: skip
    for budget in (4096, 8, 1):
        torch.testing.assert_close(mean_states(model, SEQUENCES, budget), wanted, atol=1e-5, rtol=0)


def test_a_reward_model_has_those_of_the_model_it_starts_from(micro):
    found = mean_states(new_reward_model(micro, 5, 0), SEQUENCES, 64)
    torch.testing.assert_close(found, mean_states(load_model(micro), SEQUENCES, 64))
