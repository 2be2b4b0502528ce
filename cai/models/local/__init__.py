"""Models on this machine: torch, transformers, peft and bitsandbytes live here and go no further up than this room.

Nothing is imported by the package itself, so that `cai.models.local.spec` stays free of torch.
"""
