"""GGUF file ↔ weights as transformers names them: a Llama model is read dequantised, a LoRA adapter for it is written.

llama.cpp rotates neighbouring pairs of a head's rows where transformers rotates its two halves, so GGUF files hold the rows of
q and k in another order. Both directions are here, side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from errors import UsageError

LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
REST = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LINEAR = tuple(LAYER.values())[:7]  # what an adapter is put on


def load(path: Path) -> LlamaForCausalLM:
    """The model of a GGUF file in 32-bit floats: what is trained on is what is served. Raises UsageError for other families."""
    reader = gguf.GGUFReader(path)

    def value(name: str) -> Any:
        field = reader.get_field(name)
        return field.contents() if field is not None else None

    if value("general.architecture") != "llama":
        raise UsageError(f"{path.name} is of the family {value('general.architecture')}.", "Adapters are trained for Llama models only.")
    heads, groups = int(value("llama.attention.head_count")), int(value("llama.attention.head_count_kv"))
    weights: dict[str, Tensor] = {}
    for each in reader.tensors:
        array = gguf.dequantize(each.data, each.tensor_type)
        if ".attn_q." in each.name or ".attn_k." in each.name:
            array = to_halves(array, heads if ".attn_q." in each.name else groups)
        weights[_theirs(each.name)] = torch.from_numpy(numpy.array(array, dtype=numpy.float32))
    width = weights["model.embed_tokens.weight"].shape[1]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=weights["model.embed_tokens.weight"].shape[0], hidden_size=width,
            intermediate_size=int(value("llama.feed_forward_length")), num_hidden_layers=int(value("llama.block_count")),
            num_attention_heads=heads, num_key_value_heads=groups, head_dim=width // heads,
            rms_norm_eps=float(value("llama.attention.layer_norm_rms_epsilon")),
            max_position_embeddings=int(value("llama.context_length")), tie_word_embeddings="lm_head.weight" not in weights,
            rope_parameters={"rope_type": "default", "rope_theta": float(value("llama.rope.freq_base") or 10_000)},
            attn_implementation="eager",  # packs have masks of their own: a fifth faster here than fused
        )
    )  # fmt: skip
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) - {"lm_head.weight"} or set(unexpected) - {"rope_freqs.weight"}:
        raise UsageError(f"{path.name} holds other tensors than a Llama model: {[*missing, *unexpected][:3]}.", "Use another file.")
    return model


def write_adapter(path: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], model: LlamaForCausalLM, alpha: float, about: str) -> None:
    """Writes A (rank × inputs) and B (outputs × rank) of each adapted layer as 16-bit floats.

    Args:
        pairs: transformers' name of a linear layer ("model.layers.0.self_attn.q_proj") → its A and B.
        alpha: the adapter adds alpha / rank · B · A.
        about: JSON of how it was made, kept as `footnote.training`.
    """
    ours = {theirs: name for name, theirs in LAYER.items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_string("footnote.training", about)
    for name, (a, b) in pairs.items():
        layer, kind = name.removeprefix("model.layers.").split(".", 1)
        rows = b.detach().float().numpy()
        if ours[kind] in ("attn_q", "attn_k"):
            rows = to_pairs(rows, model.config.num_attention_heads if ours[kind] == "attn_q" else model.config.num_key_value_heads)
        tensor = f"blk.{layer}.{ours[kind]}.weight"
        writer.add_tensor(f"{tensor}.lora_a", a.detach().float().numpy().astype(numpy.float16))
        writer.add_tensor(f"{tensor}.lora_b", numpy.ascontiguousarray(rows, dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def to_halves(rows: numpy.ndarray[Any, Any], heads: int) -> numpy.ndarray[Any, Any]:
    """Rows in GGUF's order (pairs side by side) → transformers' (first halves, then second halves) in each head."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def to_pairs(rows: numpy.ndarray[Any, Any], heads: int) -> numpy.ndarray[Any, Any]:
    """The other way round."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _theirs(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER.get(parts[2], parts[2])}.weight"
    return f"{REST.get(parts[0], parts[0])}.weight"
