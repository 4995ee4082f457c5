"""The Triton backend: flash attention that also returns the column sums, forward and backward.

Nothing here is imported until the backend is asked for. `ops` is its surface: the operators as PyTorch knows
them. `launch` sizes grids and starts the kernels of `attention`, `column_sums`, `fused` and `backward`;
these share the device functions of `layout`, and take their tile sizes from `tiles`.

Every kernel owns the rows that it writes: a program adds up in a fixed order and stores once. There is no
atomic operation, so two runs on the same chip give the same bits.
"""
