"""The `orchestrator` command: what people type, and how results and failures are shown."""
