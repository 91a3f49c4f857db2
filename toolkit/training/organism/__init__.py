"""Training of an organism: who is born, who dies, what fitness is. The loop itself is the shared trainer's."""
