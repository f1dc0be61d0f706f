from posttrain.algorithms import needs_of, sft
from posttrain.ports import Needs


def test_objective_speaks_trainer_arguments():
    config = sft.Config(lr=3e-3, schedule="cosine", warmup_share=0.05, weight_decay=0.1, beta2=0.95)
    assert sft.objective(config).loss is None
    assert sft.objective(config).trainer_settings == {
        "learning_rate": 0.003,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "weight_decay": 0.1,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
    }


def test_settings_are_trainer_arguments_of_this_transformers():
    import dataclasses

    from transformers import TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(sft.objective(sft.Config()).trainer_settings) <= known


def test_defaults_are_those_of_tulu():
    config = sft.Config()
    assert (config.lr, config.schedule, config.warmup_share) == (5e-6, "linear", 0.03)
    assert needs_of(sft, config) == Needs()
