"""Stands in for the CUDA-only `sgl_kernel` wheel in an SGLang server on a CPU. Only `cpu_launch.py` puts it on a path.

SGLang's CPU engine runs torch's own code for every operation of a dense model, yet imports these names (helpers of
speculative decoding, moving of KV caches) when its modules load. They exist so that the imports work; a call raises.
"""

from collections.abc import Callable


def _missing(name: str) -> Callable[..., object]:
    def kernel(*args: object, **kw: object) -> object:
        raise NotImplementedError(f"sgl_kernel.{name} does not exist on a CPU")

    return kernel


assign_draft_cache_locs_contiguous_cpu = _missing("assign_draft_cache_locs_contiguous_cpu")
assign_extend_cache_locs_cpu = _missing("assign_extend_cache_locs_cpu")
assign_req_to_token_pool_cpu = _missing("assign_req_to_token_pool_cpu")
build_tree_kernel_efficient_cpu = _missing("build_tree_kernel_efficient_cpu")
copy_all_layer_kv_cache_cpu = _missing("copy_all_layer_kv_cache_cpu")
fill_accept_out_cache_loc_cpu = _missing("fill_accept_out_cache_loc_cpu")
fill_bonus_tokens_cpu = _missing("fill_bonus_tokens_cpu")
rotate_input_ids_cpu = _missing("rotate_input_ids_cpu")
verify_tree_greedy_cpu = _missing("verify_tree_greedy_cpu")
