"""What happened: captures, event logs, summaries and lines on the terminal; listeners that are free when absent."""
