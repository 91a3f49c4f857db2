"""Crystals: symmetry, lattices found in data, Brillouin zones, bands, vibrations, diffraction.

"Refraction" is the name of the package only: what is computed is diffraction, the use of reciprocal space.
"""

from toolkit.geometry.core.crystal.refraction.bands import (
    Bands,
    band_structure,
    bloch_hamiltonian,
    finite_chain,
    plane_wave_bands,
)
from toolkit.geometry.core.crystal.refraction.diffraction import structure_factor
from toolkit.geometry.core.crystal.refraction.lattices import BravaisLattice, detect_lattice
from toolkit.geometry.core.crystal.refraction.phonons import Phonons, phonon_modes
from toolkit.geometry.core.crystal.refraction.symmetries import (
    Symmetries,
    compute_symmetries,
    image_symmetries,
)
from toolkit.geometry.core.crystal.refraction.tiles import suggest_tile_size
from toolkit.geometry.core.crystal.refraction.topology import chern_number, winding_number, zak_phase
from toolkit.geometry.core.crystal.refraction.zones import BrillouinZone, brillouin_zones, zone_number

__all__ = [
    "Bands",
    "BravaisLattice",
    "BrillouinZone",
    "Phonons",
    "Symmetries",
    "band_structure",
    "bloch_hamiltonian",
    "brillouin_zones",
    "chern_number",
    "compute_symmetries",
    "detect_lattice",
    "finite_chain",
    "image_symmetries",
    "phonon_modes",
    "plane_wave_bands",
    "structure_factor",
    "suggest_tile_size",
    "winding_number",
    "zak_phase",
    "zone_number",
]
