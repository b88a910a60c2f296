"""The five-phase study: tables and figures of any pair of models, from one measuring pass."""

from aliascope.study.presets import PRESETS, Plan
from aliascope.study.runner import run_study
from aliascope.study.summary import Summary

__all__ = ["PRESETS", "Plan", "Summary", "run_study"]
