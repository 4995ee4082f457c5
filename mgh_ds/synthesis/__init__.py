"""From an open LLM to graded records: tasks, samples, a frozen plan, an exactly-once journal, and an
audit."""
