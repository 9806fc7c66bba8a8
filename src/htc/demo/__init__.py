"""The bundled demonstration: train on cell nuclei, evaluate and draw."""
