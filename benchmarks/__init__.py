"""The side-by-side measurements behind `scripts/bench` and docs/performance.md. Standard library only; Linux, root."""
