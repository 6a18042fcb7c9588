"""What is trained of a model, and what is added to it: an adapter as a checked value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from planner.errors import ScenarioError, UnknownNameError, near_miss
from planner.formats import plain_format
from planner.numeric import Num, all_true

Targets: TypeAlias = Literal["linear", "any", "norm", "prompt", "base"]
"""What a method changes: ``linear`` matrices; ``any`` of matrices, tables and convolutions; whole modules such as a
``norm``; the input or the attention by a ``prompt``; nothing but which tensors of the ``base`` are trained."""

ALL_LINEAR = "all-linear"
"""Target that stands for every matrix but the output head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way of training less than all parameters.

    Attributes
    ----------
    targets : str
        See `Targets`.
    rank : int or None
        Rank where none is given, as in peft; None where the method has no rank.
    options : mapping of str to float
        Its further numbers and what they are where they are not given, by peft's names.
    """

    targets: Targets
    rank: int | None = None
    options: Mapping[str, float] = field(default_factory=dict)


_LORA = Method(targets="any", rank=8)

METHODS: Mapping[str, Method] = {
    "full": Method(targets="base"),
    "frozen": Method(targets="base"),
    "bitfit": Method(targets="base"),
    "lora": _LORA,
    "rslora": _LORA,
    "qlora": _LORA,
    "dora": _LORA,
    "lora-fa": _LORA,
    "bdlora": Method(targets="linear", rank=8, options={"nblocks": 2}),
    "adalora": Method(targets="linear", rank=12),
    "adamss": Method(targets="linear", rank=100, options={"num_subspaces": 5, "subspace_rank": 1}),
    "beft": Method(targets="linear"),
    "boft": Method(targets="linear", options={"boft_block_size": 4, "boft_n_butterfly_factor": 1}),
    "c3a": Method(targets="linear", options={"block_size": 256}),
    "deft": Method(targets="linear", rank=8, options={"para": 0}),
    "delora": Method(targets="linear", rank=8),
    "fourierft": Method(targets="linear", options={"n_frequency": 1000}),
    "frod": Method(targets="linear", options={"sparse_rate": 0.01}),
    "glora": Method(targets="linear", rank=8),
    "gralora": Method(targets="linear", rank=32, options={"gralora_k": 2, "hybrid_r": 0}),
    "hira": Method(targets="linear", rank=32),
    "hra": Method(targets="linear", rank=8),
    "ia3": Method(targets="linear"),
    "lily": Method(targets="linear", rank=32, options={"stride_A": 1, "num_B": 2}),
    "loha": Method(targets="linear", rank=8),
    "lokr": Method(targets="linear", rank=8, options={"decompose_factor": -1}),
    "miss": Method(targets="linear", rank=64),
    "oft": Method(targets="linear", options={"oft_block_size": 32}),
    "osf": Method(targets="linear", rank=8),
    "peanut": Method(targets="linear", rank=32, options={"depth": 0}),
    "psoft": Method(targets="linear", rank=32),
    "pvera": Method(targets="linear", rank=256),
    "randlora": Method(targets="linear", rank=32),
    "road": Method(targets="linear", options={"variant": 1}),
    "shira": Method(targets="linear", rank=32),
    "tinylora": Method(targets="linear", rank=2, options={"u": 64, "weight_tying": 0}),
    "unilora": Method(targets="linear", rank=4, options={"theta_d_length": 256}),
    "vblora": Method(targets="linear", rank=4, options={"num_vectors": 256, "vector_length": 256}),
    "vera": Method(targets="linear", rank=256),
    "waveft": Method(targets="linear", options={"n_frequency": 2592}),
    "ln_tuning": Method(targets="norm"),
    "prefix": Method(targets="prompt", options={"num_virtual_tokens": 20}),
    "prompt": Method(targets="prompt", options={"num_virtual_tokens": 20, "num_transformer_submodules": 1}),
    "p-tuning": Method(
        targets="prompt",
        options={"num_virtual_tokens": 20, "num_transformer_submodules": 1, "encoder_hidden_size": 0},
    ),
    "adaption-prompt": Method(targets="prompt", options={"adapter_len": 10, "adapter_layers": 0}),
    "adapter": Method(targets="prompt", options={"adapter_prompt_length": 10, "adapter_start_layer": 2}),
    "adapter_v2": Method(targets="prompt", options={"adapter_prompt_length": 10, "adapter_start_layer": 2}),
}
"""Methods by name. Numbers are the defaults of peft 0.21, and of litgpt for ``adapter`` and ``adapter_v2``,
LLaMA-Adapter (arXiv:2303.16199, 2304.15010) as litgpt trains it; ``adaption-prompt`` is that idea in peft.

