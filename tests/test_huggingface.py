"""Models from the config.json of Hugging Face: their weights are those that were released.

The files are written from the published dimensions; the totals are those of the released weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.errors import ConfigError
from sim.graph.operation import Shard
from sim.inputs.load import load_definition, load_experiment
from sim.models.family import Architecture, Workload
from sim.models.huggingface import ARCHITECTURES, BY_TYPE, from_config, is_config
from support import Cli

Config = dict[str, Any]


def decoder(architecture: str, layers: int, hidden: int, heads: int, ffn: int, vocab: int, **more: Any) -> Config:
    """The keys that most files have."""
    return {
        "architectures": [architecture], "num_hidden_layers": layers, "hidden_size": hidden,
        "num_attention_heads": heads, "intermediate_size": ffn, "vocab_size": vocab, **more,
    }  # fmt: skip


RELEASED: dict[str, tuple[Config, float]] = {  # file, weights in 1e9
    "Llama-3.1-8B": (decoder("LlamaForCausalLM", 32, 4096, 32, 14336, 128256, num_key_value_heads=8), 8.030261248),
    "Mistral-7B-v0.1": (
        decoder("MistralForCausalLM", 32, 4096, 32, 14336, 32000, num_key_value_heads=8, sliding_window=4096),
        7.241732096,
    ),
    "Qwen2.5-7B": (decoder("Qwen2ForCausalLM", 28, 3584, 28, 18944, 152064, num_key_value_heads=4), 7.615616512),
    "Qwen3-8B": (
        decoder("Qwen3ForCausalLM", 36, 4096, 32, 12288, 151936, num_key_value_heads=8, head_dim=128), 8.190735360
    ),
    "gemma-7b": (
        decoder("GemmaForCausalLM", 28, 3072, 16, 24576, 256000, num_key_value_heads=16, head_dim=256), 8.537680896
    ),
    "gemma-2-9b": (
        decoder("Gemma2ForCausalLM", 42, 3584, 16, 14336, 256000, num_key_value_heads=8, head_dim=256), 9.241705984
    ),
    "gemma-3-27b": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {
            "model_type": "gemma3_text", "num_hidden_layers": 62, "hidden_size": 5376, "num_attention_heads": 32,
            "num_key_value_heads": 16, "head_dim": 128, "intermediate_size": 21504, "vocab_size": 262208,
            "sliding_window": 1024}}, 27.009346304,
    ),
    "phi-1_5": (decoder("PhiForCausalLM", 24, 2048, 32, 8192, 51200, hidden_act="gelu_new"), 1.418270720),
    "Phi-3-mini": (
        decoder("Phi3ForCausalLM", 32, 3072, 32, 8192, 32064, num_key_value_heads=32, sliding_window=2047,
                max_position_embeddings=4096), 3.821079552,
    ),
    "gpt2": (
        {"architectures": ["GPT2LMHeadModel"], "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257,
         "n_positions": 1024, "resid_pdrop": 0.1}, 0.124439808,
    ),
    "gpt-neox-20b": (
        decoder("GPTNeoXForCausalLM", 44, 6144, 64, 24576, 50432, hidden_act="gelu_fast"), 20.554567680
    ),
    "falcon-7b": (
        {"architectures": ["FalconForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4544,
         "num_attention_heads": 71, "vocab_size": 65024, "multi_query": True, "parallel_attn": True}, 6.921720704,
    ),
    "mpt-7b": (
        {"architectures": ["MPTForCausalLM"], "d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432,
         "expansion_ratio": 4, "no_bias": True, "attn_config": {"alibi": True}}, 6.649286656,
    ),
    "opt-6.7b": (
        {"architectures": ["OPTForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
         "ffn_dim": 16384, "vocab_size": 50272, "max_position_embeddings": 2048, "dropout": 0.1}, 6.658473984,
    ),
    "bloom-7b1": (
        {"architectures": ["BloomForCausalLM"], "n_layer": 30, "n_embed": 4096, "num_attention_heads": 32,
         "vocab_size": 250880}, 7.069016064,
    ),
    "Mixtral-8x7B": (
        decoder("MixtralForCausalLM", 32, 4096, 32, 14336, 32000, num_key_value_heads=8, num_local_experts=8,
                num_experts_per_tok=2), 46.702792704,
    ),
    "Qwen3-30B-A3B": (
        decoder("Qwen3MoeForCausalLM", 48, 2048, 32, 6144, 151936, num_key_value_heads=4, head_dim=128,
                num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, mlp_only_layers=[]), 30.532122624,
    ),
    "DeepSeek-V2": (
        decoder("DeepseekV2ForCausalLM", 60, 5120, 128, 12288, 102400, q_lora_rank=1536, kv_lora_rank=512,
                qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=160,
                num_experts_per_tok=6, moe_intermediate_size=1536, n_shared_experts=2, first_k_dense_replace=1,
                n_group=8, topk_group=3), 235.741434880,
    ),
    "DeepSeek-V3": (
        decoder("DeepseekV3ForCausalLM", 61, 7168, 128, 18432, 129280, q_lora_rank=1536, kv_lora_rank=512,
                qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=256,
                num_experts_per_tok=8, moe_intermediate_size=2048, n_shared_experts=1, first_k_dense_replace=3,
                n_group=8, topk_group=4, num_nextn_predict_layers=1), 671.026419200,
    ),
    "gpt-oss-20b": (
        decoder("GptOssForCausalLM", 24, 2880, 64, 2880, 201088, num_key_value_heads=8, head_dim=64,
                num_local_experts=32, num_experts_per_tok=4, sliding_window=128), 20.914757184,
    ),
    "bert-base": (decoder("BertForPreTraining", 12, 768, 12, 3072, 30522, hidden_dropout_prob=0.1), 0.110106428),
    "roberta-base": (
        decoder("RobertaForMaskedLM", 12, 768, 12, 3072, 50265, type_vocab_size=1, max_position_embeddings=514),
        0.124697433,
    ),
    "t5-large": (
        {"architectures": ["T5ForConditionalGeneration"], "num_layers": 24, "d_model": 1024, "num_heads": 16,
         "d_kv": 64, "d_ff": 4096, "vocab_size": 32128, "dropout_rate": 0.1}, 0.737668096,
    ),
    "vit-base-patch16": (decoder("ViTForImageClassification", 12, 768, 12, 3072, 1, image_size=224), 0.086567656),
    "mamba2-2.7b": (
        {"architectures": ["MambaLMHeadModel"], "d_model": 2560, "n_layer": 64, "vocab_size": 50277,
         "pad_vocab_size_multiple": 16, "ssm_cfg": {"layer": "Mamba2"}, "tie_embeddings": True}, 2.702599680,
    ),
}  # fmt: skip


def model_of(config: Config, folder: Path) -> Workload:
    file = folder / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    record = load_definition("workload", file)
    assert isinstance(record, Workload)
    return record


@pytest.mark.parametrize("name", RELEASED)
def test_weights_are_those_released(name: str, tmp_path: Path) -> None:
    config, billions = RELEASED[name]
    found = Architecture(model_of(config, tmp_path), Shard()).whole.parameters / 1e9
    assert found == pytest.approx(billions, rel=6e-3)


def test_every_architecture_has_a_file_that_was_tried() -> None:
    tried = {ARCHITECTURES[config["architectures"][0]] for config, _ in RELEASED.values()}
    assert tried == set(ARCHITECTURES.values())
    assert set(BY_TYPE.values()) <= set(ARCHITECTURES)


def test_a_type_is_enough(tmp_path: Path) -> None:
    config = {**RELEASED["Llama-3.1-8B"][0], "model_type": "llama"}
    del config["architectures"]
    assert Architecture(model_of(config, tmp_path), Shard()).whole.parameters == 8_030_261_248


def test_what_is_left_out_is_told(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "my-gemma"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(RELEASED["gemma-3-27b"][0]), encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(
        "description: mine\ncluster: dgx-h100\nworkload: my-gemma/config.json\n"
        "parallelism: {tensor: 8, sequence_parallel: true}\n"
        "training: {global_batch: 8, sequence_length: 1024, precision: bf16}\nsoftware: megatron-core\n",
        encoding="utf-8",
    )
    told = cli("run", file)
    assert "my-gemma" in told.out
    assert "no encoder of images" in " ".join(told.out.split())
    assert cli("check", file, folder / "config.json").err == ""
    assert "layers: 62" in cli("list", folder / "config.json").out


def test_it_is_changed_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED["gpt2"][0]), encoding="utf-8")
    changes = [("workload", str(tmp_path / "config.json")), ("workload.layers", 6)]
    assert load_experiment("quickstart", changes, checks=()).experiment.setup.workload.layers == 6


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["LlamaForCausalLMs"]}, "'LlamaForCausalLMs' is not known; like LlamaForCausalLM"),
        ({"model_type": "zzz"}, "'zzz' is not known; write the model as"),
        ({"architectures": []}, "'no architecture' is not known"),
        ({"architectures": ["GPT2LMHeadModel"]}, "num_hidden_layers: is missing"),
        (decoder("LlamaForCausalLM", 32, 4096, 32, 14336, "many"), "vocab_size: must be a whole number"),  # type: ignore[arg-type]
        (decoder("LlamaForCausalLM", 32, 4096, 32, 14336, 32000, hidden_act="maxout"), "'maxout' is not one of silu"),
        (decoder("LlamaForCausalLM", True, 4096, 32, 14336, 32000), "must be a whole number of 1 or more, not True"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(config: Config, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        model_of(config, tmp_path)
    text = str(caught.value)
    assert said in text
    assert "config.json:" in text


def test_a_definition_of_ours_is_no_config() -> None:
    assert not is_config({"kind": "transformer", "model_type": "x"})
    assert from_config(RELEASED["gpt2"][0], "x")["name"] == "x"
