"""Measure a sweep: `python tests/benchmarks/bench_sweep.py [ROWS]`.

Three grids of about ROWS rows, 100,000 unless told: one whose rows are models, formats and GPUs of the catalog, one
whose every row is another model, so that nothing is shared, and one of an engine's start-ups. Imports and the first
look at the catalog are not counted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pyarrow.csv  # noqa: F401 - imports are not part of what is measured

from planner.devices import load_devices
from planner.sweep import sweep
from planner.sweep.write import write

CATALOG = """
model: [bert-base-uncased, gpt2, meta-llama/Llama-3.1-8B, Qwen/Qwen3-8B, deepseek-ai/DeepSeek-V3]
mode: [inference, training]
weights: [bf16, fp8, int4]
precision: [bf16, bf16-master, megatron]
optimizer: adamw
gpu: all
batch_size: {{start: 1, stop: {batches}, step: 1}}
sequence_length: 512
"""

DIMENSIONS = """
model: meta-llama/Llama-3.1-8B
set:
  hidden_size: {{start: 512, stop: 16384, step: 512}}
  num_hidden_layers: {{start: 1, stop: {layers}, step: 1}}
  intermediate_size: [4096, 8192, 14336, 28672]
gpu: H100
"""

SERVING = """
model: [meta-llama/Llama-3.1-8B, Qwen/Qwen3-30B-A3B, deepseek-ai/DeepSeek-V3, google/gemma-3-27b-it, openai/gpt-oss-20b]
engine: vllm 0.19
kv_cache_dtype: [auto, fp8]
gpu: [L4, L40S, A100 SXM4 80GB, H100 SXM5 80GB, H200, B200]
tp: [1, 2, 4, 8]
max_num_seqs: [16, 64, 256, 1024]
max_model_len: {{start: 64, stop: {longest}, step: 64}}
"""


def main(rows: int) -> None:
    """Print the seconds that evaluation and writing take."""
    per_batch = 5 * 6 * len(load_devices())
    grids = {
        "catalog": CATALOG.format(batches=max(1, rows // per_batch)),
        "dimensions": DIMENSIONS.format(layers=max(1, rows // (32 * 4))),
        "serving": SERVING.format(longest=64 * max(1, rows // (5 * 2 * 6 * 4 * 4))),
    }
    with tempfile.TemporaryDirectory() as folder:
        sweep(_saved(folder, "warm", "model: gpt2\ngpu: all"))
        for name, text in grids.items():
            path = _saved(folder, name, text)
            start = time.perf_counter()
            report = sweep(path, confirmed=True)
            evaluated = time.perf_counter()
            write(report, str(Path(folder) / "report.csv"), "csv")
            written = time.perf_counter()
            print(  # noqa: T201 - a benchmark reports to its terminal
                f"{name}: {report.rows:,} rows x {len(report.columns)} columns, "
                f"evaluated in {evaluated - start:.3f} s, written as CSV in {written - evaluated:.3f} s"
            )


def _saved(folder: str, name: str, text: str) -> Path:
    path = Path(folder) / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
