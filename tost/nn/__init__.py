"""Modules: the layers that call the operator, and the small parts around them."""

from tost.nn.block import Block
from tost.nn.causal import CausalTSSA
from tost.nn.causal_block import CausalBlock
from tost.nn.class_attention import ClassAttention, ClassAttentionBlock
from tost.nn.context import context_parallel
from tost.nn.drop_path import DropPath
from tost.nn.mixers import MIXERS, make_mixer
from tost.nn.mlp import Mlp
from tost.nn.patch_embed import ConvPatchEmbed
from tost.nn.positions import FourierPositions
from tost.nn.split import Split
from tost.nn.tssa import TSSA
from tost.nn.tssa2d import TSSA2d
from tost.nn.walk import init_weights, no_weight_decay, use_backend

__all__ = [
    "MIXERS",
    "TSSA",
    "Block",
    "CausalBlock",
    "CausalTSSA",
    "ClassAttention",
    "ClassAttentionBlock",
    "ConvPatchEmbed",
    "DropPath",
    "FourierPositions",
    "Mlp",
    "Split",
    "TSSA2d",
    "context_parallel",
    "init_weights",
    "make_mixer",
    "no_weight_decay",
    "use_backend",
]
