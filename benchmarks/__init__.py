# SPDX-License-Identifier: BSD-3-Clause
"""Speed and memory, measured side by side with peers. `benchmarks/run --help`."""
