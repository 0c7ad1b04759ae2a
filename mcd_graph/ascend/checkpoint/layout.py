"""Two layouts of a W8A8SC folder: vLLM-Ascend's ``sharded_state`` and MindIE's ``partN-of-M``. They do not mix."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mcd_graph.errors import InputError

__all__ = ["LAYOUTS", "Layout"]

_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_MINDIE_NAMES = (
    (r"^model\.embed_tokens\.", "transformer.wte."),
    (r"^model\.norm\.", "transformer.ln_f."),
    (r"^model\.layers\.", "transformer.h."),
    (r"\.self_attn\.qkv_proj\.", ".attn.c_attn."),
    (r"\.self_attn\.o_proj\.", ".attn.c_proj."),
    (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.gate_up_proj\.", ".mlp.w2_w1."),
    (r"\.mlp\.down_proj\.", ".mlp.c_proj."),
    (r"\.input_layernorm\.", ".ln_1."),
    (r"\.post_attention_layernorm\.", ".ln_2."),
)
_MINDIE_MODELS = ("qwen2", "qwen3")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a loader wants its files.

    Attributes:
        name: of the layout.
        fused: layers that are one where they were several, by the new one's name.
    """

    name: str
    fused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: _FUSED)

    @property
    def is_mindie(self) -> bool:
        """Whether MindIE reads it."""
        return self.name == "mindie"

    def check(self, config: Mapping[str, Any]) -> None:
        """Check that the names that this loader gives the model's layers are known.

        Raises:
            InputError: they are not.
        """
        model = config.get("model_type")
        if self.is_mindie and model not in _MINDIE_MODELS:
            known = " and ".join(_MINDIE_MODELS)
            raise InputError(f"what MindIE calls the layers of a {model!r} model is not known here; it is of {known}")

    def file(self, rank: int, ranks: int) -> str:
        """Return the path of a rank's file in the folder."""
        if self.is_mindie:
            return f"part{rank}-of-{ranks}/quant_model_weight_w8a8sc.safetensors"
        return f"model-rank-{rank}-part-0.safetensors"

    @property
    def patterns(self) -> tuple[str, ...]:
        """What files of any rank look like."""
        return ("part*-of-*/*.safetensors",) if self.is_mindie else ("model-rank-*-part-*.safetensors",)

    def tensor(self, name: str) -> str:
        """Return what this loader calls a tensor of the fused model."""
        if self.is_mindie:
            for pattern, replacement in _MINDIE_NAMES:
                name = re.sub(pattern, replacement, name)
        return name


LAYOUTS = {name: Layout(name) for name in ("vllm", "mindie")}
