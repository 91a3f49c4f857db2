"""What computing with tensors takes, and how to take less: memory, batches, threads, devices."""
