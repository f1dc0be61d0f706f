import pytest
import torch
import transformers

from posttrain.model.micro import build_micro, micro_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("blank")
    build_micro(path, seed=3)
    return path


def test_every_character_is_a_token_and_comes_back():
    tokenizer = micro_tokenizer()
    ids = tokenizer("47+38=").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["4", "7", "+", "3", "8", "="]
    assert tokenizer.decode(ids) == "47+38="
    assert tokenizer.decode(tokenizer("a  b\n12-8=4 #$%").input_ids) == "a  b\n12-8=4 #$%"


def test_64_tokens_and_padding_is_not_the_end_of_turn():
    tokenizer = micro_tokenizer()
    assert len(tokenizer) == 64
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer("Aé").input_ids == [2, 2]


def test_the_folder_is_an_ordinary_one(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.config.tie_word_embeddings and model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == 64
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 128
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 1
    messages = [
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "2"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "1+1=2<eos>"
    assert tokenizer.apply_chat_template(messages[:1], tokenize=False) == "1+1="


def test_the_seed_decides_the_weights_and_the_callers_random_state_is_left_alone(folder, tmp_path):
    torch.manual_seed(0)
    build_micro(tmp_path / "same", seed=3)
    build_micro(tmp_path / "other", seed=4)
    after = torch.rand(1).item()
    torch.manual_seed(0)
    assert after == torch.rand(1).item()
    folders = (folder, tmp_path / "same", tmp_path / "other")
    first, same, other = ((each / "model.safetensors").read_bytes() for each in folders)
    assert first == same and first != other
