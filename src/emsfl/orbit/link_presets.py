"""Link budgets of 3GPP's satellite study, and services known by their throughput only.

The study, TR 38.821 V16.0.0, was not read itself. Its tables are taken from public transcriptions:
the parameters of satellites and terminals (tables 6.1.1.1-1 and -3, set 1) from the calibration
script of QuaDRiGa (github.com/fraunhoferhhi/QuaDRiGa, tutorials/calib_3GPP_38821_ntn.m) and the
defaults of NetSim (tetcos.com, 5G NTN, "Link budget"); the losses and results (table 6.1.3.3-1,
cases 6 and 9) from simulators that quote its rows, and from the tests of OpenNTN
(github.com/ant-uni-bremen/OpenNTN, tests/Link_Budget_test.py).
"""

from __future__ import annotations

from emsfl.orbit.config import BudgetConfig, CarrierConfig, LinkConfig, LinkPreset, ShannonConfig

# Efficiencies of NR's lowest and highest mode: TS 38.214 V16.2.0, table 5.1.3.1-1, index 0 and 28.
# The gap of 3 dB is an assumption of this project.
_NR = ShannonConfig(gap_dB=3.0, min_bits_per_symbol=0.2344, max_bits_per_symbol=5.5547)


def _handheld(satellite_dBW_MHz: float) -> BudgetConfig:
    """Return the S-band handheld: 23 dBm into 0 dBi, noise figure 7 dB, antenna at 290 K.

    Losses at 30 degrees: 0.1 dB of gas, 2.2 dB of scintillation, 3 dB of shadowing. The table says
    0.4 MHz up; its result follows from two NR resource blocks, 0.36 MHz.
    """
    return BudgetConfig(
        uplink=CarrierConfig(
            frequency_Hz=2e9,
            bandwidth_Hz=0.36e6,
            eirp_dBW=-7.0,
            g_over_t_dB_K=1.1,
            zenith_attenuation_dB=0.05,
            scintillation_dB=2.2,
            margin_dB=3.0,
        ),
        downlink=CarrierConfig(
            frequency_Hz=2e9,
            bandwidth_Hz=30e6,
            eirp_dBW=satellite_dBW_MHz + 14.77,  # 10 log 30
            g_over_t_dB_K=-31.6,
            zenith_attenuation_dB=0.05,
            scintillation_dB=2.2,
            margin_dB=3.0,
        ),
        modem=_NR,
    )


def _vsat(satellite_dBW_MHz: float) -> BudgetConfig:
    """Return the Ka-band VSAT: 33 dBm into 43.2 dBi (60 cm), G/T 15.9 dB/K.

    That is 39.7 dBi, noise figure 1.2 dB, antenna at 150 K. Losses at 30 degrees: 0.5 dB of gas,
    0.3 dB of scintillation.
    """
    return BudgetConfig(
        uplink=CarrierConfig(
            frequency_Hz=30e9,
            bandwidth_Hz=400e6,
            eirp_dBW=46.2,
            g_over_t_dB_K=13.0,
            zenith_attenuation_dB=0.25,
            scintillation_dB=0.3,
        ),
        downlink=CarrierConfig(
            frequency_Hz=20e9,
            bandwidth_Hz=400e6,
            eirp_dBW=satellite_dBW_MHz + 26.02,  # 10 log 400
            g_over_t_dB_K=15.9,
            zenith_attenuation_dB=0.25,
            scintillation_dB=0.3,
        ),
        modem=_NR,
    )


LINK_PRESETS: dict[LinkPreset, LinkConfig] = {
    LinkPreset.HANDHELD_LEO600: LinkConfig(budget=_handheld(34.0)),
    LinkPreset.HANDHELD_LEO1200: LinkConfig(budget=_handheld(40.0)),
    LinkPreset.VSAT_LEO600: LinkConfig(budget=_vsat(4.0)),
    LinkPreset.VSAT_LEO1200: LinkConfig(budget=_vsat(10.0)),
    # The highest rates of the service as resellers and integrators repeat them from Iridium.
    LinkPreset.IRIDIUM_CERTUS_700: LinkConfig(uplink_bps=352e3, downlink_bps=704e3),
    # Ookla, "2025 Global Satellite Broadband Performance Report": 117.74 down, 16.91 up, median of
    # Starlink in the United States, as reported by Telecompetitor.
    LinkPreset.STARLINK_US_2025: LinkConfig(uplink_bps=16.9e6, downlink_bps=117.7e6),
}


def resolve(link: LinkConfig) -> LinkConfig:
    """Return `link` with its preset, if it names one, put in place."""
    if link.preset is None:
        return link
    return LINK_PRESETS[link.preset].model_copy(update={"rain": link.rain})
