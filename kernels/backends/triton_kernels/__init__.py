"""The Triton kernels. Importing them needs Triton; everything about launching them does not."""
