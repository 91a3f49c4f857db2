"""Networks for edge devices that are made from a typed config: one module a blueprint."""
