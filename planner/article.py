"""The formulas of a popular article that counts BERT by hand, beside the exact ones.

They are kept as the example of what goes wrong: a third of the encoder is missing, nearly all of it because the
attention is divided by the number of heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.counts import count
from planner.families.bert import BertConfig
from planner.models import Model
from planner.numeric import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One formula of the article against the model.

    Attributes
    ----------
    what : str
        What it counts.
    formula, exact_formula : str
        The article's and the right one, in H (hidden_size), A (num_attention_heads), V, P, T, L and F.
    claimed, exact : int
        What they give for the whole model. [-]
    why : str
        What the article leaves out.
    """

    what: str
    formula: str
    exact_formula: str
    claimed: Num
    exact: Num
    why: str

    @property
    def error(self) -> Num:
        """Claimed minus exact. [-]"""
        return self.claimed - self.exact


def applies_to(model: Model) -> bool:
    """Whether the article is about this model."""
    return model.family.model_type == "bert"


def claims(model: Model) -> list[Claim]:
    """Each formula of the article, then the encoder and the whole BertModel.

    The exact side is counted on the tree of BertModel, not typed again.
    """
    config = model.config
    assert isinstance(config, BertConfig)  # noqa: S101 - `applies_to` is asked first
    hidden, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    exact = count(model.family.classes["BertModel"](config)).breakdown
    tables = sum(exact[name] for name in ("embeddings.token", "embeddings.position", "embeddings.type"))
    claimed_tables = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * hidden
    attention = layers * (3 * hidden**2 // heads)
    feed_forward = layers * (8 * hidden**2 + 2 * hidden)
    embedding_norm = 2 * hidden
    encoder = exact["attention"] + exact["mlp"] + exact["norms"] - embedding_norm
    return [
        Claim(
            what="embeddings",
            formula="(V + P + T) H",
            exact_formula="(V + P + T) H",
            claimed=claimed_tables,
            exact=tables,
            why="right",
        ),
        Claim(
            what="attention",
            formula="L (3 H^2 / A)",
            exact_formula="L (4 H^2 + 4 H)",
            claimed=attention,
            exact=exact["attention"],
            why="one head in place of A, no output projection, no biases",
        ),
        Claim(
            what="feed-forward",
            formula="L (8 H^2 + 2 H)",
            exact_formula="L (2 H F + F + H)",
            claimed=feed_forward,
            exact=exact["mlp"],
            why="with F = 4 H the biases are 5 H",
        ),
        Claim(
            what="LayerNorm",
            formula="0",
            exact_formula="2 H + L (4 H)",
            claimed=0,
            exact=exact["norms"],
            why="a LayerNorm keeps no mean and variance, but a gain and a bias",
        ),
        Claim(
            what="pooler",
            formula="0",
            exact_formula="H^2 + H",
            claimed=0,
            exact=exact["other.pooler"],
            why="left out",
        ),
        Claim(
            what="encoder layers",
            formula="L (3 H^2 / A + 8 H^2 + 2 H)",
            exact_formula="L (4 H^2 + 2 H F + 9 H + F)",
            claimed=attention + feed_forward,
            exact=encoder,
            why="the sum of the above",
        ),
        Claim(
            what="BertModel",
            formula="(V + P + T) H + L (3 H^2 / A + 8 H^2 + 2 H)",
            exact_formula="(V + P + T + 2) H + L (4 H^2 + 2 H F + 9 H + F) + H^2 + H",
            claimed=claimed_tables + attention + feed_forward,
            exact=sum(exact.values()),
            why="the sum of the above",
        ),
    ]
