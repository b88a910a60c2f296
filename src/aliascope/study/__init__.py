"""The five-phase study: tables and figures of any pair of models, from one measuring pass."""

from aliascope.study.runner import run_study
from aliascope.study.settings import PRESETS, StudySettings
from aliascope.study.summary import Summary

__all__ = ["PRESETS", "StudySettings", "Summary", "run_study"]
