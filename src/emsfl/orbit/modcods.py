"""From signal-to-noise ratio to bit rate: DVB-S2X, or Shannon's bound with a gap.

Both take the ratio of carrier to noise density, so that the noise bandwidth is theirs to choose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emsfl.orbit.config import DvbS2xConfig, ShannonConfig

Floats = NDArray[np.float64]

# (name, information bits per symbol, ideal Es/N0 in dB for quasi-error-free reception), normal
# frames without pilots on an AWGN channel. Only codes that no other beats at its Es/N0 are listed;
# QPSK 2/9 is left out, for it is sent in frames for very low ratios. "-L" codes are for linear
# channels.
# Source: ETSI EN 302 307-1, table 13 (DVB-S2), and EN 302 307-2 V1.1.1, table 20a (DVB-S2X). The
# standards were not read themselves: the rows of DVB-S2X are those of github.com/harrison-caudill/
# pylink (modulation.py, "page 52"), the rows of DVB-S2 agree with public simulators, and a test
# derives every efficiency from the size of its frame.
MODCODS = (
    ("QPSK 1/4", 0.490243, -2.35),
    ("QPSK 13/45", 0.567805, -2.03),
    ("QPSK 1/3", 0.656448, -1.24),
    ("QPSK 2/5", 0.789412, -0.30),
    ("QPSK 9/20", 0.889135, 0.22),
    ("QPSK 1/2", 0.988858, 1.00),
    ("QPSK 11/20", 1.088581, 1.45),
    ("QPSK 3/5", 1.188304, 2.23),
    ("QPSK 2/3", 1.322253, 3.10),
    ("QPSK 3/4", 1.487473, 4.03),
    ("QPSK 4/5", 1.587196, 4.68),
    ("8APSK 5/9-L", 1.647211, 4.73),
    ("8APSK 26/45-L", 1.713601, 5.13),
    ("8PSK 3/5", 1.779991, 5.50),
    ("16APSK 1/2-L", 1.972253, 5.97),
    ("16APSK 8/15-L", 2.104850, 6.55),
    ("16APSK 5/9-L", 2.193247, 6.84),
    ("16APSK 3/5-L", 2.370043, 7.41),
    ("16APSK 28/45", 2.458441, 8.10),
    ("16APSK 23/36", 2.524739, 8.38),
    ("16APSK 2/3-L", 2.635236, 8.43),
    ("16APSK 25/36", 2.745734, 9.27),
    ("16APSK 13/18", 2.856231, 9.71),
    ("16APSK 3/4", 2.966728, 10.21),
    ("16APSK 7/9", 3.077225, 10.65),
    ("16APSK 4/5", 3.165623, 11.03),
    ("32APSK 2/3-L", 3.289502, 11.10),
    ("16APSK 5/6", 3.300184, 11.61),
    ("32APSK 32/45", 3.510192, 11.75),
    ("32APSK 11/15", 3.620536, 12.17),
    ("32APSK 3/4", 3.703295, 12.73),
    ("32APSK 7/9", 3.841226, 13.05),
    ("32APSK 4/5", 3.951571, 13.64),
    ("64APSK 32/45-L", 4.206428, 13.98),
    ("64APSK 11/15", 4.338659, 14.81),
    ("64APSK 7/9", 4.603122, 15.47),
    ("64APSK 4/5", 4.735354, 15.87),
    ("64APSK 5/6", 4.933701, 16.55),
    ("256APSK 29/45-L", 5.065690, 16.98),
    ("256APSK 2/3-L", 5.241514, 17.24),
    ("256APSK 31/45-L", 5.417338, 18.10),
    ("256APSK 32/45", 5.593162, 18.59),
    ("256APSK 11/15-L", 5.768987, 18.84),
    ("256APSK 3/4", 5.900855, 19.57),
)
_EFFICIENCY = np.array([0.0, *(bits for _, bits, _ in MODCODS)])
_THRESHOLD_dB = np.array([ratio for _, _, ratio in MODCODS])


def bit_rate(
    modem: DvbS2xConfig | ShannonConfig, carrier_to_density_dBHz: Floats, bandwidth_Hz: float
) -> Floats:
    """Return the bit rate in bit/s, 0 where the signal is too weak for the lowest mode.

    Args:
        modem: how bits are sent.
        carrier_to_density_dBHz: C/N0, any shape.
        bandwidth_Hz: occupied bandwidth.
    """
    if isinstance(modem, DvbS2xConfig):
        symbols_Hz = bandwidth_Hz / (1 + modem.roll_off)
        ratio_dB = carrier_to_density_dBHz - 10 * np.log10(symbols_Hz) - modem.margin_dB
        modes = np.searchsorted(_THRESHOLD_dB, ratio_dB, side="right")
        sent_bps: Floats = symbols_Hz * _EFFICIENCY[modes]
        return sent_bps
    ratio_dB = carrier_to_density_dBHz - 10 * np.log10(bandwidth_Hz) - modem.gap_dB
    efficiency = np.log2(1 + 10 ** (ratio_dB / 10))
    sent = np.minimum(efficiency, modem.max_bits_per_symbol)
    rate: Floats = bandwidth_Hz * np.where(efficiency >= modem.min_bits_per_symbol, sent, 0.0)
    return rate
