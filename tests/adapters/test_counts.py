"""Counts by hand and as published, places in the tree, and columns."""

from typing import Any

import numpy as np
import pytest

from planner.adapters import Adapter, adapted, adapter_parameters, resolved, trains
from planner.counts import held_tensors
from planner.errors import ScenarioError, UnknownNameError, UnsupportedError
from planner.models import Model, build_model
from planner.nodes import Linear, Module, Node, Repeat, walk
from planner.sources import ConfigSource

LLAMA_3_2_3B = {
    "model_type": "llama",
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
MLP = ("gate_proj", "up_proj", "down_proj")
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", *MLP)


def model(raw: dict[str, Any]) -> Model:
    return build_model(ConfigSource(name="own", raw=raw, origin="own"))


@pytest.fixture(scope="module")
def llama() -> Node:
    return model(LLAMA_3_2_3B).tree


# trainable and all parameters, as peft reports them: huggingface/peft, method_comparison/MetaMathQA/results, 5d602fd
PUBLISHED: list[tuple[str, dict[str, Any], int, int]] = [
    ("adamss", {"rank": 32, "options": {"num_subspaces": 100}}, 293888, 3213043712),
    ("adaption-prompt", {"options": {"adapter_len": 100}}, 8601628, 3221351452),
    ("bdlora", {"rank": 14, "target_modules": MLP, "input_side_modules": ("down_proj",)}, 8429568, 3221179392),
    ("deft", {"rank": 32, "options": {"para": 1}}, 3670016, 3216419840),
    ("deft", {"rank": 32}, 9175040, 3221924864),
    ("delora", {"rank": 32}, 9175096, 3221924920),
    ("fourierft", {}, 56000, 3212805824),
    ("fourierft", {"options": {"n_frequency": 5000}}, 280000, 3213029824),
    ("frod", {}, 5456808, 3218206632),
    ("frod", {"options": {"sparse_rate": 0.02}}, 10741640, 3223491464),
    ("glora", {}, 4587520, 3217337344),
    ("gralora", {"rank": 32}, 9175040, 3221924864),
    ("ia3", {}, 286720, 3213036544),
    ("lily", {"rank": 896, "options": {"stride_A": 14}}, 18450432, 3231200256),
    ("ln_tuning", {}, 175104, 3212924928),
    ("loha", {"rank": 32}, 18350080, 3231099904),
    ("lokr", {"rank": 32, "options": {"decompose_factor": 4}}, 2294656, 3215044480),
    ("lora", {"rank": 10, "target_modules": MLP}, 9461760, 3222211584),
    ("lora-fa", {"rank": 32}, 3670016, 3221924864),
    ("lora", {"rank": 64}, 18350080, 3231099904),
    ("rslora", {"rank": 64}, 18350080, 3231099904),
    ("miss", {}, 7340032, 3220089856),
    ("osf", {"rank": 128}, 194535936, 3407285760),
    ("p-tuning", {}, 28382208, 3241132032),
    ("prefix", {"options": {"num_virtual_tokens": 200}}, 11468800, 3224218624),
    ("prefix", {"options": {"num_virtual_tokens": 50}}, 2867200, 3215617024),
    ("prompt", {"options": {"num_virtual_tokens": 200}}, 614400, 3213364224),
    ("pvera", {"rank": 64}, 121856, 3212871680),
    ("randlora", {}, 9289728, 3222039552),
    ("road", {"options": {"variant": 2}}, 229376, 3212979200),
    ("shira", {}, 9175040, 3221924864),
    ("tinylora", {}, 3584, 3212753408),
    ("tinylora", {"options": {"weight_tying": 1}}, 64, 3212749888),
    ("unilora", {}, 256, 3212750080),
    ("vblora", {}, 1212416, 3213962240),
    ("vera", {}, 129024, 3212878848),
]


@pytest.mark.parametrize(("method", "values", "trainable", "total"), PUBLISHED)
def test_counts_equal_the_published_ones(
    llama: Node, method: str, values: dict[str, Any], trainable: int, total: int
) -> None:
    counts = adapter_parameters(llama, resolved(Adapter(method=method, **values), llama, "llama"))
    assert (counts.trainable, counts.total) == (trainable, total)


# trainable parameters: Lightning-AI/litgpt, tutorials/resource-tables.md, 2685705
LITGPT: list[tuple[str, int, int, int, int]] = [
    ("lora", 32, 4096, 11008, 4194304),
    ("lora", 40, 5120, 13824, 6553600),
    ("adapter", 32, 4096, 11008, 1229760),
    ("adapter_v2", 32, 4096, 11008, 4279744),
]


@pytest.mark.parametrize(("method", "layers", "hidden", "ffn", "trainable"), LITGPT)
def test_counts_equal_those_of_litgpt(method: str, layers: int, hidden: int, ffn: int, trainable: int) -> None:
    tree = model(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 128,
            "intermediate_size": ffn,
            "vocab_size": 32000,
        }
    ).tree
    values: dict[str, Any] = {"target_modules": ("q_proj", "v_proj")} if method == "lora" else {}
    assert adapter_parameters(tree, Adapter(method=method, **values)).trainable == trainable


