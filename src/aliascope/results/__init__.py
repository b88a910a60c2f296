"""What every result shares: numbers as text, files in one step, findings in words.

text     → tables, JSON, names that are safe as files
files    → written whole or not at all, locked, told from others'
verdicts → what was found, in a sentence
"""
