"""Code that comes with a model is not run, even if the user at the terminal agrees."""

import json

import pytest

from skllm4es import LLMEmbedder


@pytest.fixture
def model_with_code(tmp_path):
    """The directory of a model of an unknown type that comes with its own code."""
    config = {"model_type": "never-heard-of", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w').close()\n")
    return tmp_path


@pytest.mark.parametrize("finetune", ["full", "lora", None])
def test_code_of_a_model_is_not_run(model_with_code, monkeypatch, finetune):
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    with pytest.raises(OSError, match="could not be loaded"):
        LLMEmbedder(model_with_code, random_state=0, finetune=finetune).fit(["a|b\n1, 2"])
    assert not (model_with_code / "was-run").exists()
