"""Models from the `config.json` of Hugging Face: which family an architecture is, and which of its keys say what.

One function for each kind of file; several architectures share one. Defaults are those of the configuration classes of
Transformers. What a file says that is not modelled is told in the notes of the model, not passed over.

Public: `is_config`, `from_config`, `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

from sim.errors import ConfigError, Problem

Config = Mapping[str, Any]
Model = dict[str, Any]  # a workload as a file would say it
GATES = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "gelu_new": "geglu", "gelu_pytorch_tanh": "geglu"}
PLAIN = {
    "gelu": "gelu", "gelu_new": "gelu", "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu",
    "relu2": "squared_relu",
}  # fmt: skip
OTHER_WAYS = "write the model as `kind: ...` (docs/how-to/own-model.md), or trace it: clustersim import torch"


def is_config(file: Config) -> bool:
    """Whether a mapping is such a file and no definition of ours."""
    return "kind" not in file and ("architectures" in file or "model_type" in file)


def from_config(file: Config, name: str) -> Model:
    """The workload that a config describes, under `name`. Raises ConfigError for what is not known."""
    inner = file.get("text_config")
    architecture = _architecture(file)
    write = ARCHITECTURES.get(architecture)
    if write is None and isinstance(inner, Mapping):
        write = ARCHITECTURES.get(_architecture(inner))
    if write is None:
        _unknown(architecture)
    config = {**file, **inner} if isinstance(inner, Mapping) else file
    model = write(_Reader(config))
    notes = [*model.pop("notes", ()), *_left_out(file, config)]
    return {**model, "name": name, "notes": notes, "sources": {key: "config.json" for key in model if key != "kind"}}


def _architecture(file: Config) -> str:
    """The class that a file names, or the one that its type stands for."""
    named = file.get("architectures") or ()
    if named and isinstance(named[0], str):
        return str(named[0])
    return BY_TYPE.get(str(file.get("model_type", "")), str(file.get("model_type", "no architecture")))


def _unknown(architecture: str) -> NoReturn:
    close = get_close_matches(architecture, ARCHITECTURES, n=2, cutoff=0.75)
    near = f"like {' and '.join(close)}? " if close else ""
    raise ConfigError(Problem("", "architectures", f"{architecture!r} is not known", f"{near}{OTHER_WAYS}"))


def _left_out(file: Config, config: Config) -> list[str]:
    """What a file says that is not modelled."""
    found = []
    if "text_config" in file:
        found.append("only the model of text is simulated, no encoder of images or sound")
    if config.get("quantization_config"):
        found.append("weights are trained in training.precision, whatever format the file stores them in")
    if config.get("attn_logit_softcapping"):
        found.append("the cap of attention scores is left out")
    return found


class _Reader:
    """A config whose keys may go by several names. A missing or wrong one is told by its name."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def count(self, *names: str, default: int | None = None) -> int:
        """A whole number of 1 or more."""
        value = self.get(*names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            message = "is missing" if value is None else f"must be a whole number of 1 or more, not {value!r:.40}"
            raise ConfigError(Problem("", names[0], message, "is this the config.json of a released model?"))
        return value

    def get(self, *names: str) -> Any:
        """The first of these keys that the file has."""
        return next((self.config[name] for name in names if self.config.get(name) is not None), None)

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        value = self.config.get(name)
        return default if value is None else bool(value)

    def activation(self, *, gated: bool, default: str) -> str:
        """Of the feed-forward block. Raises ConfigError for one that is not known."""
        said = str(self.get("hidden_act", "hidden_activation", "activation_function") or default)
        known = GATES if gated else PLAIN
        if said not in known:
            raise ConfigError(Problem("", "hidden_act", f"{said!r} is not one of {', '.join(known)}"))
        return known[said]


# --- decoders -----------------------------------------------------------------------------------


def _decoder(config: _Reader, **more: Any) -> Model:
    """Llama and what was made like it: gates, RMS norms, rotated positions, no bias."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    model: Model = {
        "kind": "transformer",
        "layers": config.count("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.count("num_key_value_heads", default=heads),
        "ffn": config.count("intermediate_size"),
        "vocab": config.count("vocab_size"),
        "activation": config.activation(gated=True, default="silu"),
        "norm": "rmsnorm",
        "positions": "rotary",
        "tied_embeddings": config.flag("tie_word_embeddings", False),
        "bias": False,
    }
    width = config.get("head_dim")
    if width is not None and width * heads != hidden:
        model["head_dim"] = config.count("head_dim")
    if config.flag("attention_bias", False):
        model["attention_bias"] = True
    return {**model, **more}


def _llama(config: _Reader) -> Model:
    return _decoder(config, **({"bias": True} if config.flag("mlp_bias", False) else {}))


def _mistral(config: _Reader) -> Model:
    window = config.get("sliding_window")
    return _decoder(config, **({"window": window} if window else {}))


def _qwen2(config: _Reader) -> Model:
    """Queries, keys and values have a bias."""
    window = config.get("sliding_window") if config.flag("use_sliding_window", False) else None
    return _decoder(config, attention_bias=True, **({"window": window} if window else {}))


def _qwen3(config: _Reader) -> Model:
    return _decoder(config, head_norms=True, **_width(config, 128))


def _width(config: _Reader, default: int) -> Model:
    """The width of a head, where the class has a default that is not hidden over heads."""
    return {"head_dim": config.count("head_dim", default=default)}


def _gemma(config: _Reader) -> Model:
    tied = config.flag("tie_word_embeddings", True)
    return _decoder(config, activation="geglu", tied_embeddings=tied, **_width(config, 256))


def _gemma2(config: _Reader) -> Model:
    """Every other layer looks back on a window."""
    norms = "the norms behind attention and feed-forward are left out"
    return {**_gemma(config), "window": config.count("sliding_window", default=4096), "full_every": 2, "notes": [norms]}


def _gemma3(config: _Reader) -> Model:
    """Five of six layers look back on a window; queries and keys are normed."""
    period = config.count("sliding_window_pattern", "_sliding_window_pattern", default=6)
    window = config.count("sliding_window", default=4096)
    norms = "the norms behind attention and feed-forward are left out"
    return {**_gemma(config), "window": window, "full_every": period, "head_norms": True, "notes": [norms]}


def _phi3(config: _Reader) -> Model:
    window = config.get("sliding_window")
    short = window if window and window < config.count("max_position_embeddings", default=4096) else None
    return _decoder(config, **({"window": short} if short else {}))


def _classic(config: _Reader, **more: Any) -> Model:
    """GPT and what was made like it: two matrices, layer norms, biases."""
    model: Model = {
        "kind": "transformer",
        "layers": config.count("num_hidden_layers", "n_layer", "n_layers"),
        "hidden": config.count("hidden_size", "n_embd", "n_embed", "d_model"),
        "heads": config.count("num_attention_heads", "n_head", "n_heads"),
        "vocab": config.count("vocab_size"),
        "norm": "layernorm",
        "bias": True,
    }
    inner = config.get("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    return {**model, "ffn": inner or 4 * model["hidden"], **more}


BESIDE = "attention and feed-forward, which this model computes side by side, follow one another"


def _gpt2(config: _Reader) -> Model:
    return _classic(
        config,
        activation=config.activation(gated=False, default="gelu_new"),
        positions="learned",
        max_positions=config.count("n_positions", "max_position_embeddings", default=1024),
        tied_embeddings=config.flag("tie_word_embeddings", True),
        dropout=bool(config.get("resid_pdrop") or 0),
    )


def _gpt_neox(config: _Reader) -> Model:
    return _classic(
        config,
        activation=config.activation(gated=False, default="gelu"),
        positions="rotary",
        tied_embeddings=config.flag("tie_word_embeddings", False),
        notes=[BESIDE] if config.flag("use_parallel_residual", True) else [],
    )


def _phi(config: _Reader) -> Model:
    return _classic(
        config,
        activation=config.activation(gated=False, default="gelu_new"),
        positions="rotary",
        tied_embeddings=config.flag("tie_word_embeddings", False),
        notes=[BESIDE],
    )


def _falcon(config: _Reader) -> Model:
    """Keys and values of one head, or of a few in the newer form."""
    heads = config.count("num_attention_heads", "n_head")
    several = config.flag("new_decoder_architecture", False)
    shared = 1 if config.flag("multi_query", True) else heads
    return _classic(
        config,
        kv_heads=config.count("num_kv_heads", "n_head_kv", default=8) if several else shared,
        activation="gelu",
        positions="alibi" if config.flag("alibi", False) else "rotary",
        tied_embeddings=config.flag("tie_word_embeddings", True),
        bias=config.flag("bias", False),
        notes=[BESIDE] if several or config.flag("parallel_attn", True) else [],
    )


def _mpt(config: _Reader) -> Model:
    kernel = config.get("attn_config") or {}
    hidden = config.count("d_model")
    return _classic(
        config,
        ffn=round(float(config.get("expansion_ratio") or 4) * hidden),
        activation="gelu",
        positions="alibi" if kernel.get("alibi") else "learned",
        tied_embeddings=True,
        bias=not config.flag("no_bias", True),
        **({} if kernel.get("alibi") else {"max_positions": config.count("max_seq_len", default=2048)}),
    )


def _opt(config: _Reader) -> Model:
    """Two rows of the table of positions are never used."""
    return _classic(
        config,
        activation=config.activation(gated=False, default="relu"),
        positions="learned",
        max_positions=config.count("max_position_embeddings", default=2048) + 2,
        tied_embeddings=config.flag("tie_word_embeddings", True),
        dropout=bool(config.get("dropout") or 0),
    )


def _bloom(config: _Reader) -> Model:
    return _classic(config, activation="gelu", positions="alibi", tied_embeddings=True)


# --- experts ------------------------------------------------------------------------------------


def _mixtral(config: _Reader) -> Model:
    return _decoder(config, moe=_mixture(config, config.count("intermediate_size")))


def _mixture(config: _Reader, ffn: int, **more: Any) -> Model:
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    chosen = config.count("num_experts_per_tok", "experts_per_token")
    return {"experts": config.count(*names), "top_k": chosen, "ffn": ffn, **more}


def _qwen3_moe(config: _Reader) -> Model:
    """Some layers may be dense, all at the start or at even steps."""
    plain = sorted(config.get("mlp_only_layers") or ())
    first = len(plain) if plain == list(range(len(plain))) else 0
    step = config.count("decoder_sparse_step", default=1)
    mixture = _mixture(config, config.count("moe_intermediate_size"), first_dense=first, every=step)
    notes = [] if len(plain) == first else [f"the dense layers {', '.join(map(str, plain))} have experts here"]
    return {**_qwen3(config), "moe": mixture, "notes": notes}


def _deepseek(config: _Reader) -> Model:
    """Latent attention, shared experts, a limit on the groups that a token uses."""
    groups, limit = config.get("n_group"), config.get("topk_group")
    limited = {"groups": groups, "group_limit": limit} if groups and limit and groups > 1 else {}
    mixture = _mixture(
        config,
        config.count("moe_intermediate_size"),
        shared_experts=config.get("n_shared_experts") or 0,
        first_dense=config.get("first_k_dense_replace") or 0,
        every=config.count("moe_layer_freq", default=1),
        **limited,
    )
    latent = {
        "q_rank": config.get("q_lora_rank"),
        "kv_rank": config.count("kv_lora_rank"),
        "nope_head_dim": config.count("qk_nope_head_dim"),
        "rope_head_dim": config.count("qk_rope_head_dim"),
        "value_head_dim": config.count("v_head_dim"),
    }
    model = _decoder(config, moe=mixture, mla={key: value for key, value in latent.items() if value is not None})
    model.pop("kv_heads")
    if config.get("num_nextn_predict_layers"):
        model["notes"] = ["predicting more than the next token is left out (workload.predicted_tokens adds it)"]
    return model


def _gpt_oss(config: _Reader) -> Model:
    """Every other layer looks back on a window; all products have a bias."""
    mixture = _mixture(config, config.count("intermediate_size"))
    return _decoder(
        config, moe=mixture, bias=True, attention_bias=False, activation="swiglu", full_every=2,
        window=config.count("sliding_window", default=128), **_width(config, 64),
    )  # fmt: skip


# --- encoders, images, states -------------------------------------------------------------------


def _bert(config: _Reader, *, segments: int = 2, positions: int = 512) -> Model:
    named = config.get("architectures") or ["BertForPreTraining"]
    return {
        "kind": "encoder",
        "layers": config.count("num_hidden_layers", default=12),
        "hidden": config.count("hidden_size", default=768),
        "heads": config.count("num_attention_heads", default=12),
        "ffn": config.count("intermediate_size", default=3072),
        "vocab": config.count("vocab_size", default=30522),
        "segments": config.count("type_vocab_size", default=segments),
        "max_positions": config.count("max_position_embeddings", default=positions),
        "activation": config.activation(gated=False, default="gelu"),
        "next_sentence": named[0] == "BertForPreTraining",
        "dropout": bool(config.get("hidden_dropout_prob") or 0),
        "notes": ["15 % of the positions are masked, as in BERT"],
    }


def _roberta(config: _Reader) -> Model:
    return {**_bert(config, segments=1, positions=514), "next_sentence": False}


def _t5(config: _Reader) -> Model:
    layers, form = config.count("num_layers"), str(config.get("feed_forward_proj") or "relu")
    activation = {"relu": "relu", "gelu": "gelu", "gated-gelu": "geglu", "gated-silu": "swiglu"}.get(form)
    if activation is None:
        raise ConfigError(Problem("", "feed_forward_proj", f"{form!r} is not known"))
    return {
        "kind": "encoder_decoder",
        "encoder_layers": layers,
        "decoder_layers": config.count("num_decoder_layers", default=layers),
        "hidden": config.count("d_model"),
        "heads": config.count("num_heads"),
        "head_dim": config.count("d_kv"),
        "ffn": config.count("d_ff"),
        "vocab": config.count("vocab_size"),
        "buckets": config.count("relative_attention_num_buckets", default=32),
        "activation": activation,
        "tied_embeddings": config.flag("tie_word_embeddings", True),
        "dropout": bool(config.get("dropout_rate") or 0),
    }


def _vit(config: _Reader) -> Model:
    labels = config.get("id2label")
    return {
        "kind": "vision_transformer",
        "image": config.count("image_size", default=224),
        "patch": config.count("patch_size", default=16),
        "layers": config.count("num_hidden_layers", default=12),
        "hidden": config.count("hidden_size", default=768),
        "heads": config.count("num_attention_heads", default=12),
        "ffn": config.count("intermediate_size", default=3072),
        "classes": len(labels) if labels else config.count("num_labels", default=1000),
        "activation": config.activation(gated=False, default="gelu"),
        "dropout": bool(config.get("hidden_dropout_prob") or 0),
        "notes": [] if labels else ["1,000 classes are assumed"],
    }


def _mamba2(config: _Reader) -> Model:
    """As Transformers names the keys, or as the authors do (`d_model`, `ssm_cfg`)."""
    hidden, vocab = config.count("hidden_size", "d_model"), config.count("vocab_size")
    rows = config.count("pad_vocab_size_multiple", default=1)
    inner = _Reader({**config.config, **(config.get("ssm_cfg") or {})})
    return {
        "kind": "state_space",
        "layers": config.count("num_hidden_layers", "n_layer"),
        "hidden": hidden,
        "inner": round(float(inner.get("expand") or 2) * hidden),
        "state": inner.count("state_size", "d_state", default=128),
        "scan_head_dim": inner.count("head_dim", "headdim", default=64),
        "groups": inner.count("n_groups", "ngroups", default=1),
        "kernel": inner.count("conv_kernel", "d_conv", default=4),
        "chunk": inner.count("chunk_size", default=256),
        "vocab": -(-vocab // rows) * rows,
        "tied_embeddings": config.flag("tie_word_embeddings", config.flag("tie_embeddings", True)),
    }


ARCHITECTURES: dict[str, Callable[[_Reader], Model]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "GemmaForCausalLM": _gemma,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "PhiForCausalLM": _phi,
    "Phi3ForCausalLM": _phi3,
    "GPT2LMHeadModel": _gpt2,
    "GPTNeoXForCausalLM": _gpt_neox,
    "FalconForCausalLM": _falcon,
    "RWForCausalLM": _falcon,
    "MPTForCausalLM": _mpt,
    "MptForCausalLM": _mpt,
    "OPTForCausalLM": _opt,
    "BloomForCausalLM": _bloom,
    "MixtralForCausalLM": _mixtral,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "DeepseekV2ForCausalLM": _deepseek,
    "DeepseekV3ForCausalLM": _deepseek,
    "GptOssForCausalLM": _gpt_oss,
    "BertForPreTraining": _bert,
    "BertForMaskedLM": _bert,
    "BertModel": _bert,
    "RobertaForMaskedLM": _roberta,
    "RobertaModel": _roberta,
    "T5ForConditionalGeneration": _t5,
    "T5WithLMHeadModel": _t5,
    "ViTForImageClassification": _vit,
    "ViTModel": _vit,
    "Mamba2ForCausalLM": _mamba2,
    "MambaLMHeadModel": _mamba2,
}
BY_TYPE = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM", "gemma3_text": "Gemma3ForCausalLM", "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM", "gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM",
    "falcon": "FalconForCausalLM", "mpt": "MptForCausalLM", "opt": "OPTForCausalLM", "bloom": "BloomForCausalLM",
    "mixtral": "MixtralForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM", "gpt_oss": "GptOssForCausalLM", "bert": "BertForPreTraining",
    "roberta": "RobertaForMaskedLM", "t5": "T5ForConditionalGeneration", "vit": "ViTForImageClassification",
    "mamba2": "Mamba2ForCausalLM",
}  # fmt: skip