``rslora`` differs from ``lora`` in a scale only, ``qlora`` in the format of the base, and ``lora-fa`` trains the second
factor alone. ``bitfit`` trains biases, ``frozen`` all but named modules. An option of 0 stands for the model's own
number: its width for ``encoder_hidden_size``, all layers for ``adapter_layers``; ``variant`` is ROAD's 1, 2 or 4.
"""

Bias = Literal["none", "all", "only"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What is trained, and what is added for it.

    Attributes
    ----------
    method : str
        A name of `METHODS`.
    rank : Num or None
        Rank; the method's own where it is None. [-]
    target_modules : tuple of str, str or None
        Names of modules, each the last parts of a path; or a pattern for whole paths; or ``all-linear``. None stands
        for what peft targets in a model of this type, see `planner.adapters.targets.resolved`.
    target_parameters : tuple of str
        Names of bare tensors, such as fused experts, each the last parts of a path.
    exclude_modules : tuple of str or str
        Modules that are left alone, by names or a pattern.
    input_side_modules : tuple of str
        Targets that are changed on the side of their input: for ``ia3`` those whose input is scaled and not their
        output (peft's feedforward_modules), for ``bdlora`` those whose first factor is in blocks and not the second.
    modules_to_save : tuple of str
        Modules of which a copy is trained; a path that ends with one of them is meant, whole part or not.
    layers_to_transform : tuple of int or None
        Layers that have the adapter, all where it is None.
    layers_pattern : tuple of str
        Names of the module lists that these count; any list where it is empty.
    rank_pattern : mapping of str to Num
        Other ranks by a pattern for the end of a path.
    bias : str
        Biases of the base that are trained as well: ``none``, ``all``, or ``only`` those of adapted modules.
    frozen_modules : tuple of str
        For ``frozen``: modules that are not trained, with all below them, such as ``vision_tower``.
    trained_modules : tuple of str
        For ``frozen``: the only ones that are, where any are named; `frozen_modules` among them stay frozen.
    options : mapping of str to float
        Further numbers of the method, see `METHODS`.
    dtype : str
        Plain dtype of what is added; peft keeps adapters of a 16-bit model in ``fp32`` (autocast_adapter_dtype).
    dropout : float
        Probability that an adapter's input is dropped. [-]
    routers_are_linear : bool
        Whether ``all-linear`` includes routers, which most classes of transformers hold as a bare tensor.

    Raises
    ------
    UnknownNameError
        A method, option or dtype that is unknown; names the near miss.
    ScenarioError
        A value that contradicts the method.

    Examples
    --------
    >>> Adapter(method="lora", rank=16, target_modules=("q_proj", "v_proj")).rank_or_default
    16
    """

    method: str
    rank: Num | None = None
    target_modules: tuple[str, ...] | str | None = None
    target_parameters: tuple[str, ...] = ()
    exclude_modules: tuple[str, ...] | str = ()
    input_side_modules: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, Num] = field(default_factory=dict)
    bias: Bias = "none"
    frozen_modules: tuple[str, ...] = ()
    trained_modules: tuple[str, ...] = ()
    options: Mapping[str, float] = field(default_factory=dict)
    dtype: str = "fp32"
    dropout: float = 0.0
    routers_are_linear: bool = False

    def __post_init__(self) -> None:
        _check_names(self)
        spec = self.spec
        if self.rank is not None and spec.rank is None:
            raise ScenarioError(f"'{self.method}' has no rank", key="rank", hint=_option_hint(spec))
        ranks = {"rank": self.rank, **{f"rank_pattern.{key}": rank for key, rank in self.rank_pattern.items()}}
        for key, rank in ranks.items():
            if rank is not None and not all_true(rank > 0):
                raise ScenarioError(f"expected a rank above 0, got {rank}", key=key)
        if not 0 <= self.dropout < 1:
            raise ScenarioError(f"expected a probability below 1, got {self.dropout}", key="dropout")
        if self.method == "frozen" and not (self.frozen_modules or self.trained_modules):
            raise ScenarioError("'frozen' names no modules", key="frozen_modules")
        if self.method != "frozen" and (self.frozen_modules or self.trained_modules):
            raise ScenarioError(
                f"'{self.method}' freezes the base as a whole",
                key="frozen_modules",
                hint="method 'frozen' names modules",
            )
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ScenarioError(
                "layers are chosen among named modules, not beside a pattern",
                key="layers_to_transform",
                hint="name the layers in the pattern, or list the modules",
            )
        _check_patterns(self)

    @property
    def spec(self) -> Method:
        """Its method."""
        return METHODS[self.method]

    @property
    def rank_or_default(self) -> Num:
        """Rank of a module that no pattern names. [-]"""
        return self.rank if self.rank is not None else (self.spec.rank or 0)

    def option(self, name: str) -> float:
        """One of the method's further numbers, as given or by default."""
        return self.options.get(name, self.spec.options[name])

    def count(self, name: str) -> int:
        """The same as a whole number."""
        return int(self.option(name))

    @property
    def element_bits(self) -> int | float:
        """Bits of an element of what is added. [bit]"""
        return plain_format(self.dtype).element_bits

    @property
    def is_low_rank(self) -> bool:
        """Whether it is LoRA or one of its variants that run like it."""
        return self.method in ("lora", "rslora", "qlora", "dora", "lora-fa")


