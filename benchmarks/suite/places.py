"""Sixteen remote places, for the scenarios that give their sites themselves."""

PLACES = (
    ("Svalbard", 78.23, 15.41),  # polar station; a sea cable
    ("Pilbara", -22.69, 117.79),  # iron mines; fibre along the railways
    ("Iquitos", -3.74, -73.25),  # no road leads there
    ("Patagonia", -46.55, -70.93),  # farms
    ("Pokhara", 28.21, 83.99),  # Himalaya
    ("Timbuktu", 16.77, -3.01),  # Sahara
    ("Norilsk", 69.35, 88.20),  # nickel mines
    ("Tahiti", -17.53, -149.57),  # South Pacific
    ("Goma", -1.67, 29.22),  # Great Lakes
    ("Nuuk", 64.18, -51.72),  # Greenland
    ("Kerguelen", -49.35, 70.22),  # French southern lands
    ("Petropavlovsk", 53.02, 158.65),  # Kamchatka
    ("Dawson", 64.06, -139.43),  # Yukon
    ("Merauke", -8.49, 140.40),  # New Guinea
    ("Tristan", -37.07, -12.31),  # South Atlantic
    ("Manaus", -3.12, -60.02),  # Amazon
)
"""(name, latitude in degrees north, longitude in degrees east)."""


def sites(number: int) -> str:
    """Return the first `number` places as an override of a config."""
    listed = [
        f"{{name: {name}, latitude_deg: {north}, longitude_deg: {east}}}"
        for name, north, east in PLACES[:number]
    ]
    return f"orbit.sites=[{', '.join(listed)}]"
