"""Prompts in, samples out: reads prompt files, asks the engines, rewards what comes back. Knows no trainer."""
