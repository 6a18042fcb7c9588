"""Trainable and all parameters, and every trained shape, against peft on the real classes."""

import collections
from collections.abc import Callable
from typing import Any

import pytest

from planner.adapters import Adapter, AdapterCounts, adapter_parameters, resolved
from planner.models import build_model, load_model
from planner.sources import ConfigSource

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TinyConfig = Callable[..., dict[str, Any]]
QV = ("q_proj", "v_proj")

NOT_LINEAR = {"siglip", "siglip_vision_model"}
"""Their MultiheadAttention is one module to peft, and tensors in the tree."""


def shapes(counts: AdapterCounts) -> collections.Counter[tuple[Any, ...]]:
    found: collections.Counter[tuple[Any, ...]] = collections.Counter()
    for one in counts.added:
        if one.trains:
            found[tuple(one.tensor.shape)] += int(one.copies)
    for kept in counts.trained:
        found[tuple(kept.tensor.shape)] += int(kept.copies)
    return found


def compare(raw: dict[str, Any], adapter: Adapter, config: Any, class_name: str | None, device: str) -> None:
    from planner.real.build import build

    model = build_model(ConfigSource(name="tiny", raw=raw, origin="tiny"), class_name=class_name)
    real: Any = build(raw, model.class_name, "tiny", dtype=torch.float32, device=device)
    real.config.model_type = raw["model_type"]
    wrapped = peft.get_peft_model(real, config)
    counts = adapter_parameters(model.tree, resolved(adapter, model.tree, raw["model_type"]))
    assert (counts.trainable, counts.total) == wrapped.get_nb_trainable_parameters()
    trained = (tuple(parameter.shape) for parameter in wrapped.parameters() if parameter.requires_grad)
    assert shapes(counts) == collections.Counter(trained)


def test_every_matrix_of_every_model_type(tiny_type: str, tiny_config: TinyConfig) -> None:
    if tiny_type in NOT_LINEAR:
        pytest.skip("holds a MultiheadAttention")
    config = peft.LoraConfig(r=3, target_modules="all-linear")
    adapter = Adapter(method="lora", rank=3, target_modules="all-linear")
    if tiny_type in ("falcon_mamba", "mamba", "mamba2", "nemotron_h"):
        config.exclude_modules, adapter = (
            ["out_proj"],
            Adapter(method="lora", rank=3, target_modules="all-linear", exclude_modules=("out_proj",)),
        )
    compare(tiny_config(tiny_type), adapter, config, None, "meta")


def lora(**values: Any) -> tuple[Adapter, Any]:
    """The same for us and for peft."""
    method = "dora" if values.pop("use_dora", False) else "lora"
    theirs = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    if theirs.get("bias") == "only":
        theirs["bias"] = "lora_only"
    if "target_parameters" in theirs:
        theirs.setdefault("target_modules", [])
    return Adapter(method=method, rank=4, **values), peft.LoraConfig(r=4, use_dora=method == "dora", **theirs)