@pytest.mark.parametrize(("method", "trainable"), [("adapter", 573888), ("adapter_v2", 2125248)])
def test_llama_adapters_of_a_model_with_fused_queries_and_biases(method: str, trainable: int) -> None:
    # StableLM-3B-alpha; litgpt, tutorials/resource-tables.md, 2685705
    raw = {
        "model_type": "gpt_neox",
        "hidden_size": 4096,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "intermediate_size": 16384,
        "vocab_size": 50688,
        "tie_word_embeddings": False,
    }
    assert adapter_parameters(model(raw).tree, Adapter(method=method)).trainable == trainable


def stack(count: Any = 3) -> Module:
    block = Module(
        children={
            "q_proj": Linear(in_features=64, out_features=32, bias=True),
            "o_proj": Linear(in_features=32, out_features=64),
        },
        bucket="attention",
    )
    indices = range(count) if isinstance(count, int) else None
    return Module(children={"model.layers": Repeat(child=block, count=count, indices=indices)})


def test_layers_patterns_and_exclusions_choose_copies() -> None:
    def trainable(**values: Any) -> int:
        return int(adapter_parameters(stack(), Adapter(method="lora", rank=2, **values)).trainable)

    one = 2 * (64 + 32)
    assert trainable(target_modules=("q_proj",)) == 3 * one
    assert trainable(target_modules=("q_proj",), layers_to_transform=(1,)) == one
    assert trainable(target_modules=("q_proj",), layers_to_transform=(1,), layers_pattern=("layers",)) == one
    assert trainable(target_modules=("layers.2.q_proj",)) == one
    assert trainable(target_modules=r".*\.[01]\.(q|o)_proj") == 4 * one
    assert trainable(target_modules="all-linear", exclude_modules=("o_proj",)) == 3 * one
    # ranks 2, 5 and 2
    assert trainable(target_modules=("q_proj",), rank_pattern={"layers.1.q_proj": 5}) == (2 + 5 + 2) * (64 + 32)


def test_biases_copies_and_frozen_parts() -> None:
    def counts(**values: Any) -> tuple[int, int]:
        found = adapter_parameters(stack(), Adapter(**values))
        return int(found.trainable), int(found.added_parameters)

    lora = 3 * 2 * (64 + 32)
    assert counts(method="lora", rank=2, target_modules=("o_proj",), bias="all") == (lora + 3 * 32, lora)
    assert counts(method="lora", rank=2, target_modules=("o_proj",), bias="only") == (lora, lora)
    # a copy of each o_proj is added, and trained in its place
    copies = 3 * 32 * 64
    assert counts(method="lora", rank=2, target_modules=("q_proj",), modules_to_save=("o_proj",)) == (
        lora + copies,
        lora + copies,
    )
    assert counts(method="bitfit") == (3 * 32, 0)
    assert counts(method="full") == (3 * (64 * 32 + 32 + 32 * 64), 0)
    assert counts(method="frozen", frozen_modules=("q_proj",)) == (3 * 32 * 64, 0)
    assert counts(method="frozen", trained_modules=("layers.0",)) == (64 * 32 + 32 + 32 * 64, 0)


