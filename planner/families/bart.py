"""BART, mBART, Marian and Pegasus: encoder-decoders with learned or fixed absolute positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from planner.families.beside import LOGITS_BIAS, tensor
from planner.families.blocks import layer_norm, output_head, position_embedding, token_embedding
from planner.families.config import Dimension
from planner.families.family import Builder, Family
from planner.families.heads import head
from planner.families.seq2seq import Seq2SeqConfig, decoder_layers, encoder_layers
from planner.nodes import CROSS, SOURCE, TOKENS, Embedding, Module, Node, Tied
from planner.numeric import Num


class BartConfig(Seq2SeqConfig):
    """Keys of BART; the class assumes three labels, those of its own fine-tune."""

    # Written by the first converters: no class reads them, so that mBART's norms are there whatever they say.
    accepted_keys: ClassVar[frozenset[str]] = Seq2SeqConfig.accepted_keys | {
        "add_bias_logits",
        "add_final_layer_norm",
        "classif_dropout",
        "extra_pos_embeddings",
        "force_bos_token_to_be_generated",
        "normalize_before",
        "normalize_embedding",
        "replacing_rate",
        "save_step",
        "static_position_embeddings",
        "student_decoder_layers",
        "student_encoder_layers",
    }

    max_position_embeddings: Dimension = 1024
    num_labels: Dimension = 3


class MBartConfig(BartConfig):
    """Keys of mBART and Pegasus."""

    num_labels: Dimension = 2


class MarianConfig(MBartConfig):
    """Keys of Marian, whose two sides may have vocabularies of their own."""

    vocab_size: Dimension = 58101
    decoder_vocab_size: Dimension | None = None
    share_encoder_decoder_embeddings: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Make:
    """What tells the classes of these families apart.

    Attributes
    ----------
    prefix : str
        Of the classes' names.
    spare_positions : int
        Rows of the position tables that no token uses. [-]
    norm_after_embedding, norm_after_layers : bool
        Norms of each side besides those of its layers.
    """

    prefix: str
    spare_positions: int = 0
    norm_after_embedding: bool = False
    norm_after_layers: bool = False


BART = _Make(prefix="Bart", spare_positions=2, norm_after_embedding=True)
MBART = _Make(prefix="MBart", spare_positions=2, norm_after_embedding=True, norm_after_layers=True)
MARIAN = _Make(prefix="Marian")
PEGASUS = _Make(prefix="Pegasus", norm_after_layers=True)


def _decoder_vocabulary(config: BartConfig) -> Num:
    """Tokens of the decoder: the encoder's, but for some Marian models."""
    if isinstance(config, MarianConfig) and config.decoder_vocab_size is not None:
        return config.decoder_vocab_size
    return config.vocab_size


def _is_shared(config: BartConfig) -> bool:
    """Whether there is a table besides those of the two sides, which run with it where they are tied."""
    return not isinstance(config, MarianConfig) or config.share_encoder_decoder_embeddings


def _side(config: BartConfig, make: _Make, tokens: Embedding | Tied, blocks: Node) -> dict[str, Node]:
    width = config.d_model
    children: dict[str, Node] = {
        "embed_tokens": tokens,
        "embed_positions": position_embedding(config.max_position_embeddings + make.spare_positions, width),
        "layers": blocks,
    }
    if make.norm_after_embedding:
        children["layernorm_embedding"] = layer_norm(width)
    if make.norm_after_layers:
        children["layer_norm"] = layer_norm(width)
    return children


def _table(config: BartConfig, vocabulary: Num, shared: str) -> Embedding | Tied:
    table = token_embedding(vocabulary, config.d_model)
    return Tied(module=table, to=shared) if _is_shared(config) and config.tie_word_embeddings else table


def _model(config: BartConfig, make: _Make, base: str = "") -> Module:
    shared = f"{base}shared"
    encoder = _side(config, make, _table(config, config.vocab_size, shared), encoder_layers(config))
    tokens = _table(config, _decoder_vocabulary(config), shared)
    decoder = _side(config, make, tokens, decoder_layers(config, source=CROSS))
    own = {"shared": token_embedding(config.vocab_size, config.d_model)} if _is_shared(config) else {}
    return Module(
        children={
            **own,
            "encoder": Module(children=encoder, stream=SOURCE),
            "decoder": Module(children=decoder, stream=TOKENS),
        }
    )


def _generation(make: _Make) -> Builder:
    def build(config: BartConfig) -> Node:
        table = "model.shared" if _is_shared(config) else "model.decoder.embed_tokens"
        vocabulary = config.vocab_size if _is_shared(config) else _decoder_vocabulary(config)
        lm_head = output_head(config.d_model, vocabulary, table if config.tie_word_embeddings else None)
        return Module(children={"model": _model(config, make, "model."), "lm_head": lm_head})

    return build


def _causal_lm(make: _Make) -> Builder:
    """The decoder alone."""

    def build(config: BartConfig) -> Node:
        tokens = token_embedding(_decoder_vocabulary(config), config.d_model)
        decoder = Module(children=_side(config, make, tokens, decoder_layers(config, source=None)))
        tied = config.tie_word_embeddings
        # An untied matrix has the encoder's vocabulary, a slip of Marian's class.
        vocabulary = _decoder_vocabulary(config) if tied else config.vocab_size
        lm_head = output_head(config.d_model, vocabulary, "model.decoder.embed_tokens" if tied else None)
        return Module(children={"model": Module(children={"decoder": decoder}), "lm_head": lm_head})

    return build


def _over_samples(config: BartConfig) -> Mapping[str, Node]:
    width = config.d_model
    heads = {"dense": head(width, width, once=True), "out_proj": head(width, config.num_labels, once=True)}
    return {"classification_head": Module(children=heads)}


def _over_tokens(config: BartConfig) -> Mapping[str, Node]:
    return {"qa_outputs": head(config.d_model, 2)}


def _with_heads(make: _Make, heads: Callable[[BartConfig], Mapping[str, Node]]) -> Builder:
    return lambda config: Module(children={"model": _model(config, make, "model."), **heads(config)})


def _logits_bias(config: BartConfig, _: Mapping[str, Any]) -> Node:
    vocabulary = config.vocab_size if _is_shared(config) else _decoder_vocabulary(config)
    return Module(children={"final_logits_bias": tensor(LOGITS_BIAS, 1, vocabulary)})


def _family(
    model_type: str, config: type[BartConfig], make: _Make, *, generates: str = "ForConditionalGeneration", labels: bool
) -> Family:
    classes: dict[str, Builder] = {
        "Model": lambda config: _model(config, make),
        generates: _generation(make),
        "ForCausalLM": _causal_lm(make),
    }
    if labels:
        classes["ForSequenceClassification"] = _with_heads(make, _over_samples)
        classes["ForQuestionAnswering"] = _with_heads(make, _over_tokens)
    return Family(
        model_type=model_type,
        config=config,
        classes={f"{make.prefix}{name}": build for name, build in classes.items()},
        default_class=f"{make.prefix}{generates}",
        beside=_logits_bias,
    )


FAMILIES = (
    _family("bart", BartConfig, BART, labels=True),
    _family("mbart", MBartConfig, MBART, labels=True),
    _family("marian", MarianConfig, MARIAN, generates="MTModel", labels=False),
    _family("pegasus", MBartConfig, PEGASUS, labels=False),
)