LORA: list[tuple[str, str | None, dict[str, Any]]] = [
    ("llama", None, {"use_dora": True, "target_modules": QV}),
    ("llama", None, {"target_modules": ("q_proj", "embed_tokens", "lm_head")}),
    ("llama", None, {"target_modules": QV, "modules_to_save": ("embed_tokens", "lm_head")}),
    ("llama", None, {"target_modules": QV, "layers_to_transform": (1, 2)}),
    ("llama", None, {"target_modules": r".*\.[12]\.self_attn\.(q|o)_proj"}),
    ("llama", None, {"target_modules": QV, "rank_pattern": {"layers.1.self_attn.q_proj": 7, "v_proj": 2}}),
    ("llama", None, {"target_modules": "all-linear", "exclude_modules": ("down_proj",)}),
    ("gemma", None, {"target_modules": QV, "modules_to_save": ("embed_tokens",)}),
    ("gpt2", None, {"bias": "all"}),
    ("gpt2", None, {"bias": "only"}),
    ("gpt2", "GPT2LMHeadModel", {"target_modules": "all-linear", "modules_to_save": ("wte",)}),
    ("gpt2", "GPT2LMHeadModel", {"target_modules": ("wte", "c_fc", "lm_head")}),
    ("t5", None, {"modules_to_save": ("shared",)}),
    ("t5", "T5ForConditionalGeneration", {"modules_to_save": ("lm_head",)}),
    ("t5", "T5ForConditionalGeneration", {"target_modules": ("q", "embed_tokens")}),
    ("bart", None, {"target_modules": ("q_proj", "fc1", "out_proj"), "bias": "all"}),
    ("bert", "BertForSequenceClassification", {"modules_to_save": ("classifier",)}),
    ("gemma3", None, {"target_modules": "all-linear", "modules_to_save": ("multi_modal_projector",)}),
    ("vit", None, {"target_modules": ("projection",)}),
    ("whisper", None, {"target_modules": ("conv1", "conv2", "q_proj")}),
    ("qwen3_moe", None, {"target_parameters": ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")}),
    ("qwen3_moe", None, {"target_modules": ".*(gate_proj|up_proj|q_proj)"}),
    (
        "gpt_oss",
        None,
        {
            "target_modules": ("q_proj",),
            "target_parameters": ("experts.gate_up_proj", "experts.down_proj", "router.weight"),
        },
    ),
    ("mixtral", None, {"target_modules": ("q_proj", "w1", "w2", "w3", "gate")}),
    ("dbrx", None, {"target_modules": ("Wqkv",), "target_parameters": ("mlp.w1", "mlp.v1", "mlp.w2")}),
]


@pytest.mark.parametrize(("model_type", "class_name", "values"), LORA)
def test_lora(tiny_config: TinyConfig, model_type: str, class_name: str | None, values: dict[str, Any]) -> None:
    adapter, config = lora(**values)
    compare(tiny_config(model_type), adapter, config, class_name, "meta")


SQUARE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}

METHODS: list[tuple[str, str, dict[str, Any]]] = [
    ("adalora", "AdaLoraConfig", {"init_r": 6, "total_step": 10}),
    ("beft", "BeftConfig", {}),
    ("boft", "BOFTConfig", {"boft_block_size": 8}),
    ("c3a", "C3AConfig", {"block_size": 16}),
    ("deft", "DeftConfig", {"r": 4}),
    ("delora", "DeloraConfig", {"r": 4}),
    ("fourierft", "FourierFTConfig", {"n_frequency": 50}),
    ("frod", "FrodConfig", {"sparse_rate": 0.05}),
    ("glora", "GloraConfig", {"r": 4}),
    ("gralora", "GraloraConfig", {"r": 4, "gralora_k": 2, "hybrid_r": 2}),
    ("hira", "HiraConfig", {"r": 4}),
    ("hra", "HRAConfig", {"r": 4}),
    ("lily", "LilyConfig", {"r": 4, "stride_A": 2, "num_B": 2}),
    ("loha", "LoHaConfig", {"r": 4}),
    ("lokr", "LoKrConfig", {"r": 2, "decompose_factor": 4}),
    ("lokr", "LoKrConfig", {"r": 4}),
    ("lokr", "LoKrConfig", {"r": 12, "decompose_factor": 4}),
    ("miss", "MissConfig", {"r": 4}),
    ("oft", "OFTConfig", {"oft_block_size": 16}),
    ("peanut", "PeanutConfig", {"r": 4, "depth": 2}),
    ("psoft", "PsoftConfig", {"r": 4}),
    ("pvera", "PveraConfig", {"r": 8}),
    ("randlora", "RandLoraConfig", {"r": 5}),
    ("shira", "ShiraConfig", {"r": 4}),
    ("tinylora", "TinyLoraConfig", {"u": 10, "weight_tying": 0.5}),
    ("unilora", "UniLoraConfig", {"r": 2, "theta_d_length": 32}),
    ("vblora", "VBLoRAConfig", {"r": 2, "num_vectors": 20, "vector_length": 16}),
    ("vera", "VeraConfig", {"r": 8}),
    ("waveft", "WaveFTConfig", {"n_frequency": 40}),
]


@pytest.mark.parametrize(("method", "config_name", "values"), METHODS)
def test_methods(tiny_config: TinyConfig, method: str, config_name: str, values: dict[str, Any]) -> None:
    names = {"r", "init_r", "total_step"}
    rank = values.get("r", values.get("init_r"))
    options = {key: value for key, value in values.items() if key not in names}
    adapter = Adapter(method=method, rank=rank, target_modules=QV, options=options)
    if config_name == "FrodConfig":
        values = {**values, "progressbar": False}
    config = getattr(peft, config_name)(target_modules=list(QV), **values)
    compare(tiny_config("llama", **SQUARE), adapter, config, None, "cpu")


PROMPTS: list[tuple[str, str, dict[str, Any]]] = [
    ("prefix", "PrefixTuningConfig", {"num_virtual_tokens": 7}),
    ("prompt", "PromptTuningConfig", {"num_virtual_tokens": 7}),
    ("p-tuning", "PromptEncoderConfig", {"num_virtual_tokens": 7}),
    ("adaption-prompt", "AdaptionPromptConfig", {"adapter_len": 7, "adapter_layers": 2}),
]


@pytest.mark.parametrize(("method", "config_name", "values"), PROMPTS)
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_prompts(
    tiny_config: TinyConfig, model_type: str, method: str, config_name: str, values: dict[str, Any]
) -> None:
    config = getattr(peft, config_name)(task_type="CAUSAL_LM", **values)
    compare(tiny_config(model_type), Adapter(method=method, options=values), config, None, "cpu")


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "t5"])
def test_scaled_activations(tiny_config: TinyConfig, model_type: str) -> None:
    compare(tiny_config(model_type), Adapter(method="ia3"), peft.IA3Config(), None, "meta")


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "t5"])
def test_trained_norms(tiny_config: TinyConfig, model_type: str) -> None:
    compare(tiny_config(model_type), Adapter(method="ln_tuning"), peft.LNTuningConfig(), None, "meta")


LARGE: list[tuple[str, int, tuple[str, ...] | str]] = [
    ("meta-llama/Llama-3.1-8B", 16, ("q_proj", "k_proj", "v_proj", "o_proj")),
    ("mistralai/Mixtral-8x7B-v0.1", 8, ("q_proj", "w1", "w2", "w3")),
    ("openai-community/gpt2", 8, ("c_attn",)),
    ("google/gemma-2-9b", 32, "all-linear"),
]


@pytest.mark.parametrize(("name", "rank", "targets"), LARGE)
def test_large_models(name: str, rank: int, targets: tuple[str, ...] | str) -> None:
    raw = dict(load_model(name).raw)
    theirs = list(targets) if isinstance(targets, tuple) else targets
    adapter = Adapter(method="lora", rank=rank, target_modules=targets)
    compare(raw, adapter, peft.LoraConfig(r=rank, target_modules=theirs), None, "meta")
