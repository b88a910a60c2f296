"""Rows → figures: the study's fifteen, a module each with one function `draw`.

They take frames (and spectra) and compute nothing but axes. Only this package loads matplotlib, and
never pyplot: a figure is an object that nobody has to close.
"""

from aliascope.figures import (
    attribution,
    avr_comparison,
    fig1_layerwise_power_spectra,
    fig2_radial_profiles,
    fig4_avr_vs_frequency,
    fig5_layerwise_avr_comparison,
    fig6_aliasing_folding,
    fig7_layerwise_mean_avr,
    fig8_avr_distributions,
    fig9_radial_profiles_natural,
    fig10_avr_sis_scatter,
    fig11_correlation_comparison,
    fig12_sis_distributions,
    fig13_avr_intervention,
    fig14_tradeoff,
    fig15_radial_overlay,
    methods_front,
)
from aliascope.figures._style import save

FIGURES = (
    "fig1_layerwise_power_spectra",
    "fig2_radial_profiles",
    "avr_comparison",
    "fig4_avr_vs_frequency",
    "fig5_layerwise_avr_comparison",
    "fig6_aliasing_folding",
    "fig7_layerwise_mean_avr",
    "fig8_avr_distributions",
    "fig9_radial_profiles_natural",
    "fig10_avr_sis_scatter",
    "fig11_correlation_comparison",
    "fig12_sis_distributions",
    "fig13_avr_intervention",
    "fig14_tradeoff",
    "fig15_radial_overlay",
)
"""Names of the modules, and of the files that the study writes, in its order."""

__all__ = [
    "FIGURES",
    "attribution",
    "avr_comparison",
    "fig1_layerwise_power_spectra",
    "fig2_radial_profiles",
    "fig4_avr_vs_frequency",
    "fig5_layerwise_avr_comparison",
    "fig6_aliasing_folding",
    "fig7_layerwise_mean_avr",
    "fig8_avr_distributions",
    "fig9_radial_profiles_natural",
    "fig10_avr_sis_scatter",
    "fig11_correlation_comparison",
    "fig12_sis_distributions",
    "fig13_avr_intervention",
    "fig14_tradeoff",
    "fig15_radial_overlay",
    "methods_front",
    "save",
]
