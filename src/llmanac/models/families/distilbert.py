"""DistilBERT: BERT's form without types of tokens, under names of its own. Sanh et al. 2019, arXiv:1910.01108."""

from llmanac.models.families._config import Names
from llmanac.models.families._labels import Labels
from llmanac.models.families._table import ACTIVATIONS, Family, Key, Only
from llmanac.models.families.bert import FAMILY as BERT
from llmanac.models.families.bert import FFN, MIXER, masked_head

FAMILY = Family(
    architecture="DistilBertForMaskedLM",
    spec=BERT.spec,
    entries=(
        Key("vocab_size", "vocab_size", default=30522),
        Key("dim", "dim", default=768),
        Key("n_layers", "layers", default=6),
        Key("n_heads", f"{MIXER}.heads", default=12),
        Key("hidden_dim", f"{FFN}.width", default=3072),
        Key("activation", f"{FFN}.activation", ACTIVATIONS, default="gelu"),
        Key("max_position_embeddings", "position.rows", default=512, paths=("max_length",)),
        Only("sinusoidal_pos_embds", (False, True)),  # how the rows began; the files hold them
        masked_head("DistilBert", untied=True),
    ),
    names=(
        Names(
            layers="distilbert.transformer.layer.*.",
            table={
                "model.embed_tokens": "distilbert.embeddings.word_embeddings",
                "model.position.embeddings": "distilbert.embeddings.position_embeddings",
                "embed_norm": "distilbert.embeddings.LayerNorm",
                "self_attn.q_proj": "attention.q_lin",
                "self_attn.k_proj": "attention.k_lin",
                "self_attn.v_proj": "attention.v_lin",
                "self_attn.o_proj": "attention.out_lin",
                "post_attention_layernorm": "sa_layer_norm",
                "mlp.up_proj": "ffn.lin1",
                "mlp.down_proj": "ffn.lin2",
                "post_feedforward_layernorm": "output_layer_norm",
                "lm_head.dense": "vocab_transform",
                "lm_head.norm": "vocab_layer_norm",
                "lm_head": "vocab_projector",
            },
        ),
    ),
    writes={"dropout": 0.0, "attention_dropout": 0.0},
    neutral=frozenset(["dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"]),
    ignored=("embeddings.position_ids",),
    prefix="distilbert.",
    labels=Labels("classifier", "classifier", "pre_classifier", "", "first", "relu", "all"),
)
