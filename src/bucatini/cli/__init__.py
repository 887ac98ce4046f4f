"""Arguments to configuration to engine: the commands, what they print and their exit statuses; one file per verb."""