def _check_names(adapter: Adapter) -> None:
    if adapter.method not in METHODS:
        raise UnknownNameError(
            f"unknown method '{adapter.method}', expected one of {', '.join(METHODS)}",
            key="method",
            hint=near_miss(adapter.method, METHODS),
        )
    known = METHODS[adapter.method].options
    for name in adapter.options:
        if name not in known:
            raise UnknownNameError(
                f"'{adapter.method}' has no option '{name}'"
                + (f", expected one of {', '.join(known)}" if known else ", it takes none"),
                key=f"options.{name}",
                hint=near_miss(name, known),
            )
    if adapter.bias not in get_args(Bias):
        raise UnknownNameError(
            f"unknown bias '{adapter.bias}', expected one of {', '.join(get_args(Bias))}",
            key="bias",
            hint="peft's 'lora_only' is 'only'" if adapter.bias.endswith("_only") else None,
        )
    plain_format(adapter.dtype)


def _check_patterns(adapter: Adapter) -> None:
    patterns = {f"rank_pattern.{pattern}": pattern for pattern in adapter.rank_pattern}
    if isinstance(adapter.target_modules, str):
        patterns["target_modules"] = adapter.target_modules
    if isinstance(adapter.exclude_modules, str):
        patterns["exclude_modules"] = adapter.exclude_modules
    for key, pattern in patterns.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ScenarioError(f"'{pattern}' is no regular expression: {error}", key=key) from error


def _option_hint(spec: Method) -> str | None:
    return f"its options are {', '.join(spec.options)}" if spec.options else None
