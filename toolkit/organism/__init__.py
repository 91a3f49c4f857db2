"""An attention encoder whose components live in a pool: born, judged, archived, faded out."""
