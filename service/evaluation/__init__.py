"""Two models compared by their answers to prompts with references: cases, scores, intervals, reports."""
