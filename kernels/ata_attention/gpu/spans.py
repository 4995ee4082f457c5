"""Where the tokens of each sequence of a padded batch lie.

Padding at the ends of a sequence, the usual kind, is told by two numbers, which spare the other kernels the
flags of a mask; only between tokens are they asked for.
"""

# mypy: disallow-untyped-defs=False
# Triton compiles these functions; their arguments have no Python types.

import triton
import triton.language as tl

from ata_attention.gpu.layout import is_token


@triton.jit
def spans_kernel(spans, tokens, n, BLOCK: tl.constexpr):
    """Program (sequence) writes its first token's row, the row behind its last one, and how many there are.

    `spans` is int32 `[B, 3]`, `tokens` uint8 `[B, N]`; a sequence without tokens has 0, 0, 0.
    """
    sequence = tl.program_id(0)
    tokens += sequence.to(tl.int64) * n
    lows = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
    highs = tl.zeros([BLOCK], tl.int32)
    count = tl.zeros([BLOCK], tl.int32)
    for first in tl.range(0, n, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        present = is_token(tokens, rows, n)
        lows = tl.minimum(lows, tl.where(present, rows, 0x7FFFFFFF))
        highs = tl.maximum(highs, tl.where(present, rows + 1, 0))
        count += present.to(tl.int32)
    high = tl.max(highs, 0)
    tl.store(spans + sequence * 3, tl.minimum(tl.min(lows, 0), high))
    tl.store(spans + sequence * 3 + 1, high)
    tl.store(spans + sequence * 3 + 2, tl.sum(count, 0))