def test_what_is_adapted_and_what_is_trained() -> None:
    adapter = Adapter(method="lora", target_modules=("q_proj",), bias="all", layers_to_transform=(0, 1))
    rows = {row.path: row for row in walk(stack())}
    assert adapted(rows["model.layers.*.q_proj"], adapter) == 2
    assert adapted(rows["model.layers.*.o_proj"], adapter) == 0
    weight, bias = held_tensors(rows["model.layers.*.q_proj"])
    assert not trains(rows["model.layers.*.q_proj"], weight, adapter)
    assert trains(rows["model.layers.*.q_proj"], bias, adapter)
    saved = Adapter(method="lora", target_modules=("q_proj",), modules_to_save=("o_proj",))
    assert trains(rows["model.layers.*.o_proj"], held_tensors(rows["model.layers.*.o_proj"])[0], saved)


def test_each_tensor_has_its_place() -> None:
    adapter = Adapter(method="dora", rank=2, target_modules=("q_proj",), layers_to_transform=(0, 2))
    added = adapter_parameters(stack(), adapter).added
    assert [(one.tensor.name, one.tensor.shape, one.copies, one.indices) for one in added] == [
        ("lora_A.weight", (2, 64), 2, ((0, 2),)),
        ("lora_B.weight", (32, 2), 2, ((0, 2),)),
        ("lora_magnitude_vector.weight", (32,), 2, ((0, 2),)),
    ]


@pytest.mark.parametrize(
    "method", ["lora", "dora", "adalora", "deft", "glora", "loha", "osf", "randlora", "vera", "lily"]
)
def test_a_column_of_ranks_and_of_layers_equals_each_alone(method: str) -> None:
    ranks, layers = np.array([2.0, 16.0, 40.0]), np.array([3.0, 5.0, 8.0])
    column = adapter_parameters(stack(layers), Adapter(method=method, rank=ranks, target_modules=("q_proj",)))
    alone = [
        adapter_parameters(stack(int(count)), Adapter(method=method, rank=int(rank), target_modules=("q_proj",)))
        for rank, count in zip(ranks, layers, strict=True)
    ]
    assert np.asarray(column.trainable).tolist() == [one.trainable for one in alone]
    assert np.asarray(column.total).tolist() == [one.total for one in alone]


def test_what_cannot_be_adapted_says_why(llama: Node) -> None:
    with pytest.raises(UnknownNameError, match="no module of the model is 'q_prj' .did you mean 'q_proj'"):
        adapter_parameters(llama, Adapter(method="lora", target_modules=("q_prj",)))
    with pytest.raises(UnsupportedError, match="no default targets of 'lora' for models of type 'nothing'"):
        resolved(Adapter(method="lora"), llama, "nothing")
    with pytest.raises(UnsupportedError, match="no multiple of 5"):
        adapter_parameters(llama, Adapter(method="c3a", target_modules=("q_proj",), options={"block_size": 5}))
    with pytest.raises(UnsupportedError, match="is Embedding"):
        adapter_parameters(llama, Adapter(method="hra", target_modules=("embed_tokens",)))
    adapter = Adapter(method="lora", target_modules=("q_proj",), layers_to_transform=(0,))
    with pytest.raises(UnsupportedError, match="where their number is swept"):
        adapter_parameters(stack(np.array([2.0, 4.0])), adapter)


def test_names_of_experts_in_checkpoints_become_their_fused_tensors(tiny_model: Any) -> None:
    tree = tiny_model("mixtral").tree
    adapter = resolved(Adapter(method="lora", rank=4, target_modules=("q_proj", "w1", "w2", "w3")), tree, "mixtral")
    assert adapter.target_parameters == ("down_proj", "gate_up_proj")
    # gate and up are one tensor, with twice the rank
    assert adapter.rank_pattern == {r".*\.gate_up_proj": 8}
    with pytest.raises(ScenarioError, match="'w1' is one tensor with 'w3'"):
        resolved(Adapter(method="lora", target_modules=("w1",)), tree, "mixtral")


def test_kernels_that_read_a_weight_and_not_its_module_have_no_adapter(tiny_model: Any) -> None:
    tree = tiny_model("mamba").tree
    with pytest.raises(UnsupportedError, match="LoRA has no effect on .*out_proj"):
        resolved(Adapter(method="lora", target_modules="all-linear"), tree, "mamba")
    kept = Adapter(method="lora", target_modules="all-linear", exclude_modules=("out_proj",))
    assert resolved(kept, tree, "mamba") == kept
