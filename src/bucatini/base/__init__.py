"""Words everybody uses: addresses, verdicts, drop reasons, events, errors. Imports nothing of ours."""
